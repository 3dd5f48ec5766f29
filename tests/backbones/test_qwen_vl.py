"""The Qwen-VL families against the library itself: pixels, inputs, positions, and routes that are known to be wrong."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vlm4vla import anatomy
from vlm4vla.backbones import conformance, families, loading
from vlm4vla.backbones.base import Backbone
from vlm4vla.schemas import BackboneConfig

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
HALF = ([0.5] * 3, [0.5] * 3)
PIXELS = {"qwen2_5_vl": CLIP, "qwen3_vl": HALF, "qwen3_vl_moe": HALF}
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
OPENING = {"qwen2_5_vl": SYSTEM, "qwen3_vl": "", "qwen3_vl_moe": ""}
IMAGE_TOKENS, SIDE = 9, 3  # of a tiny preset: 96 pixels, patch 16, merge 2
INSTRUCTION = "open the drawer"
SENTENCE = "What action should the robotic arm take to open the drawer"


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return conformance.tiny(request.param)


def image_processor(backbone: Backbone, frames: int) -> Qwen2VLImageProcessorPil:
    """The library's own, with the family's published mean and deviation, at the tiny preset's size."""
    mean, std = PIXELS[backbone.family.name]
    limits = {"shortest_edge": 96 * 96, "longest_edge": 96 * 96}
    return Qwen2VLImageProcessorPil(
        patch_size=16, temporal_patch_size=frames, merge_size=2, image_mean=mean, image_std=std, size=limits
    )


def library_inputs(backbone: Backbone, last: int) -> dict[str, Tensor]:
    """What the library makes of one turn, then the token ``last``: its processor class needs torchvision, so the text
    is written by hand and tokenised in one piece."""
    image = "<|vision_start|>" + "<|image_pad|>" * IMAGE_TOKENS + "<|vision_end|>"
    text = f"{OPENING[backbone.family.name]}<|im_start|>user\n{image}{SENTENCE}<|im_end|>\n<|im_start|>assistant\n"
    tokenizer = backbone.processor.tokenizer
    ids = torch.tensor([[*tokenizer(text, add_special_tokens=False)["input_ids"], last]])
    pixels = image_processor(backbone, backbone.processor.frames)(conformance.pictures(1), return_tensors="pt")
    types = (ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).int()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": types, **pixels}


def one_batch(backbone: Backbone) -> dict[str, Tensor]:
    return conformance.batch_of(backbone, conformance.pictures(1), [INSTRUCTION])


@pytest.mark.parametrize("frames", [1, 2])  # the tiny presets', and that of the published checkpoints
def test_pixels_equal_the_library(backbone: Backbone, frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = conformance.pictures(1)[0]
    expected = image_processor(backbone, frames)([image], return_tensors="np")
    monkeypatch.setattr(backbone.processor, "frames", frames)
    ours = backbone.processor.prepare([image], "push")
    np.testing.assert_allclose(ours["pixel_values"], expected["pixel_values"], atol=1e-6)
    np.testing.assert_array_equal(ours["image_grid_thw"], expected["image_grid_thw"])


def test_inputs_equal_the_library(backbone: Backbone) -> None:
    ours, expected = one_batch(backbone), library_inputs(backbone, backbone.processor.query_id)
    assert sorted(ours) == sorted(expected)
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-6, check_dtype=False)


def test_readout_equals_the_model_with_a_real_token(backbone: Backbone) -> None:
    """With the query set to a token's own embedding, the readout is the library's hidden state on its own inputs."""
    processor, model = backbone.processor, backbone.model
    token = int(processor.tokenizer("drawer", add_special_tokens=False)["input_ids"][0])
    vector = model.get_input_embeddings().weight[token][None].detach()
    ours = backbone.readout(one_batch(backbone), vector).detach()[0, 0]
    theirs = model(**library_inputs(backbone, token), use_cache=False).last_hidden_state[0, -1].detach()
    assert float((ours - theirs).abs().max()) <= 1e-5


def test_positions_are_those_of_the_plane(backbone: Backbone) -> None:
    """M-RoPE, counted by hand: a picture takes one step of time, its rows and columns count on from the text before it,
    and the text goes on after its longer side."""
    batch = one_batch(backbone)
    ids = batch["input_ids"][0].tolist()
    start = ids.index(backbone.processor.image_id)
    expected = [(i, i, i) for i in range(start)]
    expected += [(start, start + row, start + column) for row in range(SIDE) for column in range(SIDE)]
    expected += [(start + SIDE + i,) * 3 for i in range(len(ids) - start - IMAGE_TOKENS)]
    assert backbone.family.positions(backbone.model, batch)[:, 0].T.tolist() == [list(at) for at in expected]


# Reference defect 6: without input ids the positions of the image plane are lost, silently.


def language_model_alone(self: Backbone, inputs: Mapping[str, Tensor], query_QD: Tensor) -> Tensor:
    """Wrong: the pictures are merged by hand, and the language model gets embeddings alone."""
    features = self.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)
    places = inputs["input_ids"] == self.processor.image_id
    with self._queries(query_QD):
        embedded = self.model.get_input_embeddings()(inputs["input_ids"])
    embedded = embedded.masked_scatter(places[..., None], torch.cat(list(features.pooler_output)))
    deep = getattr(features, "deepstack_features", None)
    levels = {"visual_pos_masks": places, "deepstack_visual_embeds": [torch.cat(list(f)) for f in deep]} if deep else {}
    return self.model.language_model(
        inputs_embeds=embedded, attention_mask=inputs["attention_mask"], **levels
    ).last_hidden_state


def embeddings_alone(self: Backbone, inputs: Mapping[str, Tensor], query_QD: Tensor) -> Tensor:
    """Wrong: the whole model, but with embeddings where its input ids belong."""
    with self._queries(query_QD):
        embedded = self.model.get_input_embeddings()(inputs["input_ids"])
    others = {name: inputs[name] for name in ("attention_mask", "pixel_values", "image_grid_thw")}
    return self.model(inputs_embeds=embedded, **others, use_cache=False).last_hidden_state


@pytest.mark.parametrize("wrong", [language_model_alone, embeddings_alone])
def test_bare_embeddings_are_wrong_and_noticed(
    backbone: Backbone, wrong: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    query = conformance.query(backbone)
    right = backbone.readout(one_batch(backbone), query)
    monkeypatch.setattr(backbone.model, "rope_deltas", None)
    monkeypatch.setattr(Backbone, "hidden_states", wrong)
    assert float((right - backbone.readout(one_batch(backbone), query)).detach().abs().max()) > 1e-2
    with pytest.raises(conformance.Failed, match="differs from the library's hidden state"):
        conformance.equals_the_library(backbone)


def given_positions(backbone: Backbone, call: Callable[[], Any]) -> Tensor | None:
    """The position ids that the language model gets while ``call`` runs."""
    given: list[Tensor | None] = []

    def keep(_module: object, _args: object, kwargs: dict[str, Tensor | None]) -> None:
        given.append(kwargs["position_ids"])

    handle = backbone.model.get_decoder().register_forward_pre_hook(keep, with_kwargs=True)
    try:
        call()
    finally:
        handle.remove()
    (positions,) = given
    return positions


def test_positions_of_an_earlier_call_stay_in_the_model_and_are_not_read(backbone: Backbone) -> None:
    """The library keeps ``rope_deltas`` of the last call: embeddings without ids count on from them, ids never do.

    Rotary positions are relative, so the shift itself is harmless; the plane of the picture is lost either way.
    """
    query, batch = conformance.query(backbone), one_batch(backbone)
    backbone.model.rope_deltas = None
    right = backbone.readout(batch, query)
    fresh = given_positions(backbone, lambda: backbone.readout(batch, query))
    stale = given_positions(backbone, lambda: embeddings_alone(backbone, batch, query))
    processor = backbone.processor
    two = processor.collate([processor.prepare(conformance.pictures(2), INSTRUCTION)])
    backbone.readout(two, query)
    staler = given_positions(backbone, lambda: embeddings_alone(backbone, batch, query))
    assert fresh is not None and stale is not None and staler is not None
    assert not torch.equal(stale, staler) and not torch.equal(fresh, stale)
    assert float((right - embeddings_alone(backbone, batch, query)[:, -1:]).detach().abs().max()) > 1e-2
    assert torch.equal(right, backbone.readout(batch, query))
    again = given_positions(backbone, lambda: backbone.readout(batch, query))
    assert again is not None and torch.equal(fresh, again)


def test_a_published_checkpoint_loads(backbone: Backbone, tmp_path: Path) -> None:
    """As on the hub: saved with its language head, and for the experts with their axes exchanged."""
    whole = AutoModelForImageTextToText.from_config(backbone.model.config)
    whole.model.load_state_dict(backbone.model.state_dict())
    whole.save_pretrained(tmp_path)
    backbone.processor.tokenizer.save_pretrained(tmp_path)
    config = backbone.config.model_copy(update={"checkpoint": str(tmp_path), "init": "pretrained"})
    loaded = loading.load(config, 1, seed=7).eval()
    images = conformance.pictures(1)
    assert torch.equal(*(conformance.run(m, images, ["open it"]) for m in (backbone, loaded)))


# With the published tokenizers: the ids of real checkpoints, and of full-size presets.

TOKENIZERS = Path(__file__).parents[2].parent / "shared/assets/tokenizers"
TOKENIZER = {"qwen2_5_vl": "qwen2_5", "qwen3_vl": "qwen3", "qwen3_vl_moe": "qwen3"}
FULL_SIZE = {"qwen2_5_vl": ("3b", "7b"), "qwen3_vl": ("2b", "4b", "8b"), "qwen3_vl_moe": ("30b-a3b",)}
MARKER = {"qwen2_5_vl": 151665, "qwen3_vl": 151669, "qwen3_vl_moe": 151669}
SYSTEM_IDS = [151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198]
SENTENCE_IDS = [3838, 1917, 1265, 279, 58001, 6773, 1896, 311, 1787, 279, 26482]


@pytest.fixture(scope="module", params=FAMILIES)
def published(request: pytest.FixtureRequest) -> tuple[str, Path, PreTrainedTokenizerBase]:
    """Family, folder of its published tokenizer, and the tokenizer."""
    folder = TOKENIZERS / TOKENIZER[request.param]
    if not (folder / "tokenizer.json").exists():
        pytest.skip(f"the published tokenizer is not here: {folder} has no tokenizer.json")
    return request.param, folder, AutoTokenizer.from_pretrained(folder)


def test_full_size_presets_get_the_published_ids(published: tuple[str, Path, PreTrainedTokenizerBase]) -> None:
    name, _, tokenizer = published
    family = families.family(name)
    assert sorted(p for p in families.preset_names(family) if not p.startswith("tiny")) == sorted(FULL_SIZE[name])
    for preset in FULL_SIZE[name]:
        config, _ = families.preset_parts(family, preset, tokenizer=tokenizer)
        assert (config.image_token_id, config.video_token_id) == (151655, 151656)
        assert (config.vision_start_token_id, config.vision_end_token_id) == (151652, 151653)
        settings = BackboneConfig(family=name, checkpoint=f"preset:{preset}", init="scratch", image_size=224)
        processor = family.processor(tokenizer, settings, config, 1)
        assert (processor.image_id, processor.query_id) == (151655, MARKER[name])
        assert processor.query_id < config.text_config.vocab_size


@pytest.mark.parametrize("size", [224, 448])
def test_prompt_has_the_published_ids(published: tuple[str, Path, PreTrainedTokenizerBase], size: int) -> None:
    """As ``vlm4vla inspect`` shows it; the image tokens are those of patch 14 or 16 and merge 2."""
    name, folder, _ = published
    count = {224: 64, 448: 256}[size] if name == "qwen2_5_vl" else {224: 49, 448: 196}[size]
    found = anatomy.look(anatomy.parse(f"{name}:{FULL_SIZE[name][-1]}", size), INSTRUCTION, tokenizer=str(folder))
    opening = SYSTEM_IDS if name == "qwen2_5_vl" else []
    user = [151644, 872, 198, 151652, *[151655] * count, 151653, *SENTENCE_IDS, 151645, 198]
    assert [token.id for token in found.prompt] == [*opening, *user, 151644, 77091, 198, MARKER[name]]
    assert found.image_tokens == count
    first = len(opening) + 4
    side = int(count**0.5)
    assert found.corners["top left"] == (first,) * 3
    assert found.corners["bottom right"] == (first, first + side - 1, first + side - 1)


def test_64_image_tokens_at_the_published_least_size(published: tuple[str, Path, PreTrainedTokenizerBase]) -> None:
    """The published processor of patch 16 enlarges what is below 256 x 256; a size of 256 gives its 64 tokens."""
    name, _, tokenizer = published
    family = families.family(name)
    config, _ = families.preset_parts(family, FULL_SIZE[name][0], tokenizer=tokenizer)
    size = 224 if name == "qwen2_5_vl" else 256
    settings = BackboneConfig(family=name, checkpoint=f"preset:{FULL_SIZE[name][0]}", init="scratch", image_size=size)
    ids = family.processor(tokenizer, settings, config, 1).prepare(conformance.pictures(1), "push")["input_ids"]
    assert ids.tolist().count(151655) == 64
