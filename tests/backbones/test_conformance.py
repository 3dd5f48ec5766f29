"""Every backbone family passes the public conformance checks; the list is the folder."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from vlm4vla import registry
from vlm4vla.backbones import base, conformance
from vlm4vla.backbones.base import Backbone
from vlm4vla.config import BackboneConfig
from vlm4vla.types import UserError


@pytest.fixture(scope="module", params=registry.names("backbones"))
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return conformance.tiny(request.param)


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda c: c.__name__)
def test_family(backbone: Backbone, check: Callable[[Backbone], str]) -> None:
    assert check(backbone)


def test_tiny_preset_is_small_and_prompt_short(backbone: Backbone) -> None:
    assert sum(p.numel() for p in backbone.parameters()) < 10_000_000
    ids = backbone.processor.prepare(conformance.pictures(1), "turn the faucet counterclockwise")["input_ids"]
    assert len(ids) <= 40


def test_checks_notice_a_broken_family(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks can fail: bare embeddings and a query that reads nothing are caught."""
    monkeypatch.setattr(Backbone, "readout", lambda self, batch, q: q[None].expand(len(batch["input_ids"]), -1, -1))
    with pytest.raises(conformance.Failed, match="changing the picture"):
        conformance.inputs_matter(backbone)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((0, 96, 3), np.uint8), "open it"),
        (np.zeros((96, 96), np.uint8), "open it"),
        (np.zeros((96, 96, 4), np.uint8), "open it"),
        (np.zeros((96, 96, 3), np.float32), "open it"),
        (np.zeros((96, 96, 3), np.uint8), "  "),
    ],
)
def test_bad_input_is_refused_in_words(backbone: Backbone, image: np.ndarray, sentence: str) -> None:
    with pytest.raises(UserError, match=r"Possible: "):
        backbone.processor.prepare([image], sentence)


def test_fixed_length_is_kept_or_refused(backbone: Backbone) -> None:
    sample = backbone.processor.prepare(conformance.pictures(1), "open it")
    assert backbone.processor.collate([sample], 50)["input_ids"].shape == (1, 50)
    with pytest.raises(UserError, match="at most 10 tokens"):
        backbone.processor.collate([sample], 10)


def test_unknown_names_are_refused_with_a_guess() -> None:
    config = BackboneConfig(family="qwen3vl", checkpoint="preset:tiny", init="scratch")
    with pytest.raises(UserError, match="Did you mean 'qwen3_vl'"):
        base.load(config, 1, 0)
    with pytest.raises(UserError, match="no pretrained weights"):
        base.load(config.model_copy(update={"family": "qwen3_vl", "init": "pretrained"}), 1, 0)


def test_pretrained_folder_loads_its_weights(backbone: Backbone, tmp_path: object) -> None:
    """A folder that the library itself saved loads through ``init: pretrained`` with exactly its weights."""
    folder = str(tmp_path)
    backbone.model.save_pretrained(folder)
    backbone.processor.tokenizer.save_pretrained(folder)
    config = BackboneConfig(
        family=backbone.family.name, checkpoint=folder, init="pretrained", image_size=96, attention="sdpa"
    )
    loaded = base.load(config, 1, seed=7).eval()
    images = conformance.pictures(1)
    a, b = (conformance.run(m, images, ["open the drawer"]) for m in (backbone, loaded))
    assert torch.equal(a, b)
