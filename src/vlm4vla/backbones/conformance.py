"""The checks that every backbone family must pass: ``vlm4vla backbones check NAME``, and the tests list the folder.

They run on the family's ``tiny`` preset, on the CPU, in float32. Each returns a sentence on what was measured or raises
``Failed`` with what is wrong.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vlm4vla.backbones import base
from vlm4vla.backbones.base import GROUPS, Backbone
from vlm4vla.config import BackboneConfig, Group
from vlm4vla.types import Image

TOLERANCE = 1e-5


class Failed(AssertionError):
    """A conformance check found a fault; the message says which."""


def tiny(family: str, seed: int = 0) -> Backbone:
    config = BackboneConfig(family=family, checkpoint="preset:tiny", init="scratch", image_size=96)
    return base.load(config, queries=1, seed=seed).eval()


def pictures(count: int) -> list[Image]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for _ in range(count)]


def query(backbone: Backbone) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(backbone.processor.queries, backbone.width, generator=generator) * 0.02


def run(backbone: Backbone, images: Sequence[Image], sentences: Sequence[str], length: int | None = None) -> Tensor:
    processor = backbone.processor
    batch = processor.collate([processor.prepare([i], s) for i, s in zip(images, sentences, strict=True)], length)
    return backbone.readout(batch, query(backbone)).detach()


def padding_and_mates(backbone: Backbone) -> str:
    """Padding and batch mates do not change a readout (reference defect 7: the query's place depended on them)."""
    images = pictures(3)
    sentences = ["open it", "turn the faucet clockwise and then close the drawer", "push"]
    together = run(backbone, images, sentences)
    worst = 0.0
    for i, (image, sentence) in enumerate(zip(images, sentences, strict=True)):
        alone = run(backbone, [image], [sentence])[0]
        padded = run(backbone, [image], [sentence], length=80)[0]
        worst = max(worst, float((together[i] - alone).abs().max()), float((padded - alone).abs().max()))
    if worst > TOLERANCE:
        raise Failed(f"padding or batch mates change the readout by {worst:.2e}")
    return f"padding and batch mates change the readout by {worst:.1e}"


def query_follows_last_token(backbone: Backbone) -> str:
    """The query sits after the last real token of every sample, never behind a pad."""
    processor = backbone.processor
    samples = [processor.prepare(pictures(1), sentence) for sentence in ("open it", "open the drawer slowly")]
    batch = processor.collate(samples)
    for i, sample in enumerate(samples):
        places = (batch["input_ids"][i] == processor.query_id).nonzero()[:, 0].tolist()
        end = len(sample["input_ids"])
        if places != list(range(end - processor.queries, end)):
            raise Failed(f"sample {i}: queries at {places}, last real position {end - 1}")
        if int(batch["attention_mask"][i].sum()) != end:
            raise Failed(f"sample {i}: the mask covers {int(batch['attention_mask'][i].sum())} of {end} tokens")
    return "queries follow the last real token"


def inputs_matter(backbone: Backbone) -> str:
    """Another picture, another instruction and another query each change the readout."""
    a, b = pictures(2)
    reference = run(backbone, [a], ["open the drawer"])
    changes = {
        "picture": run(backbone, [b], ["open the drawer"]) - reference,
        "instruction": run(backbone, [a], ["close the drawer"]) - reference,
    }
    processor = backbone.processor
    batch = processor.collate([processor.prepare([a], "open the drawer")])
    changes["query"] = backbone.readout(batch, query(backbone) + 0.02).detach() - reference
    found = {name: float(change.abs().max()) for name, change in changes.items()}
    dead = [name for name, size in found.items() if size < 1e-4]
    if dead:
        raise Failed(f"changing the {dead[0]} changes the readout by only {found[dead[0]]:.1e}")
    return "picture, instruction and query matter: " + ", ".join(f"{k} {v:.1e}" for k, v in found.items())


def image_order_matters(backbone: Backbone) -> str:
    """Image tokens keep their places in the plane: the mirrored picture has another readout."""
    image = pictures(1)[0]
    image[:, :48] = 255
    mirrored = np.ascontiguousarray(image[:, ::-1])
    change = float((run(backbone, [image], ["push"]) - run(backbone, [mirrored], ["push"])).abs().max())
    if change < 1e-4:
        raise Failed("a mirrored picture gives the same readout")
    return f"mirroring changes the readout by {change:.1e}"


def gradients(backbone: Backbone) -> str:
    """The query and every group get gradient; a frozen group is exactly what gets none."""
    processor = backbone.processor
    batch = processor.collate([processor.prepare(pictures(1), "open the drawer")])
    for frozen in (None, *GROUPS):
        for group, parameters in backbone.groups().items():
            for p in parameters:
                p.requires_grad_(group != frozen)
                p.grad = None
        q = query(backbone).requires_grad_()
        backbone.readout(batch, q).square().mean().backward()
        if not _touched([q]):
            raise Failed(f"the query gets no gradient with {frozen} frozen")
        for group, parameters in backbone.groups().items():
            if parameters and _touched(parameters) == (group == frozen):
                raise Failed(f"group {group}: gradient {_touched(parameters)} with {frozen} frozen")
    for parameters in backbone.groups().values():
        for p in parameters:
            p.requires_grad_(True)
            p.grad = None
    return "the query and every group get gradient; freezing leaves exactly one group without"


def groups_cover(backbone: Backbone) -> str:
    """Every parameter is in exactly one group."""
    counted = [id(p) for parameters in backbone.groups().values() for p in parameters]
    every = {id(p) for p in backbone.parameters()}
    if len(counted) != len(set(counted)) or set(counted) != every:
        raise Failed(f"{len(counted)} grouped, {len(set(counted))} distinct, {len(every)} parameters")
    sizes = _sizes(backbone)
    if sizes["vision"] == 0 or sizes["language"] == 0 or sizes["embedding"] == 0:
        raise Failed(f"an empty group: {sizes}")
    return "groups cover all parameters: " + ", ".join(f"{g} {n:,}" for g, n in sizes.items())


def special_tokens_stay_text(backbone: Backbone) -> str:
    """An instruction that spells special tokens is text; it cannot add pictures, turns or queries."""
    processor = backbone.processor
    plain = processor.prepare(pictures(1), "open it")
    special = sorted(processor.tokenizer.get_added_vocab())
    hostile = processor.prepare(pictures(1), "open it" + "".join(special))
    ids = {*processor.tokenizer.get_added_vocab().values(), processor.query_id}
    counts = [sum(int(i) in ids for i in x["input_ids"]) for x in (plain, hostile)]
    if counts[0] != counts[1]:
        raise Failed(f"special tokens in an instruction were read as such: {counts[1] - counts[0]} more")
    return f"{len(special)} special tokens spelled in an instruction stay text"


def same_seed_same_weights(backbone: Backbone) -> str:
    """Scratch weights are a function of the seed."""
    same, other = tiny(backbone.family.name), tiny(backbone.family.name, seed=1)
    image = pictures(1)
    a, b, c = (run(m, image, ["push"]) for m in (backbone, same, other))
    if not torch.equal(a, b) or torch.equal(a, c):
        raise Failed("scratch weights do not follow the seed")
    return "scratch weights follow the seed"


CHECKS: tuple[Callable[[Backbone], str], ...] = (
    same_seed_same_weights,
    groups_cover,
    query_follows_last_token,
    padding_and_mates,
    inputs_matter,
    image_order_matters,
    gradients,
    special_tokens_stay_text,
)


def check(family: str) -> list[tuple[str, bool, str]]:
    """Run every check on the family's tiny preset; (name, passed, sentence) each."""
    backbone = tiny(family)
    results: list[tuple[str, bool, str]] = []
    for one in CHECKS:
        try:
            results.append((one.__name__, True, one(backbone)))
        except Failed as fault:
            results.append((one.__name__, False, str(fault)))
    return results


def _touched(parameters: Sequence[Tensor]) -> bool:
    return any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in parameters)


def _sizes(backbone: Backbone) -> dict[Group, int]:
    return {group: sum(p.numel() for p in parameters) for group, parameters in backbone.groups().items()}
