"""What Qwen3-VL has and Qwen2.5-VL has not, dense and with experts: DeepStack, and token types that must be given."""

from pathlib import Path

import pytest

from vlm4vla.backbones import conformance, loading
from vlm4vla.backbones.base import Backbone
from vlm4vla.schemas import BackboneConfig
from vlm4vla.types import UserError


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen3_vl_moe"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return conformance.tiny(request.param)


def test_every_deepstack_level_is_used(backbone: Backbone) -> None:
    """Reference defect 3: DeepStack features silently lost."""
    batch = conformance.batch_of(backbone, conformance.pictures(1), ["push"])
    backbone.zero_grad(set_to_none=True)
    backbone.readout(batch, conformance.query(backbone)).square().mean().backward()
    mergers = backbone.model.visual.deepstack_merger_list
    assert len(mergers) == 2
    for parameter in mergers.parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().max()) > 0


def test_missing_token_types_are_refused_by_the_library(backbone: Backbone) -> None:
    batch = conformance.batch_of(backbone, conformance.pictures(1), ["push"])
    del batch["mm_token_type_ids"]
    with pytest.raises(ValueError, match="`mm_token_type_ids` is missing"):
        backbone.readout(batch, conformance.query(backbone))


def test_another_kind_of_checkpoint_is_refused(tmp_path: Path) -> None:
    other, own = conformance.tiny("qwen3_vl_moe"), "qwen3_vl"
    config = BackboneConfig(family=own, checkpoint=str(tmp_path), init="pretrained", image_size=96)
    other.processor.tokenizer.save_pretrained(tmp_path)
    other.model.config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"not of family 'qwen3_vl'.*Set backbone.family to qwen3_vl_moe"):
        loading.load(config, 1, seed=0)
    other.model.config.text_config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="which no family here runs"):
        loading.load(config, 1, seed=0)
    with pytest.raises(UserError, match="cannot be loaded"):
        loading.load(config.model_copy(update={"checkpoint": str(tmp_path / "none")}), 1, seed=0)
