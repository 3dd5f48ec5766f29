"""A task file with its pictures, and a whole tiny VLM in a folder as transformers saves it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from vlm4vla.backbones import conformance

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "white": (250, 250, 250)}


def whole(folder: Path, family: str = "qwen3_vl", preset: str = "tiny") -> Any:
    """The library's model with its language head, random weights, saved with its tokenizer; returned as it was made."""
    source = conformance.tiny(family, preset)
    torch.manual_seed(3)
    model = AutoModelForImageTextToText.from_config(source.model_config).eval()
    source.family.complete_scratch(model.base_model)
    model.save_pretrained(folder)
    source.processor.tokenizer.save_pretrained(folder)
    return model


def rows(count: int = 8, choices: bool = True) -> list[dict[str, Any]]:
    """Questions about the colour of one-coloured pictures."""
    names = list(COLOURS)
    found = []
    for i in range(count):
        row = {"id": f"q{i}", "images": [f"{i}.png"], "question": "Which colour is it?", "answer": names[i % 4]}
        found.append(row | ({"choices": names} if choices else {}))
    return found


def write(file: Path, questions: list[dict[str, Any]]) -> Path:
    """The task file, and noisy pictures of the colours for all that it names."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i, name in enumerate(dict.fromkeys(picture for row in questions for picture in row["images"])):
        noise = rng.normal(0, 10, (96, 96, 3))
        plane = np.clip(np.array(list(COLOURS.values())[i % 4]) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(plane).save(file.parent / name)
    file.write_text("".join(json.dumps(row) + "\n" for row in questions))
    return file
