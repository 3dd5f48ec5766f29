"""What a VLM is made of and what it will see: ``vlm4vla inspect`` and ``vlm4vla backbones table``.

Everything here works without weights: the modules stand on the meta device, the prompt needs a tokenizer alone.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from transformers import (
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from vlm4vla import records, registry
from vlm4vla.backbones import families, loading
from vlm4vla.backbones.base import Backbone
from vlm4vla.backbones.processor import Processor
from vlm4vla.data import pictures
from vlm4vla.data.normalize import Normalizer
from vlm4vla.policy import Facts, Policy
from vlm4vla.records import ParameterCount
from vlm4vla.schemas import BackboneConfig, Freezable, NormalizerConfig, PolicyConfig
from vlm4vla.types import ActionSpec, Dimension, Image, refuse

PAPER = Path(__file__).parent / "paper" / "models.json"
INSTRUCTION = "open the drawer"
ARM_AND_GRIPPER = ActionSpec(
    (
        *(Dimension(name, "m", "delta", "robot base", -1, 1) for name in ("x", "y", "z")),
        *(Dimension(name, "rad", "delta", "robot base", -1, 1) for name in ("roll", "pitch", "yaw")),
        Dimension("gripper", "1", "gripper", "none", -1, 1),
    ),
    rotation="euler_xyz",
    control_hz=10.0,
)
"""The seven numbers of the paper's benchmarks, for policies that nobody will run."""
ATTENTION = {
    "causal": "causal: the query reads every token before it",
    "bidirectional-prefix": "causal: the query reads every token before it, and those read each other both ways",
    "bidirectional-images": "causal: the query reads every token before it; tokens of a picture read each other too",
}


@dataclass(frozen=True)
class Token:
    """One position of the prompt. ``kind``: text, special, image or query; ``at``: position ids, one per axis."""

    position: int
    id: int
    text: str
    kind: str
    at: tuple[int, ...]


@dataclass(frozen=True)
class Anatomy:
    """See ``vlm4vla inspect``; ``seen`` is what the model sees, unpacked from its own inputs."""

    backbone: BackboneConfig
    model_type: str
    tokenizer: str
    parameters: list[ParameterCount]
    prompt: list[Token]
    image_tokens: int
    corners: dict[str, tuple[int, ...]]
    attention: str
    seen: Image

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, without the picture."""
        total = sum(p.total for p in self.parameters)
        new = sum(p.new for p in self.parameters)
        return {
            "family": self.backbone.family,
            "checkpoint": self.backbone.checkpoint,
            "model_type": self.model_type,
            "tokenizer": self.tokenizer,
            "parameters": [{**p.model_dump(), "frozen": p.frozen, "reused": p.reused} for p in self.parameters],
            "total": total,
            "new": new,
            "new_share": new / total,
            "view_size": self.backbone.view,
            "image_size": self.backbone.image_size,
            "image_tokens": self.image_tokens,
            "tokens": len(self.prompt),
            "query_position": next(t.position for t in self.prompt if t.kind == "query"),
            "positions_at_image_corners": {name: list(at) for name, at in self.corners.items()},
            "attention_at_query": self.attention,
            "prompt": [{**vars(t), "at": list(t.at)} for t in self.prompt],
        }

    def text(self) -> list[str]:
        """Lines for a terminal; runs of image tokens are folded."""
        plain = self.to_dict()
        lines = [
            f"{plain['family']}  {plain['checkpoint']}  ({plain['model_type']}; tokenizer: {self.tokenizer})",
            "",
            f"{'parameters':16}{'total':>16}{'trainable':>16}{'frozen':>16}{'reused':>16}{'new':>12}{'tied':>14}{'unused':>14}",
        ]
        for p in self.parameters:
            numbers = f"{p.total:>16,}{p.trainable:>16,}{p.frozen:>16,}{p.reused:>16,}"
            lines.append(f"{p.group:16}{numbers}{p.new:>12,}{p.tied:>14,}{p.unused:>14,}")
        lines += [
            f"{'in all':16}{plain['total']:>16,}, of which new {plain['new']:,} ({100 * plain['new_share']:.2f} %)",
            "",
            f"The camera's picture is {plain['view_size']} x {plain['view_size']}, the model sees "
            f"{plain['image_size']} x {plain['image_size']}: {self.image_tokens} image tokens of {len(self.prompt)}.",
            f"The query stands at position {plain['query_position']}. Attention is {self.attention}.",
            "Positions at the picture's corners: "
            + ", ".join(f"{name} {_shown(at)}" for name, at in self.corners.items())
            + ".",
            "",
            f"{'place':>6} {'id':>8}  {'kind':8}{'position':>16}  token",
        ]
        return lines + [_line(run) for run in _runs(self.prompt)]


def parse(
    name: str, image_size: int | None = None, view_size: int | None = None, revision: str | None = None
) -> BackboneConfig:
    """``FAMILY``, ``FAMILY:PRESET``, a Hugging Face id or a folder; without a size, the preset's or encoder's own."""
    family, _, preset = name.partition(":")
    if family in registry.names("backbones"):
        of = families.family(family)
        native = int(families.preset(of, preset or "tiny")["image_size"])
        checkpoint = f"preset:{preset or 'tiny'}"
    elif "/" not in name and not Path(name).exists():
        raise refuse(
            f"{name!r} is no VLM family, no folder, and no Hugging Face id",
            given=family,
            possible=registry.names("backbones"),
            todo="Give a family, FAMILY:PRESET, an id such as OWNER/MODEL, or a folder.",
        )
    else:
        families.every()
        model_config = loading.read_config(name, revision)
        of, checkpoint = families.family_of(model_config.model_type, name), name
        native = of.native_size(model_config)
    size = image_size or native
    return BackboneConfig(
        family=of.name,
        checkpoint=checkpoint,
        revision=revision,
        init="scratch",
        image_size=size,
        view_size=view_size or size,
    )


def look(
    config: BackboneConfig,
    instruction: str = INSTRUCTION,
    image: Image | None = None,
    tokenizer: str | None = None,
    freeze: Sequence[Freezable] = (),
    chunk: int = 10,
) -> Anatomy:
    """Parameters, prompt, positions and picture of a VLM as a policy with one camera and a 7-dimensional action.

    ``tokenizer`` is a folder or id that replaces the small one that a preset brings.
    """
    wrong = [group for group in freeze if group not in get_args(Freezable)]
    if wrong:
        raise refuse(
            f"Unknown group {wrong[0]!r}", given=wrong[0], possible=get_args(Freezable), todo="Use one of these."
        )
    given = loading.read_tokenizer(tokenizer) if tokenizer else None
    policy = skeleton(config, chunk, given)
    policy.freeze(freeze)
    backbone = policy.backbone
    processor = backbone.processor
    inputs = processor.prepare([test_card(config.view) if image is None else image], instruction)
    batch = processor.collate([inputs])
    positions = backbone.family.positions(backbone.model, batch)[:, 0]
    prompt = [_token(processor, i, int(ident), positions) for i, ident in enumerate(inputs["input_ids"])]
    small = config.checkpoint.startswith("preset:") and tokenizer is None
    return Anatomy(
        backbone=config,
        model_type=backbone.model_config.model_type,
        tokenizer=tokenizer or ("the small one that ships with the presets" if small else config.checkpoint),
        parameters=[*policy.parameters_by_group(), language_head(backbone.model_config)],
        prompt=prompt,
        image_tokens=sum(t.kind == "image" for t in prompt),
        corners=_corners([t for t in prompt if t.kind == "image"]),
        attention=ATTENTION[backbone.family.attention],
        seen=processor.seen(inputs)[0],
    )


def skeleton(config: BackboneConfig, chunk: int, tokenizer: PreTrainedTokenizerBase | None = None) -> Policy:
    """A policy without weights (meta device) around a VLM, for one camera and chunks of ``chunk`` actions."""
    backbone = loading.load(config, 1, seed=0, device="meta", tokenizer=tokenizer)
    with torch.device("meta"):
        return Policy(*parts(config, chunk, backbone))


def parts(config: BackboneConfig, chunk: int, backbone: Backbone) -> tuple[PolicyConfig, Backbone, Facts]:
    """What a policy is made of when nobody will run it: :data:`ARM_AND_GRIPPER`, one camera, nothing fitted."""
    settings = PolicyConfig(
        backbone=config, chunk=chunk, cameras=("front",), normalizer=NormalizerConfig(kind="limits")
    )
    normalizer = Normalizer.fit(ARM_AND_GRIPPER, None, settings.normalizer)
    return settings, backbone, Facts(ARM_AND_GRIPPER, normalizer, (), (), (), {})


def language_head(model_config: PretrainedConfig) -> ParameterCount:
    """The output head of the published model, which a policy does not carry: tied to the embedding or left out."""
    with torch.device("meta"):
        whole = AutoModelForImageTextToText.from_config(model_config, trust_remote_code=False)
    whole.tie_weights()
    head, embedding = whole.get_output_embeddings(), whole.get_input_embeddings()
    size = 0 if head is None else head.weight.numel()
    tied = head is not None and head.weight is embedding.weight
    return ParameterCount(
        group="lm_head",
        total=0,
        trainable=0,
        new=0,
        tied=size if tied else 0,
        unused=0 if tied else size,
    )


def table() -> list[dict[str, Any]]:
    """The paper's models: parameters by group in millions, totals in billions beside the paper's, share of new ones."""
    rows: list[dict[str, Any]] = []
    for paper in json.loads(PAPER.read_text())["rows"]:
        config = parse(f"{paper['family']}:{paper['preset']}")
        policy = skeleton(config, chunk=10)
        count = {p.group: p.total for p in policy.parameters_by_group()}
        new = count.pop("query and head")
        published = sum(count.values()) + language_head(policy.backbone.model_config).unused
        vision = sum(count[group] for group in policy.backbone.family.vision_in_paper)
        rows.append(
            {
                "model": paper["model"],
                "preset": f"{paper['family']}:{paper['preset']}",
                **{f"{group}_millions": round(n / 1e6, 1) for group, n in count.items()},
                "total": round(published / 1e9, 3),
                "total_paper": paper["total"],
                "frozen_vision": round((published - vision) / 1e9, 3),
                "frozen_vision_paper": paper.get("frozen_vision"),
                "frozen_embedding": round((published - count["embedding"]) / 1e9, 3),
                "frozen_embedding_paper": paper.get("frozen_embedding"),
                "new_millions": round(new / 1e6, 2),
                "new_percent": round(100 * new / (published + new), 2),
            }
        )
    return rows


def table_text(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table for a terminal and for the golden file: billions, beside each the paper's rounded figure."""

    def pair(row: Mapping[str, Any], key: str) -> str:
        paper = row[f"{key}_paper"]
        return f"{row[key]:>7.3f} {'' if paper is None else f'({paper})':>6}"

    head = f"{'model':17}{'vision':>8}{'connector':>10}{'language':>10}{'embedding':>10} | {'total (paper)':>14} "
    lines = [
        "Parameters: groups in millions; totals in billions with the untied output head, in brackets the paper's.",
        head + f"{'vision frozen':>14} {'embedding frozen':>16} | new",
    ]
    for row in rows:
        groups = f"{row['vision_millions']:>8}{row['connector_millions']:>10}{row['language_millions']:>10}"
        lines.append(
            f"{row['model']:17}{groups}{row['embedding_millions']:>10} | {pair(row, 'total')} "
            f"{pair(row, 'frozen_vision')}   {pair(row, 'frozen_embedding')} | "
            f"{row['new_millions']} M, {row['new_percent']} %"
        )
    return lines


def read_picture(file: Path) -> Image:
    """A picture file of any common kind as RGB."""
    try:
        return pictures.decode_any(file.read_bytes())
    except OSError as error:
        raise refuse(
            f"{file} cannot be read as a picture: {error}", possible="a PNG or JPEG file", todo="Give another file."
        ) from error


def write_picture(image: Image, file: Path) -> None:
    records.write_atomic(file, pictures.encode(image, "png"))


def test_card(size: int) -> Image:
    """A picture in which every mistake shows: colour ramps, and a red, green, blue and white corner."""
    ramp = np.linspace(40, 215, size).astype(np.uint8)
    card = np.stack(
        [np.tile(ramp, (size, 1)), np.tile(ramp[:, None], (1, size)), np.full((size, size), 128, np.uint8)], 2
    )
    k = size // 4
    card[:k, :k], card[:k, -k:], card[-k:, :k], card[-k:, -k:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
    return card


def _token(processor: Processor, position: int, ident: int, positions_AT: torch.Tensor) -> Token:
    kind = "text"
    if ident == processor.query_id:
        kind = "query"
    elif ident == processor.image_id:
        kind = "image"
    elif ident in processor.special_ids:
        kind = "special"
    text = "<action query>" if kind == "query" else processor.tokenizer.decode([ident])
    return Token(position, ident, text, kind, tuple(int(p) for p in positions_AT[:, position]))


def _shown(at: tuple[int, ...]) -> str:
    return str(at[0]) if len(at) == 1 else "/".join(str(i) for i in at)


def _runs(prompt: Sequence[Token]) -> list[list[Token]]:
    runs: list[list[Token]] = []
    for token in prompt:
        if runs and token.kind == "image" == runs[-1][-1].kind:
            runs[-1].append(token)
        else:
            runs.append([token])
    return runs


def _line(run: Sequence[Token]) -> str:
    first, last = run[0], run[-1]
    if len(run) == 1:
        return f"{first.position:>6} {first.id:>8}  {first.kind:8}{_shown(first.at):>16}  {first.text!r}"
    places = f"{_shown(first.at)} .. {_shown(last.at)}"
    return f"{first.position:>6} {first.id:>8}  {first.kind:8}{places:>16}  {first.text!r} x {len(run)}"


def _corners(image: Sequence[Token]) -> dict[str, tuple[int, ...]]:
    side = math.isqrt(len(image))
    if side * side != len(image):
        return {"first": image[0].at, "last": image[-1].at}
    places = {"top left": 0, "top right": side - 1, "bottom left": len(image) - side, "bottom right": len(image) - 1}
    return {name: image[i].at for name, i in places.items()}
