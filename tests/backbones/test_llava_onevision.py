"""LLaVA-OneVision against the library itself: pixels, image tokens, readout, and the routes known to be wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

from vlm4vla.backbones import conformance, loading
from vlm4vla.backbones.base import Backbone
from vlm4vla.schemas import BackboneConfig
from vlm4vla.types import Image, UserError

SENTENCE = "What action should the robotic arm take to open the drawer"


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return conformance.tiny("llava_onevision")


def image_processor(backbone: Backbone, **changes: object) -> LlavaOnevisionImageProcessorPil:
    settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 96, "width": 96}}
    points = backbone.model_config.image_grid_pinpoints
    return LlavaOnevisionImageProcessorPil(**{**settings, "image_grid_pinpoints": points, **changes})


def library_inputs(backbone: Backbone, images: list[Image]) -> dict[str, Tensor]:
    """The library's pixels and its count of image tokens in the published prompt."""
    pixels = image_processor(backbone)([images], return_tensors="pt")
    # The constructor wants a video processor, and those want torchvision; the counting needs neither.
    counter = object.__new__(LlavaOnevisionProcessor)
    counter.image_processor, counter.image_token = image_processor(backbone), "<image>"
    counter.num_image_tokens, counter.vision_aspect_ratio = 9, backbone.model_config.vision_aspect_ratio
    counter.vision_feature_select_strategy = backbone.model_config.vision_feature_select_strategy
    run = "".join(counter.replace_image_token(pixels, i) for i in range(len(images)))
    text = f"<|im_start|>user {run}\n{SENTENCE}<|im_end|><|im_start|>assistant\n"
    return {**backbone.processor.tokenizer(text, return_tensors="pt"), **pixels}


@pytest.mark.parametrize(("cameras", "views", "tokens"), [(1, 2, 9 + 12), (2, 1, 2 * 10), (3, 1, 3 * 10)])
def test_inputs_equal_the_library(backbone: Backbone, cameras: int, views: int, tokens: int) -> None:
    images, processor = conformance.pictures(cameras), backbone.processor
    ours = processor.collate([processor.prepare(images, "open the drawer")])
    theirs = library_inputs(backbone, images)
    assert ours["input_ids"][0, :-1].tolist() == theirs["input_ids"][0].tolist()
    assert int((ours["input_ids"] == processor.image_id).sum()) == tokens
    assert ours["pixel_values"].shape == (cameras, views, 3, 96, 96)
    np.testing.assert_allclose(ours["pixel_values"], theirs["pixel_values"], atol=1e-6)
    for key in ("image_sizes", "batch_num_images"):
        assert ours[key].tolist() == theirs[key].tolist()


@pytest.mark.parametrize("cameras", [1, 2])
def test_readout_equals_the_library(backbone: Backbone, cameras: int) -> None:
    """A direct call of the library on its own inputs, ending in a real token."""
    images, processor = conformance.pictures(cameras), backbone.processor
    token = int(processor.tokenizer("drawer", add_special_tokens=False)["input_ids"][0])
    vector = backbone.model.get_input_embeddings().weight[token][None].detach()
    ours = backbone.readout(processor.collate([processor.prepare(images, "open the drawer")]), vector)[0, 0]
    theirs = library_inputs(backbone, images)
    ids = torch.cat([theirs["input_ids"], torch.tensor([[token]])], dim=1)
    pixels = {key: theirs[key] for key in ("pixel_values", "image_sizes", "batch_num_images")}
    hidden = backbone.model(input_ids=ids, attention_mask=torch.ones_like(ids), **pixels).last_hidden_state[0, -1]
    assert float((ours - hidden).detach().abs().max()) <= 1e-5


def test_batches_keep_the_pictures_of_each_sample(backbone: Backbone) -> None:
    processor, q = backbone.processor, conformance.query(backbone)
    a, b, c, d = conformance.pictures(4)
    samples = [processor.prepare(views, "push") for views in ([a, b], [c, d])]
    alone = torch.cat([backbone.readout(processor.collate([s]), q) for s in samples]).detach()
    assert float((backbone.readout(processor.collate(samples), q).detach() - alone).abs().max()) <= 1e-5


def test_one_picture_as_a_base_view_only_would_be_another_prompt(backbone: Backbone) -> None:
    """10 image tokens here instead of 21: it runs when the model is told of several pictures, and reads otherwise."""
    q = conformance.query(backbone)
    right = conformance.batch_of(backbone, conformance.pictures(1), ["open the drawer"])
    image = (right["input_ids"][0] == backbone.processor.image_id).nonzero()[:, 0]
    kept = torch.ones_like(right["input_ids"][0], dtype=torch.bool)
    kept[image[10:]] = False
    short = {
        **{key: right[key][:, kept] for key in ("input_ids", "attention_mask")},
        "pixel_values": right["pixel_values"][:, :1],
        "image_sizes": right["image_sizes"],
        "batch_num_images": torch.tensor([2]),
    }
    assert float((backbone.readout(short, q) - backbone.readout(right, q)).detach().abs().max()) > 1e-2


def test_several_pictures_need_their_number(backbone: Backbone) -> None:
    """Without it the library expects tiles of each picture, and says so."""
    processor = backbone.processor
    pair = processor.collate([processor.prepare(conformance.pictures(2), "open the drawer")])
    del pair["batch_num_images"]
    with pytest.raises((ValueError, RuntimeError)):
        backbone.readout(pair, conformance.query(backbone))


def test_the_class_default_of_the_library_would_be_wrong(backbone: Backbone, tmp_path: Path) -> None:
    """The image processor's default is CLIP's mean, the published files say 0.5; a checkpoint with CLIP is refused."""
    (image,) = conformance.pictures(1)
    q = conformance.query(backbone)
    right = conformance.batch_of(backbone, [image], ["push"])
    clip = LlavaOnevisionImageProcessorPil()
    shifted = image_processor(backbone, image_mean=clip.image_mean, image_std=clip.image_std)([[image]])
    wrong = {**right, "pixel_values": torch.from_numpy(np.asarray(shifted["pixel_values"]))}
    assert float((backbone.readout(wrong, q) - backbone.readout(right, q)).detach().abs().max()) > 1e-2
    backbone.model.save_pretrained(tmp_path)
    backbone.processor.tokenizer.save_pretrained(tmp_path)
    config = backbone.config.model_copy(update={"checkpoint": str(tmp_path), "init": "pretrained"})
    for mean, std, fits in (((0.5,) * 3, (0.5,) * 3, True), (clip.image_mean, clip.image_std, False)):
        said = {"image_mean": list(mean), "image_std": list(std)}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
        if fits:
            assert torch.equal(*(conformance.run(m, [image], ["push"]) for m in (backbone, loading.load(config, 1, 3))))
        else:
            with pytest.raises(UserError, match="says image_mean"):
                loading.load(config, 1, seed=3)


def test_the_last_norm_of_the_encoder_is_passed_by(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The features are the last layer's, before the norm; undeclared, it would stop data-parallel training."""
    before = conformance.run(backbone, conformance.pictures(1), ["push"])
    norm = backbone.model.vision_tower.post_layernorm
    with torch.no_grad():
        norm.weight.mul_(3)
        after = conformance.run(backbone, conformance.pictures(1), ["push"])
        norm.weight.div_(3)
    assert torch.equal(before, after)
    monkeypatch.setattr(type(backbone.family), "unused", ())
    with pytest.raises(conformance.Failed, match=r"vision_tower\.post_layernorm"):
        conformance.gradients(backbone)


def test_the_newline_vector_belongs_to_the_connector(backbone: Backbone) -> None:
    assert any(p is backbone.model.image_newline for p in backbone.groups()["connector"])


@pytest.mark.parametrize(("preset", "parameters"), [("0.5b", 893_675_552), ("7b", 7_485_580_832)])
def test_published_shapes(preset: str, parameters: int) -> None:
    """1485 image tokens for one picture, 730 for each of several, as published; base parameters counted by hand."""
    config = BackboneConfig(family="llava_onevision", checkpoint=f"preset:{preset}", init="scratch", image_size=384)
    backbone = loading.load(config, 1, 0, device="meta")
    for cameras, tokens in ((1, 1485), (2, 2 * 730)):
        ids = backbone.processor.prepare(conformance.pictures(cameras, 384), "push")["input_ids"]
        assert (ids == backbone.processor.image_id).sum() == tokens
    assert sum(p.numel() for p in backbone.parameters()) == parameters
    with pytest.raises(UserError, match="image_size to 384;"):
        loading.load(config.model_copy(update={"image_size": 224}), 1, 0, device="meta")
