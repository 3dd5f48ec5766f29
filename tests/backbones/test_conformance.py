"""Every backbone family passes the public conformance checks; the list is the folder."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from vlm4vla import registry
from vlm4vla.backbones import conformance, loading
from vlm4vla.backbones.base import Backbone
from vlm4vla.schemas import BackboneConfig
from vlm4vla.types import UserError

PRESETS = [(name, preset) for name in registry.names("backbones") for preset in conformance.tiny_presets(name)]


@pytest.fixture(scope="module", params=PRESETS, ids="-".join)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return conformance.tiny(*request.param)


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda c: c.__name__)
def test_family(backbone: Backbone, check: Callable[[Backbone], str]) -> None:
    assert check(backbone)


def test_tiny_preset_is_small_and_prompt_short(backbone: Backbone) -> None:
    assert sum(p.numel() for p in backbone.parameters()) < 10_000_000
    ids = backbone.processor.prepare(conformance.pictures(1), "turn the faucet counterclockwise")["input_ids"]
    assert len(ids) <= 60


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((0, 96, 3), np.uint8), "open it"),
        (np.zeros((96, 96), np.uint8), "open it"),
        (np.zeros((96, 96, 4), np.uint8), "open it"),
        (np.zeros((96, 96, 3), np.float32), "open it"),
        (np.zeros((96, 96, 3), np.uint8), "  "),
    ],
    ids=["empty", "grey", "rgba", "float", "no sentence"],
)
def test_bad_input_is_refused_in_words(backbone: Backbone, image: np.ndarray, sentence: str) -> None:
    with pytest.raises(UserError, match=r"Possible: "):
        backbone.processor.prepare([image], sentence)


def test_fixed_length_is_kept_or_refused(backbone: Backbone) -> None:
    sample = backbone.processor.prepare(conformance.pictures(1), "open it")
    assert backbone.processor.collate([sample], 70)["input_ids"].shape == (1, 70)
    with pytest.raises(UserError, match="at most 10 tokens"):
        backbone.processor.collate([sample], 10)


def test_views_are_enlarged_in_two_declared_steps(backbone: Backbone) -> None:
    """The reference's 224 to 448: the picture is reduced to the view, then brought to the model's size."""
    size = backbone.config.image_size
    config = backbone.config.model_copy(update={"view_size": size // 2})
    processor = loading.load(config, 1, seed=0).processor
    big = conformance.pictures(1, 2 * size)[0]
    small = processor.resize(big)
    assert small.shape == (size, size, 3)
    assert not np.array_equal(small, backbone.processor.resize(big))
    assert len(processor.prepare([big], "push")["input_ids"]) == len(
        backbone.processor.prepare([big], "push")["input_ids"]
    )


def test_half_precision_weights_and_gradient_checkpointing(backbone: Backbone) -> None:
    """bfloat16 weights give a bfloat16 readout near the exact one; recomputing activations changes no gradient."""
    images, sentences = conformance.pictures(1), ["open it"]
    half = loading.load(backbone.config.model_copy(update={"dtype": "bfloat16"}), 1, seed=0).eval()
    again = loading.load(backbone.config, 1, seed=0).eval()
    again.load_state_dict(half.state_dict())  # not drawn again: some initialisers draw other numbers in bfloat16
    rough, exact = (conformance.run(m, images, sentences) for m in (half, again))
    assert rough.dtype == torch.bfloat16
    assert float((rough.float() - exact).abs().mean()) < 0.1 * float(exact.abs().mean())
    again.train()
    gradients: list[list[Tensor]] = []
    for recompute in (False, True):
        if recompute:
            again.recompute_activations()
        again.zero_grad()
        torch.manual_seed(0)
        batch = conformance.batch_of(again, images, sentences)
        again.readout(batch, conformance.query(again)).square().mean().backward()
        gradients.append([p.grad.clone() for p in again.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


# The checks can fail. Each broken seam below is a route that was taken somewhere, and one check that names it.


def test_a_readout_that_ignores_the_inputs_is_noticed(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backbone, "readout", lambda self, batch, q: q[None].expand(len(batch["input_ids"]), -1, -1))
    with pytest.raises(conformance.Failed, match="changing the picture"):
        conformance.inputs_matter(backbone)


def test_a_family_that_says_it_is_deaf_and_hears_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    hearing = conformance.tiny("smolvlm")
    monkeypatch.setattr(type(hearing.family), "hears", False)
    with pytest.raises(conformance.Failed, match="does not hear, but another instruction changes"):
        conformance.inputs_matter(hearing)


def test_a_picture_upside_down_is_noticed(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    right = type(backbone.processor).pictures
    monkeypatch.setattr(
        type(backbone.processor), "pictures", lambda self, images: right(self, [image[::-1] for image in images])
    )
    with pytest.raises(conformance.Failed, match="differs from the picture"):
        conformance.model_sees_the_picture(backbone)


def test_a_query_after_the_pads_is_noticed(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference defect 7: the query stood after the pads, so its position depended on the longest text of the batch."""
    right = type(backbone.processor).pad

    def wrong(self: object, samples: list[dict[str, np.ndarray]], length: int, side: str) -> dict[str, Tensor]:
        batch = right(backbone.processor, samples, length, side)
        for i, sample in enumerate(samples):
            batch["input_ids"][i, len(sample["input_ids"]) - 1] = backbone.processor.pad_id
            batch["input_ids"][i, -1] = backbone.processor.query_id
        return batch

    monkeypatch.setattr(type(backbone.processor), "pad", wrong)
    with pytest.raises(conformance.Failed, match="last real position"):
        conformance.query_follows_last_token(backbone)


def test_unknown_names_are_refused_with_a_guess() -> None:
    config = BackboneConfig(family="qwen3vl", checkpoint="preset:tiny", init="scratch", image_size=96)
    with pytest.raises(UserError, match="Did you mean 'qwen3_vl'"):
        loading.load(config, 1, 0)
    right = config.model_copy(update={"family": "qwen3_vl"})
    with pytest.raises(UserError, match="no pretrained weights"):
        loading.load(right.model_copy(update={"init": "pretrained"}), 1, 0)
    with pytest.raises(UserError, match="Did you mean 'tiny'"):
        loading.load(right.model_copy(update={"checkpoint": "preset:tony"}), 1, 0)
