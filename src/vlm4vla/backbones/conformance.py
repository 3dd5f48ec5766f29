"""The checks that every backbone family must pass: ``vlm4vla backbones check NAME``, and the tests list the folder.

They run on the family's tiny presets (those whose name begins with ``tiny``), on the CPU, in float32. Each returns a
sentence on what was measured or raises ``Failed`` with what is wrong.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlm4vla.backbones import families, loading
from vlm4vla.backbones._patches import as_the_library
from vlm4vla.backbones.base import GROUPS, Backbone
from vlm4vla.schemas import BackboneConfig, Group
from vlm4vla.types import Image

TOLERANCE = 1e-5


class Failed(AssertionError):
    """A conformance check found a fault; the message says which."""


def tiny_presets(family: str) -> list[str]:
    """The small presets that a family ships: at least ``tiny``."""
    found = [name for name in families.preset_names(families.family(family)) if name.startswith("tiny")]
    if not found:
        raise Failed(f"family {family} has no preset 'tiny'")
    return found


def tiny(family: str, preset: str = "tiny", seed: int = 0) -> Backbone:
    """A tiny preset with random weights, in eval mode."""
    size = families.preset(families.family(family), preset)["image_size"]
    config = BackboneConfig(family=family, checkpoint=f"preset:{preset}", init="scratch", image_size=size)
    return loading.load(config, queries=1, seed=seed).eval()


def pictures(count: int, size: int = 96) -> list[Image]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(count)]


def query(backbone: Backbone) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(backbone.processor.queries, backbone.width, generator=generator) * 0.02


def batch_of(backbone: Backbone, images: Sequence[Image], sentences: Sequence[str]) -> dict[str, Tensor]:
    processor = backbone.processor
    return processor.collate([processor.prepare([i], s) for i, s in zip(images, sentences, strict=True)])


def run(backbone: Backbone, images: Sequence[Image], sentences: Sequence[str]) -> Tensor:
    return backbone.readout(batch_of(backbone, images, sentences), query(backbone)).detach()


def same_seed_same_weights(backbone: Backbone) -> str:
    """Scratch weights are a function of the seed."""
    preset = backbone.config.checkpoint.removeprefix("preset:")
    same, other = (tiny(backbone.family.name, preset, seed) for seed in (0, 1))
    image = pictures(1)
    a, b, c = (run(m, image, ["push"]) for m in (backbone, same, other))
    if not torch.equal(a, b) or torch.equal(a, c):
        raise Failed("scratch weights do not follow the seed")
    return "scratch weights follow the seed"


def groups_cover(backbone: Backbone) -> str:
    """Every parameter is in exactly one group."""
    counted = [id(p) for parameters in backbone.groups().values() for p in parameters]
    every = {id(p) for p in backbone.parameters()}
    if len(counted) != len(set(counted)) or set(counted) != every:
        raise Failed(f"{len(counted)} grouped, {len(set(counted))} distinct, {len(every)} parameters")
    sizes = {group: sum(p.numel() for p in parameters) for group, parameters in backbone.groups().items()}
    if min(sizes.values()) == 0:
        raise Failed(f"an empty group: {sizes}")
    return "groups cover all parameters: " + ", ".join(f"{g} {n:,}" for g, n in sizes.items())


def query_follows_last_token(backbone: Backbone) -> str:
    """The query sits after the last real token of every sample, never behind a pad."""
    processor = backbone.processor
    samples = [processor.prepare(pictures(1), sentence) for sentence in ("open it", "open the drawer slowly")]
    batch = processor.collate(samples, max(len(s["input_ids"]) for s in samples) + 3)
    for i, sample in enumerate(samples):
        places = (batch["input_ids"][i] == processor.query_id).nonzero()[:, 0].tolist()
        end = len(sample["input_ids"])
        if places != list(range(end - processor.queries, end)):
            raise Failed(f"sample {i}: queries at {places}, last real position {end - 1}")
        if int(batch["attention_mask"][i].sum()) != end:
            raise Failed(f"sample {i}: the mask covers {int(batch['attention_mask'][i].sum())} of {end} tokens")
    return "queries follow the last real token"


def padding_and_mates(backbone: Backbone) -> str:
    """Padding on either side and batch mates do not change a readout (reference defect 7)."""
    processor, q = backbone.processor, query(backbone)
    sentences = ["open it", "turn the faucet clockwise and then close the drawer", "push"]
    samples = [processor.prepare([i], s) for i, s in zip(pictures(3), sentences, strict=True)]
    longest = max(len(s["input_ids"]) for s in samples)
    together = {side: backbone.readout(processor.collate(samples, side=side), q) for side in ("right", "left")}
    worst = 0.0
    for i, sample in enumerate(samples):
        alone = backbone.readout(processor.collate([sample]), q)[0]
        others = [together["right"][i], together["left"][i]]
        others += [
            backbone.readout(processor.collate([sample], longest + 30, side), q)[0] for side in ("right", "left")
        ]
        worst = max(worst, *(float((other - alone).detach().abs().max()) for other in others))
    if worst > TOLERANCE:
        raise Failed(f"padding or batch mates change the readout by {worst:.2e}")
    return f"padding (right, left, none) and batch mates change the readout by {worst:.1e}"


def calls_leave_no_trace(backbone: Backbone) -> str:
    """A readout does not depend on what was asked before (stale position state)."""
    first = run(backbone, pictures(1), ["open the drawer"])
    run(backbone, pictures(2), ["push", "turn the faucet clockwise and then close the drawer"])
    if not torch.equal(first, run(backbone, pictures(1), ["open the drawer"])):
        raise Failed("the same call gives another readout after a different one")
    return "earlier calls leave no trace"


def inputs_matter(backbone: Backbone) -> str:
    """Another picture, another instruction and another query each change the readout.

    Of a family that declares that it does not hear, no instruction changes anything, to the bit.
    """
    a, b = pictures(2)
    reference = run(backbone, [a], ["open the drawer"])
    batch = batch_of(backbone, [a], ["open the drawer"])
    changes = {
        "picture": run(backbone, [b], ["open the drawer"]) - reference,
        "instruction": run(backbone, [a], ["close the drawer"]) - reference,
        # Not a constant on all components: a LayerNorm takes that out again.
        "query": backbone.readout(batch, query(backbone).roll(1, dims=-1)).detach() - reference,
    }
    found = {name: float(change.abs().max()) for name, change in changes.items()}
    deaf = not backbone.family.hears
    if deaf and found.pop("instruction") > 0:
        raise Failed("the family declares that it does not hear, but another instruction changes the readout")
    dead = [name for name, size in found.items() if size < 1e-4]
    if dead:
        raise Failed(f"changing the {dead[0]} changes the readout by only {found[dead[0]]:.1e}")
    who = "picture and query matter, the instruction does not" if deaf else "picture, instruction and query matter"
    return f"{who}: " + ", ".join(f"{k} {v:.1e}" for k, v in found.items())


def image_order_matters(backbone: Backbone) -> str:
    """Image tokens keep their places in the plane, and two cameras their order."""
    a, b = pictures(2)
    a[:, :48] = 255
    mirrored = np.ascontiguousarray(a[:, ::-1])
    processor, q = backbone.processor, query(backbone)
    change = float((run(backbone, [a], ["push"]) - run(backbone, [mirrored], ["push"])).abs().max())
    if change < 1e-4:
        raise Failed("a mirrored picture gives the same readout")
    one, other = (
        backbone.readout(processor.collate([processor.prepare(views, "push")]), q).detach()
        for views in ([a, b], [b, a])
    )
    if float((one - other).abs().max()) < 1e-4:
        raise Failed("two cameras in another order give the same readout")
    return f"mirroring changes the readout by {change:.1e}, exchanging two cameras by {(one - other).abs().max():.1e}"


def model_sees_the_picture(backbone: Backbone) -> str:
    """The prepared pixels, unpacked, are the picture: no channel swapped, no axis turned, no range shifted."""
    processor = backbone.processor
    views = pictures(2, processor.config.image_size)
    seen = processor.seen(processor.prepare(views, "push"))
    if len(seen) != len(views):
        raise Failed(f"{len(views)} pictures were given, {len(seen)} are seen")
    worst = max(int(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in zip(views, seen, strict=True))
    if worst > 1:
        raise Failed(f"what the model sees differs from the picture by {worst} of 255 levels")
    return f"the model sees the picture, to {worst} of 255 levels"


def equals_the_library(backbone: Backbone) -> str:
    """With the query set to a token's own embedding, the readout is the library's hidden state for that token."""
    processor, model = backbone.processor, backbone.model
    batch = batch_of(backbone, pictures(2), ["open the drawer", "push it"])
    token = int(processor.tokenizer("open", add_special_tokens=False)["input_ids"][0])
    vector = model.get_input_embeddings()(torch.tensor([[token]]))[0].detach()  # type: ignore[operator]
    places = batch["input_ids"] == processor.query_id
    plain = {**batch, "input_ids": torch.where(places, token, batch["input_ids"])}
    ours = backbone.readout(batch, vector).detach()[:, 0]
    with as_the_library(model):
        theirs = model(**plain, use_cache=False).last_hidden_state[places].detach()
    worst = float((ours - theirs).abs().max())
    if worst > TOLERANCE:
        raise Failed(f"the readout differs from the library's hidden state by {worst:.2e}")
    return f"the readout equals the library's hidden state of a real token to {worst:.1e}"


def attention_is_as_declared(backbone: Backbone) -> str:
    """Measured by gradients: the query reads every token; a picture's first token reads what the family declares."""
    batch = batch_of(backbone, pictures(1), ["open the drawer"])
    image = (batch["input_ids"][0] == backbone.processor.image_id).nonzero()[:, 0]
    first, last = int(image[0]), int(image[-1])
    end = batch["input_ids"].shape[1] - 1
    if reach(backbone, batch, end) != set(range(end + 1)):
        raise Failed("the query does not read all tokens before it")
    seen = reach(backbone, batch, first) - set(range(first + 1))
    kinds = {
        "causal": set[int](),
        "bidirectional-images": set(range(first + 1, last + 1)),
        "bidirectional-prefix": set(range(first + 1, end)),
    }
    if seen != kinds[backbone.family.attention]:
        raise Failed(f"attention is declared {backbone.family.attention}, but image token {first} reads {sorted(seen)}")
    return f"attention is {backbone.family.attention}; the query reads all {end} tokens before it"


def reach(backbone: Backbone, batch: dict[str, Tensor], position: int) -> set[int]:
    """Positions of the first sample whose embedded token has an influence on the last hidden state at ``position``."""
    captured: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        hidden = (args[0] if args else kwargs["hidden_states"]).detach().requires_grad_()
        captured.append(hidden)
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    handle = backbone.text_blocks()[0].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        hidden_BTD = backbone.hidden_states(batch, query(backbone))
    finally:
        handle.remove()
    # A weighted sum: the plain sum of a normalised vector can have no gradient at all.
    weights = torch.randn(backbone.width, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((hidden_BTD[0, position] * weights).sum(), captured[0])
    return set(gradient[0].abs().amax(dim=-1).nonzero()[:, 0].tolist())


def positions_are_as_declared(backbone: Backbone) -> str:
    """The positions that ``inspect`` shows are those that the language model was given, where it was given any."""
    batch = batch_of(backbone, pictures(1), ["open the drawer"])
    given: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, kwargs: dict[str, Tensor | None]) -> None:
        ids = kwargs.get("position_ids")
        if ids is not None:
            given.append(ids)

    decoder = backbone.model.get_decoder()  # type: ignore[operator]
    with _pre_hook(decoder, keep), torch.no_grad():
        backbone.readout(batch, query(backbone))
    declared = backbone.family.positions(backbone.model, batch)
    if not given and len(declared) > 1:
        raise Failed(f"positions with {len(declared)} axes are declared, but the language model is given none")
    if not given:
        return "the library counts positions inside the language model; none are given"
    shown = given[0] if given[0].ndim == 3 else given[0][None]
    if shown[-len(declared) :].tolist() != declared.tolist():
        raise Failed(f"positions {declared.tolist()} are declared, the language model was given {shown.tolist()}")
    return f"positions are as declared, {len(declared)} axes"


def gradients(backbone: Backbone) -> str:
    """The query and every parameter get gradient; a frozen group, and what is declared unused, is what gets none."""
    batch = batch_of(backbone, pictures(1), ["open the drawer"])
    for frozen in (None, *GROUPS):
        backbone.freeze([] if frozen is None else [frozen])
        backbone.zero_grad(set_to_none=True)
        q = query(backbone).requires_grad_()
        backbone.readout(batch, q).square().mean().backward()
        if q.grad is None or float(q.grad.abs().max()) == 0:
            raise Failed(f"the query gets no gradient with {frozen} frozen")
        _groups_have_gradient(backbone, frozen)
        if frozen is None:
            _only_unused_lack_gradient(backbone)
    backbone.freeze(())
    backbone.zero_grad(set_to_none=True)
    return f"query and groups get gradient; {len(backbone.unused())} parameters are declared unused and get none"


def _groups_have_gradient(backbone: Backbone, frozen: Group | None) -> None:
    for group, parameters in backbone.groups().items():
        touched = _touched(parameters)
        if touched == (group == frozen):
            raise Failed(f"group {group}: gradient {touched} with {frozen} frozen")


def _only_unused_lack_gradient(backbone: Backbone) -> None:
    """Data-parallel training waits for the gradient of every parameter that wants one."""
    unused = {id(p) for p in backbone.unused()}
    for name, parameter in backbone.model.named_parameters():
        if (parameter.grad is None) != (id(parameter) in unused):
            raise Failed(f"{name}: gradient {parameter.grad is not None}, declared unused {id(parameter) in unused}")
    for i, block in enumerate(backbone.blocks()):
        wanted = [p for p in block.parameters() if id(p) not in unused]
        if wanted and not _touched(wanted):
            raise Failed(f"layer {i} of blocks() gets a gradient of zero")


def _touched(parameters: Sequence[Tensor]) -> bool:
    return any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in parameters)


def attention_kernels_agree(backbone: Backbone) -> str:
    """``eager`` and ``sdpa`` give the same readout."""
    other = "sdpa" if backbone.config.attention == "eager" else "eager"
    config = backbone.config.model_copy(update={"attention": other})
    a, b = (run(m, pictures(1), ["open it"]) for m in (backbone, loading.load(config, 1, seed=0).eval()))
    worst = float((a - b).abs().max())
    if worst > TOLERANCE:
        raise Failed(f"eager and sdpa attention differ by {worst:.2e}")
    return f"eager and sdpa attention differ by {worst:.1e}"


def special_tokens_stay_text(backbone: Backbone) -> str:
    """An instruction that spells special tokens is text; it cannot add pictures, turns or queries."""
    processor = backbone.processor
    special = sorted(processor.tokenizer.get_added_vocab())
    plain, hostile = (processor.prepare(pictures(1), "open it" + text) for text in ("", "".join(special)))
    ids = {*processor.special_ids, processor.query_id}
    counts = [sum(int(i) in ids for i in sample["input_ids"]) for sample in (plain, hostile)]
    if counts[0] != counts[1]:
        raise Failed(f"special tokens in an instruction were read as such: {counts[1] - counts[0]} more")
    return f"{len(special)} special tokens spelled in an instruction stay text"


def folder_round_trip(backbone: Backbone) -> str:
    """A folder that the library saved in shards loads through ``init: pretrained`` with exactly its weights."""
    with tempfile.TemporaryDirectory() as folder:
        backbone.model.save_pretrained(folder, max_shard_size="4MB")  # type: ignore[operator]
        backbone.processor.tokenizer.save_pretrained(folder)
        shards = len(list(Path(folder).glob("*.safetensors")))
        config = backbone.config.model_copy(update={"checkpoint": folder, "init": "pretrained"})
        loaded = loading.load(config, 1, seed=7).eval()
    if not torch.equal(*(run(m, pictures(1), ["open the drawer"]) for m in (backbone, loaded))):
        raise Failed("a saved folder loads with another readout")
    return f"a folder of {shards} shards loads with exactly its weights"


CHECKS: tuple[Callable[[Backbone], str], ...] = (
    same_seed_same_weights,
    groups_cover,
    query_follows_last_token,
    padding_and_mates,
    calls_leave_no_trace,
    inputs_matter,
    image_order_matters,
    model_sees_the_picture,
    equals_the_library,
    attention_is_as_declared,
    positions_are_as_declared,
    gradients,
    attention_kernels_agree,
    special_tokens_stay_text,
    folder_round_trip,
)


def check(family: str) -> list[tuple[str, bool, str]]:
    """Run every check on each of the family's tiny presets; (name, passed, sentence) each."""
    results: list[tuple[str, bool, str]] = []
    for preset in tiny_presets(family):
        backbone = tiny(family, preset)
        for one in CHECKS:
            name = one.__name__ if preset == "tiny" else f"{preset}: {one.__name__}"
            try:
                results.append((name, True, one(backbone)))
            except Failed as fault:
                results.append((name, False, str(fault)))
    return results


@contextmanager
def _pre_hook(module: nn.Module, hook: Callable[..., None]):  # type: ignore[no-untyped-def]
    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
