"""Qwen3-VL against the library itself: pixels, prompt, positions, and the routes that are known to be wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vlm4vla.backbones import base, conformance
from vlm4vla.backbones.base import Backbone
from vlm4vla.config import BackboneConfig
from vlm4vla.types import UserError


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return conformance.tiny("qwen3_vl")


@pytest.mark.parametrize("frames", [1, 2])  # the tiny preset's, and that of the published checkpoints
def test_pixels_equal_the_library_processor(backbone: Backbone, frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = conformance.pictures(1)[0]
    limits = {"shortest_edge": 96 * 96, "longest_edge": 96 * 96}
    settings = {"patch_size": 16, "temporal_patch_size": frames, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    expected = Qwen2VLImageProcessorPil(**settings, size=limits)([image], return_tensors="np")
    monkeypatch.setattr(backbone.processor, "frames", frames)
    ours = backbone.processor.prepare([image], "push")
    np.testing.assert_allclose(ours["pixel_values"], expected["pixel_values"], atol=1e-6)
    np.testing.assert_array_equal(ours["image_grid_thw"], expected["image_grid_thw"])


def test_golden_prompt(backbone: Backbone) -> None:
    """One user turn of the published chat template (Qwen/Qwen3-VL-4B-Instruct, chat_template.json), then the query."""
    sample = backbone.processor.prepare(conformance.pictures(1), "open the drawer")
    text = backbone.processor.tokenizer.decode(sample["input_ids"][:-1])
    image = "<|vision_start|>" + "<|image_pad|>" * 9 + "<|vision_end|>"
    sentence = "What action should the robotic arm take to open the drawer"
    assert text == f"<|im_start|>user\n{image}{sentence}<|im_end|>\n<|im_start|>assistant\n"
    assert sample["input_ids"][-1] == backbone.processor.query_id


def test_readout_equals_the_model_with_a_real_token(backbone: Backbone) -> None:
    """With the query set to a token's own embedding, the readout is the library's hidden state for that token."""
    processor, model = backbone.processor, backbone.model
    batch = processor.collate([processor.prepare(conformance.pictures(1), "open the drawer")])
    token = int(processor.tokenizer("drawer", add_special_tokens=False)["input_ids"][0])
    vector = model.get_input_embeddings().weight[token][None].detach()
    ours = backbone.readout(batch, vector).detach()[0, 0]
    plain = {**batch, "input_ids": torch.where(batch["input_ids"] == processor.query_id, token, batch["input_ids"])}
    theirs = model(**plain, use_cache=False).last_hidden_state[0, -1].detach()
    assert float((ours - theirs).abs().max()) <= 1e-5


def test_bare_embeddings_would_be_wrong(backbone: Backbone) -> None:
    """Reference defect 6: without input ids the positions of the image plane are lost, silently."""
    processor, model = backbone.processor, backbone.model
    batch = processor.collate([processor.prepare(conformance.pictures(1), "open the drawer")])
    query = conformance.query(backbone)
    right = backbone.readout(batch, query).detach()[0, 0]
    model.rope_deltas = None
    with backbone._queries(query):
        embedded = model.get_input_embeddings()(batch["input_ids"])
    features = model.get_image_features(batch["pixel_values"], batch["image_grid_thw"], return_dict=True)
    places = batch["input_ids"] == model.config.image_token_id
    embedded = embedded.masked_scatter(places[..., None], torch.cat(list(features.pooler_output)))
    wrong = model.language_model(
        inputs_embeds=embedded,
        attention_mask=batch["attention_mask"],
        visual_pos_masks=places,
        deepstack_visual_embeds=[torch.cat(list(f)) for f in features.deepstack_features],
    ).last_hidden_state[0, -1]
    assert float((right - wrong.detach()).abs().max()) > 1e-2


def test_every_deepstack_level_is_used(backbone: Backbone) -> None:
    """Reference defect 3: DeepStack features silently lost."""
    q = conformance.query(backbone)
    batch = backbone.processor.collate([backbone.processor.prepare(conformance.pictures(1), "push")])
    backbone.readout(batch, q).square().mean().backward()
    for merger in backbone.model.visual.deepstack_merger_list:
        assert all(float(p.grad.abs().max()) > 0 for p in merger.parameters() if p.grad is not None)
        assert any(p.grad is not None for p in merger.parameters())


def test_a_published_checkpoint_loads_and_an_incomplete_one_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    """As on the hub: saved with its language head. One tensor less is an error, not a random number."""
    whole = Qwen3VLForConditionalGeneration(backbone.model.config)
    whole.model.load_state_dict(backbone.model.state_dict())
    whole.save_pretrained(tmp_path)
    backbone.processor.tokenizer.save_pretrained(tmp_path)
    config = BackboneConfig(family="qwen3_vl", checkpoint=str(tmp_path), init="pretrained", image_size=96)
    loaded = base.load(config, 1, seed=7).eval()
    images = conformance.pictures(1)
    assert torch.equal(*(conformance.run(m, images, ["open it"]) for m in (backbone, loaded)))
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors[next(name for name in tensors if "visual.blocks.0" in name)]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 of the model's weights"):
        base.load(config, 1, seed=7)


def test_another_kind_of_checkpoint_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    backbone.model.config.text_config.save_pretrained(tmp_path)
    backbone.processor.tokenizer.save_pretrained(tmp_path)
    config = BackboneConfig(family="qwen3_vl", checkpoint=str(tmp_path), init="pretrained", image_size=96)
    with pytest.raises(UserError, match="not of family 'qwen3_vl'"):
        base.load(config, 1, seed=0)
    with pytest.raises(UserError, match="cannot be loaded"):
        base.load(config.model_copy(update={"checkpoint": str(tmp_path / "none")}), 1, seed=0)
