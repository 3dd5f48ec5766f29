"""InternVL against the library itself: pixels, prompt, readout, other picture sizes, and settings known to be wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pil
from transformers import InternVLForConditionalGeneration
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from vlm4vla.backbones import conformance, loading
from vlm4vla.backbones.base import Backbone
from vlm4vla.schemas import BackboneConfig
from vlm4vla.types import UserError

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SENTENCE = "What action should the robotic arm take to open the drawer"


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return conformance.tiny("internvl")


@pytest.mark.parametrize("shape", [(96, 96), (120, 160)])
def test_pixels_equal_the_library_processor(backbone: Backbone, shape: tuple[int, int]) -> None:
    """One tile, stretched: what the published file says (crop_to_patches false)."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    processor = GotOcr2ImageProcessorPil(size={"height": 96, "width": 96}, image_mean=MEAN, image_std=STD)
    expected = processor([Pil.fromarray(image)], return_tensors="np")["pixel_values"]
    ours = backbone.processor.prepare([image], "push")["pixel_values"]
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_ids_are_those_of_the_whole_prompt(backbone: Backbone) -> None:
    """The pieces, encoded one by one, are the published text encoded at once."""
    processor = backbone.processor
    picture = "<img>" + "<IMG_CONTEXT>" * 9 + "</img>\n"
    for count in (1, 2):
        text = f"<|im_start|>user\n{picture * count}{SENTENCE}<|im_end|>\n<|im_start|>assistant\n"
        expected = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        ours = processor.prepare(conformance.pictures(count), "open the drawer")["input_ids"].tolist()
        assert ours == [*expected, processor.query_id]


def test_readout_equals_the_model_with_a_real_token(backbone: Backbone) -> None:
    """The library's own pixels and the ids of the written prompt, ended by a real token, give the same hidden state."""
    processor, model = backbone.processor, backbone.model
    image = conformance.pictures(1)[0]
    library = GotOcr2ImageProcessorPil(size={"height": 96, "width": 96}, image_mean=MEAN, image_std=STD)
    picture = "<img>" + "<IMG_CONTEXT>" * 9 + "</img>\n"
    text = f"<|im_start|>user\n{picture}{SENTENCE}<|im_end|>\n<|im_start|>assistant\nx"
    inputs = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt", return_token_type_ids=False)
    pixels = library([Pil.fromarray(image)], return_tensors="pt")["pixel_values"]
    expected = model(**inputs, pixel_values=pixels, use_cache=False).last_hidden_state[0, -1].detach()
    token = int(inputs["input_ids"][0, -1])
    ours = processor.collate([processor.prepare([image], "open the drawer")])
    assert ours["input_ids"].shape == inputs["input_ids"].shape
    vector = model.get_input_embeddings().weight[token][None].detach()
    assert float((backbone.readout(ours, vector)[0, 0].detach() - expected).abs().max()) <= 1e-5


def test_other_picture_sizes_interpolate_the_positions(backbone: Backbone) -> None:
    """4 tokens at side 64 instead of 9; all 36 learned positions and the class token's are in the 16 that are used."""
    small = loading.load(backbone.config.model_copy(update={"image_size": 64}), 1, seed=0).eval()
    positions = small.model.vision_tower.embeddings.position_embeddings
    torch.nn.init.normal_(positions, generator=torch.Generator().manual_seed(0))
    batch = conformance.batch_of(small, conformance.pictures(1, 64), ["push"])
    assert int((batch["input_ids"] == small.processor.image_id).sum()) == 4
    small.readout(batch, conformance.query(small)).square().mean().backward()
    assert bool((positions.grad.abs().amax(dim=-1) > 0).all())


def test_a_size_between_two_patches_is_refused(backbone: Backbone) -> None:
    with pytest.raises(UserError, match=r"multiples of 32 .* Set backbone\.image_size to 128"):
        loading.load(backbone.config.model_copy(update={"image_size": 120}), 1, seed=0)


def test_the_library_defaults_would_be_other_pictures(backbone: Backbone) -> None:
    """The image processor's class normalises as CLIP does, and the VLM's processor cuts wide pictures into tiles."""
    image = np.random.default_rng(0).integers(0, 256, (96, 192, 3), dtype=np.uint8)
    ours = backbone.processor.prepare([image], "push")["pixel_values"]
    size = {"height": 96, "width": 96}
    as_clip = GotOcr2ImageProcessorPil(size=size)([Pil.fromarray(image)], return_tensors="np")["pixel_values"]
    assert float(np.abs(ours - as_clip).max()) > 1e-2
    tiles = GotOcr2ImageProcessorPil(size=size, image_mean=MEAN, image_std=STD, crop_to_patches=True)
    assert len(tiles([Pil.fromarray(image)], return_tensors="np")["pixel_values"]) > len(ours) == 1


def test_a_published_checkpoint_loads_and_foreign_pixels_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    """As on the hub: saved with a language head of its own, beside a file that names the pixels' normalisation."""
    whole = InternVLForConditionalGeneration(backbone.model.config)
    whole.model.load_state_dict(backbone.model.state_dict())
    whole.save_pretrained(tmp_path)
    backbone.processor.tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    config = BackboneConfig(family="internvl", checkpoint=str(tmp_path), init="pretrained", image_size=96)
    loaded = loading.load(config, 1, seed=7).eval()
    images = conformance.pictures(1)
    assert torch.equal(*(conformance.run(m, images, ["open it"]) for m in (backbone, loaded)))
    GotOcr2ImageProcessorPil().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="says image_mean"):
        loading.load(config, 1, seed=7)


@pytest.mark.parametrize(("name", "with_head"), [("1b", 1.061), ("2b", 2.348), ("4b", 4.732), ("8b", 8.528)])
def test_full_size_presets_are_the_published_models(name: str, with_head: float) -> None:
    """In billions, with the head that these checkpoints store separately; 64 image tokens at side 224."""
    config = BackboneConfig(family="internvl", checkpoint=f"preset:3.5-{name}", init="scratch", image_size=224)
    backbone = loading.load(config, 1, seed=0, device="meta")
    assert backbone.model.config.tie_word_embeddings is False
    sizes = {group: sum(p.numel() for p in parameters) for group, parameters in backbone.groups().items()}
    assert round((sum(sizes.values()) + sizes["embedding"]) / 1e9, 3) == with_head
    if name == "1b":
        assert (sizes["vision"], sizes["connector"]) == (304_012_288, 5_253_120)
        assert sizes["language"] + 2 * sizes["embedding"] == 751_632_384
    ids = backbone.processor.prepare(conformance.pictures(1), "push")["input_ids"]
    assert int((ids == backbone.processor.image_id).sum()) == 64
