"""Which families there are, and the presets that ship with them."""

import json
import sys
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from vlm4vla import registry
from vlm4vla.backbones._tiny import tiny_tokenizer
from vlm4vla.backbones.base import BackboneFamily
from vlm4vla.types import refuse


def family(name: str) -> BackboneFamily:
    found: BackboneFamily = registry.find("backbones", name).Family()
    return found


def every() -> list[BackboneFamily]:
    """All families. One may bring a model of its own: the library knows its type when the file has been imported."""
    return [family(name) for name in registry.names("backbones")]


def family_of(model_type: str, checkpoint: str) -> BackboneFamily:
    """The family that runs a ``model_type``; refuses one that nobody runs."""
    families = every()
    for one in families:
        if model_type in one.model_types:
            return one
    raise refuse(
        f"{checkpoint!r} is a model of type {model_type!r}, which no family here runs",
        given=model_type,
        possible=sorted(kind for one in families for kind in one.model_types),
        todo="Choose another VLM, or write its family: one file, see ARCHITECTURE.md.",
    )


def preset_names(of: BackboneFamily) -> list[str]:
    return sorted(file.stem for file in _presets(of).glob("*.json"))


def preset(of: BackboneFamily, name: str) -> dict[str, Any]:
    """The preset's file: ``config`` (as transformers reads it), ``image_size``, ``source``, ``published`` id."""
    if name not in preset_names(of):
        raise refuse(
            f"Unknown preset {name!r} of family {of.name!r}",
            given=name,
            possible=preset_names(of),
            todo=f"Use preset:{preset_names(of)[-1]} or another of these, a Hugging Face id, or a folder.",
        )
    found: dict[str, Any] = json.loads((_presets(of) / f"{name}.json").read_text())
    return found


def preset_parts(
    of: BackboneFamily, name: str, tokenizer: PreTrainedTokenizerBase | None = None
) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """Configuration and tokenizer of a preset; without ``tokenizer`` the small one, plus the family's tokens.

    The configuration's token ids are those of the tokenizer, so a preset runs with either.
    """
    plain = dict(preset(of, name)["config"])
    config = AutoConfig.for_model(plain.pop("model_type"), **plain)
    tokenizer = tokenizer or tiny_tokenizer(of.special_tokens, pad=of.pad_token, eos=of.eos_token)
    for setting, token in of.token_ids.items():
        *parents, last = setting.split(".")
        target = config
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, last, int(tokenizer.convert_tokens_to_ids(token)))
    return config, tokenizer


def _presets(of: BackboneFamily) -> Path:
    file = sys.modules[type(of).__module__].__file__
    assert file is not None
    return Path(file).parent / "presets" / of.name
