"""SmolVLM2 and Idefics3 against the library itself: pixels, prompts, readouts, and the routes known to be wrong."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import AutoModel
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE, get_image_prompt_string

from vlm4vla.backbones import conformance, families, loading
from vlm4vla.backbones.base import Backbone
from vlm4vla.schemas import BackboneConfig
from vlm4vla.types import Image, UserError

SENTENCE = "What action should the robotic arm take to open the drawer"
IMAGE_PROCESSORS = {"smolvlm": SmolVLMImageProcessorPil, "idefics3": Idefics3ImageProcessorPil}


@pytest.fixture(scope="module", params=["smolvlm", "idefics3"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return conformance.tiny(request.param)


def image_processor(family: str, size: int) -> Any:
    """As published, but for one whole view at ``size`` (there the resizes of the library do nothing)."""
    edges = {"size": {"longest_edge": size}, "max_image_size": {"longest_edge": size}}
    return IMAGE_PROCESSORS[family](image_mean=[0.5] * 3, image_std=[0.5] * 3, do_image_splitting=False, **edges)


def library_inputs(backbone: Backbone, images: list[Image]) -> dict[str, Tensor]:
    """What the library's own code makes of the published prompt."""
    own, tokenizer = image_processor(backbone.family.name, 96), deepcopy(backbone.processor.tokenizer)
    if backbone.family.name == "idefics3":
        text = f"<|begin_of_text|>User:{'<image>' * len(images)}{SENTENCE}<end_of_utterance>\nAssistant:"
        processor = Idefics3Processor(own, tokenizer, image_seq_len=9)
        return dict(processor(images=[images], text=[text], add_special_tokens=False, return_tensors="pt"))
    # SmolVLMProcessor itself wants a video processor, and those want torchvision.
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": SENTENCE}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=DEFAULT_CHAT_TEMPLATE,
        add_generation_prompt=True,
        tokenize=False,
    )
    view = get_image_prompt_string(0, 0, 9, "<fake_token_around_image>", "<image>", "<global-img>")
    words = tokenizer(text.replace("<image>", view), add_special_tokens=False, return_tensors="pt")
    return {**words, **own([images], return_tensors="pt")}


@pytest.mark.parametrize("cameras", [1, 2])
def test_inputs_equal_the_library(backbone: Backbone, cameras: int) -> None:
    images, processor = conformance.pictures(cameras), backbone.processor
    ours = processor.collate([processor.prepare(images, "open the drawer")])
    theirs = library_inputs(backbone, images)
    assert ours["input_ids"][0, :-1].tolist() == theirs["input_ids"][0].tolist()
    np.testing.assert_allclose(ours["pixel_values"], theirs["pixel_values"], atol=1e-6)
    assert ours["pixel_values"].shape == (1, cameras, 3, 96, 96)
    assert bool(theirs["pixel_attention_mask"].all()), "the mask that we leave out says nothing"


@pytest.mark.parametrize("cameras", [1, 2])
def test_readout_equals_the_library(backbone: Backbone, cameras: int) -> None:
    """A direct call of the library on its own inputs, mask of pixels included, ending in a real token."""
    images, processor = conformance.pictures(cameras), backbone.processor
    token = int(processor.tokenizer("drawer", add_special_tokens=False)["input_ids"][0])
    vector = backbone.model.get_input_embeddings().weight[token][None].detach()
    ours = backbone.readout(processor.collate([processor.prepare(images, "open the drawer")]), vector)[0, 0]
    theirs = library_inputs(backbone, images)
    ids = torch.cat([theirs["input_ids"], torch.tensor([[token]])], dim=1)
    pixels = {key: theirs[key] for key in ("pixel_values", "pixel_attention_mask")}
    hidden = backbone.model(input_ids=ids, attention_mask=torch.ones_like(ids), **pixels).last_hidden_state[0, -1]
    assert float((ours - hidden).detach().abs().max()) <= 1e-5


def test_cameras_of_a_batch_stay_with_their_sample(backbone: Backbone) -> None:
    """Pictures are (B, cameras, ...): turned the other way round they fit as well, and belong to other samples."""
    processor, q = backbone.processor, conformance.query(backbone)
    a, b, c, d = conformance.pictures(4)
    samples = [processor.prepare(views, "push") for views in ([a, b], [c, d])]
    alone = torch.cat([backbone.readout(processor.collate([s]), q) for s in samples]).detach()
    batch = processor.collate(samples)
    assert float((backbone.readout(batch, q).detach() - alone).abs().max()) <= 1e-5
    turned = {**batch, "pixel_values": batch["pixel_values"].transpose(0, 1).contiguous()}
    assert float((backbone.readout(turned, q).detach() - alone).abs().max()) > 1e-2


def test_a_grey_picture_is_seen_and_a_plane_of_zeros_is_not(backbone: Backbone) -> None:
    """The library takes a picture whose pixels are all exactly 0 for padding; no picture of 8 bits becomes one."""
    processor, q = backbone.processor, conformance.query(backbone)
    for level in (127, 128):
        grey = np.full((96, 96, 3), level, np.uint8)
        batch = processor.collate([processor.prepare([grey], "push")])
        assert bool(backbone.readout(batch, q).isfinite().all())
    zeros = {**batch, "pixel_values": torch.zeros_like(batch["pixel_values"])}
    if backbone.family.name == "smolvlm":  # keeps one picture of a batch without any
        zeros["pixel_values"] = torch.cat([batch["pixel_values"], zeros["pixel_values"]])
        zeros["input_ids"] = zeros["input_ids"].expand(2, -1)
        zeros["attention_mask"] = zeros["attention_mask"].expand(2, -1)
    with pytest.raises((ValueError, RuntimeError)):
        backbone.readout(zeros, q)


def test_every_row_has_a_token_and_the_query_takes_a_reserved_one(backbone: Backbone) -> None:
    processor = backbone.processor
    assert len(processor.tokenizer) == backbone.model.get_input_embeddings().num_embeddings
    assert processor.query_id == processor.special(processor.spare_tokens[0])[0]
    ids = processor.prepare(conformance.pictures(1), f"say {processor.spare_tokens[0]}")["input_ids"]
    assert (ids == processor.query_id).sum() == 1


def test_a_second_opening_token_would_be_wrong() -> None:
    """Llama's tokenizer writes ``<|begin_of_text|>`` by itself, and the template has it too."""
    backbone = conformance.tiny("idefics3")
    right = conformance.batch_of(backbone, conformance.pictures(1), ["open the drawer"])
    opening = backbone.processor.special("<|begin_of_text|>")[0]
    eager = deepcopy(backbone.processor.tokenizer)
    eager.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", opening)]
    )
    config = backbone.config
    processor = type(backbone.processor)(eager, config, backbone.model_config, queries=1)
    again = processor.collate([processor.prepare(conformance.pictures(1), "open the drawer")])
    assert torch.equal(again["input_ids"], right["input_ids"]), "nothing is added by the tokenizer"
    ids = torch.cat([torch.tensor([[opening]]), right["input_ids"]], dim=1)
    assert eager(backbone.processor.tokenizer.decode(right["input_ids"][0]))["input_ids"] == ids[0].tolist()
    doubled = {**right, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    q = conformance.query(backbone)
    assert float((backbone.readout(doubled, q) - backbone.readout(right, q)).detach().abs().max()) > 1e-2


def test_pixels_beyond_the_last_whole_patch_are_lost_in_the_library() -> None:
    """Why the 2.2B runs at 378: its encoder is called a 384, and its patches of 14 reach to 378. Here 48 and 42."""
    model_config, tokenizer = families.preset_parts(families.family("smolvlm"), "tiny")
    model_config.vision_config.image_size, model_config.vision_config.patch_size = 48, 14
    model_config.scale_factor = 3
    torch.manual_seed(0)
    model = AutoModel.from_config(model_config).eval()
    config = BackboneConfig(family="smolvlm", checkpoint="preset:tiny", init="scratch", image_size=42)
    processor = families.family("smolvlm").processor(tokenizer, config, model_config, 1)
    (large,) = conformance.pictures(1, 48)
    batch = processor.collate([processor.prepare([np.ascontiguousarray(large[:42, :42])], "push")])
    with torch.no_grad():
        exact = model(**batch).last_hidden_state
        planes = torch.from_numpy(processor.normalise(large.transpose(2, 0, 1)))[None, None]
        assert torch.equal(model(**{**batch, "pixel_values": planes}).last_hidden_state, exact)
    with pytest.raises(UserError, match="image_size to 42"):
        families.family("smolvlm").processor(tokenizer, config.model_copy(update={"image_size": 48}), model_config, 1)


@pytest.mark.parametrize(
    ("family", "preset", "tokens", "parameters"),
    [  # parameters without the language head, counted by hand; with it 256.5, 507.5, 2246.8 and 8462.1 million
        ("smolvlm", "2-256m", 64, 228_099_648),
        ("smolvlm", "2-500m", 64, 460_173_504),
        ("smolvlm", "2-2.2b", 81, 2_145_859_440),
        ("idefics3", "8b-llama3", 169, 7_936_737_520),
    ],
)
def test_published_shapes(family: str, preset: str, tokens: int, parameters: int) -> None:
    size = families.preset(families.family(family), preset)["image_size"]
    config = BackboneConfig(family=family, checkpoint=f"preset:{preset}", init="scratch", image_size=size)
    backbone = loading.load(config, 1, 0, device="meta")
    assert backbone.processor.image_tokens() == tokens
    assert sum(p.numel() for p in backbone.parameters()) == parameters


@pytest.mark.parametrize(
    ("family", "preset", "size", "nearest"),
    [
        ("smolvlm", "2-2.2b", 384, 378),
        ("smolvlm", "2-256m", 224, 256),
        ("smolvlm", "2-256m", 1024, 512),
        ("idefics3", "8b-llama3", 365, 364),
        ("idefics3", "8b-llama3", 5, 28),
    ],
)
def test_other_sizes_are_refused_with_the_nearest(family: str, preset: str, size: int, nearest: int) -> None:
    config = BackboneConfig(family=family, checkpoint=f"preset:{preset}", init="scratch", image_size=size)
    with pytest.raises(UserError, match=f"backbone.image_size to {nearest};"):
        loading.load(config, 1, 0, device="meta")
