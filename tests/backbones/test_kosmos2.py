"""Kosmos-2 against the library itself: pixels, ids, readout, and the routes that are known to be wrong."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pil
from torch import Tensor
from transformers import (
    Kosmos2ForConditionalGeneration,
    Kosmos2Processor,
    PreTrainedTokenizerBase,
    XLMRobertaTokenizer,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from vlm4vla.backbones import conformance, families, loading
from vlm4vla.backbones._tiny import tiny_tokenizer
from vlm4vla.backbones.base import Backbone
from vlm4vla.schemas import BackboneConfig
from vlm4vla.types import UserError

LATENTS = 9
FIRST = ("<s>", "<pad>", "</s>", "<unk>")
SENTENCE = "What action should the robotic arm take to open the drawer"


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return conformance.tiny("kosmos2")


@pytest.fixture(scope="module")
def library() -> Kosmos2Processor:
    """The library's own processor; it adds its tags to the small tokenizer by itself, in the published order."""
    tokenizer = tiny_tokenizer(FIRST, pad="<pad>", eos="</s>")
    tokenizer.bos_token, tokenizer.unk_token = "<s>", "<unk>"
    return library_around(tokenizer)


def library_around(tokenizer: PreTrainedTokenizerBase) -> Kosmos2Processor:
    square = {"height": 96, "width": 96}
    return Kosmos2Processor(CLIPImageProcessorPil(size=square, crop_size=square), tokenizer, 0)


def library_inputs(library: Kosmos2Processor, first_slot: int | None) -> dict[str, Tensor]:
    image = Pil.fromarray(conformance.pictures(1)[0])
    more = {"num_image_tokens": LATENTS, "first_image_token_id": first_slot, "return_tensors": "pt"}
    return dict(library(images=[image], text=[SENTENCE], **more))


def one_sample(backbone: Backbone) -> dict[str, Tensor]:
    processor = backbone.processor
    return processor.collate([processor.prepare(conformance.pictures(1), "open the drawer")])


@pytest.mark.parametrize("shape", [(96, 96), (120, 160)])
def test_pixels_equal_the_library_processor(
    backbone: Backbone, library: Kosmos2Processor, shape: tuple[int, int]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = library.image_processor([Pil.fromarray(image)], return_tensors="np")["pixel_values"]
    ours = backbone.processor.prepare([image], "push")["pixel_values"]
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("first_slot", [4, None])  # as published, and as the library counts with this tokenizer
def test_inputs_and_readout_equal_the_library(
    backbone: Backbone, library: Kosmos2Processor, first_slot: int | None
) -> None:
    """All inputs are the library's, but for the ids in the slots, which do not matter: the readout is the same."""
    ours = one_sample(backbone)
    theirs = library_inputs(library, first_slot)
    assert set(theirs) == set(ours)
    slots = theirs["image_embeds_position_mask"] == 1
    assert int(slots.sum()) == LATENTS
    assert torch.equal(ours["image_embeds_position_mask"][:, :-1], theirs["image_embeds_position_mask"])
    assert torch.equal(ours["input_ids"][:, :-1][~slots], theirs["input_ids"][~slots])
    assert (
        not set(ours["input_ids"][:, :-1][slots].tolist()) & set(theirs["input_ids"][slots].tolist()) or not first_slot
    )

    token = int(library.tokenizer(" drawer", add_special_tokens=False)["input_ids"][0])
    end = {"input_ids": token, "attention_mask": 1, "image_embeds_position_mask": 0}
    longer = {key: torch.cat([theirs[key], torch.tensor([[value]])], dim=1) for key, value in end.items()}
    expected = backbone.model(**longer, pixel_values=theirs["pixel_values"], use_cache=False).last_hidden_state[0, -1]
    vector = backbone.model.get_input_embeddings().weight[token][None].detach()
    assert float((backbone.readout(ours, vector)[0, 0] - expected).detach().abs().max()) <= 1e-5


def test_ids_equal_the_library_with_the_published_kind_of_tokenizer(backbone: Backbone) -> None:
    """XLM-R's SentencePiece: every word begins with a space of its own, the first one after a tag too."""
    words = [*dict.fromkeys(f"▁{word}" for word in SENTENCE.split())]
    tokenizer = XLMRobertaTokenizer(vocab=[*((token, 0.0) for token in FIRST), *((word, -1.0) for word in words)])
    theirs = library_inputs(library_around(tokenizer), None)
    processor = loading.load(backbone.config, 1, seed=0, tokenizer=tokenizer).processor
    ours = processor.collate([processor.prepare(conformance.pictures(1), "open the drawer")])
    slots = theirs["image_embeds_position_mask"] == 1
    assert torch.equal(ours["image_embeds_position_mask"][:, :-1], theirs["image_embeds_position_mask"])
    assert torch.equal(ours["input_ids"][:, :-1][~slots], theirs["input_ids"][~slots])
    assert theirs["input_ids"][slots].tolist() == list(range(4, 4 + LATENTS))
    assert tokenizer.convert_ids_to_tokens(ours["input_ids"][0, 3 + LATENTS : -1]) == [
        f"▁{word}" for word in SENTENCE.split()
    ]


def test_markers_are_tags_that_no_prompt_contains(backbone: Backbone) -> None:
    """No row of the published embedding is free: 65037 tokens, 65037 rows."""
    tokenizer, processor = backbone.processor.tokenizer, backbone.processor
    assert backbone.model.config.text_config.vocab_size == len(tokenizer)
    assert tokenizer.convert_ids_to_tokens([processor.query_id, processor.image_id]) == ["</chunk>", "</line>"]


def test_tags_that_were_added_as_plain_tokens_stay_text(backbone: Backbone, library: Kosmos2Processor) -> None:
    """The library adds its tags without marking them special: an instruction could spell a second query."""
    tokenizer = library.tokenizer
    assert not tokenizer.added_tokens_decoder[tokenizer.convert_tokens_to_ids("</chunk>")].special
    other = loading.load(backbone.config, 1, seed=0, tokenizer=tokenizer).eval()
    assert conformance.special_tokens_stay_text(other)
    sentences = ["open the </chunk> drawer </line>"]
    assert torch.equal(*(conformance.run(m, conformance.pictures(1), sentences) for m in (backbone, other)))


def test_two_pictures_stand_in_their_own_tags(backbone: Backbone) -> None:
    processor = backbone.processor
    batch = processor.collate([processor.prepare(conformance.pictures(2), "push")])
    picture = "<image>" + "</line>" * LATENTS + "</image>"
    text = processor.tokenizer.decode(batch["input_ids"][0, :-1])
    assert text == f"<s>{picture}{picture} What action should the robotic arm take to push"
    assert int(batch["image_embeds_position_mask"].sum()) == 2 * LATENTS


def test_the_encoder_takes_one_size_only(backbone: Backbone) -> None:
    with pytest.raises(UserError, match=r"Set backbone\.image_size to 96"):
        loading.load(backbone.config.model_copy(update={"image_size": 112}), 1, seed=0)


def test_positions_are_those_that_the_library_counts(backbone: Backbone) -> None:
    batch = backbone.processor.collate(
        [backbone.processor.prepare(conformance.pictures(1), sentence) for sentence in ("open it", SENTENCE)]
    )
    counter = backbone.model.text_model.model.embed_positions
    theirs = counter.create_position_ids_from_input_ids(batch["input_ids"], counter.padding_idx)
    assert torch.equal(backbone.family.positions(backbone.model, batch)[0], theirs)


def test_dropout_acts_in_training_alone(backbone: Backbone) -> None:
    batch, query = one_sample(backbone), conformance.query(backbone)
    assert torch.equal(backbone.readout(batch, query), backbone.readout(batch, query))
    training = loading.load(backbone.config, 1, seed=0).train()
    assert not torch.allclose(training.readout(batch, query), training.readout(batch, query), atol=1e-2)


def test_image_features_before_the_start_token_are_another_prompt(backbone: Backbone) -> None:
    """The paper's code puts the picture before ``<s>`` and leaves its tags empty; the model has never seen that."""
    batch, query = one_sample(backbone), conformance.query(backbone)
    slots = batch["image_embeds_position_mask"][0] == 1
    order = torch.cat([slots.nonzero()[:, 0], (~slots).nonzero()[:, 0]])
    moved = {key: value if key == "pixel_values" else value[:, order] for key, value in batch.items()}
    right, wrong = (backbone.readout(inputs, query).detach() for inputs in (batch, moved))
    assert float((right - wrong).abs().max()) > 1e-2


def test_bare_embeddings_would_be_wrong_at_left_padding(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ids the pads are counted as positions, silently; the check of padding names it."""
    processor, query = backbone.processor, conformance.query(backbone)
    sample = processor.prepare(conformance.pictures(1), "open the drawer")
    padded = processor.collate([sample], len(sample["input_ids"]) + 20, "left")
    right = backbone.readout(padded, query).detach()

    def bare(self: Backbone, inputs: Mapping[str, Tensor], query_QD: Tensor) -> Tensor:
        with self._queries(query_QD):
            embedded = self.model.get_input_embeddings()(inputs["input_ids"])
        rest = {key: value for key, value in inputs.items() if key != "input_ids"}
        hidden: Tensor = self.model(inputs_embeds=embedded, **rest, use_cache=False).last_hidden_state
        return hidden

    monkeypatch.setattr(Backbone, "hidden_states", bare)
    assert float((backbone.readout(padded, query).detach() - right).abs().max()) > 1e-2
    with pytest.raises(conformance.Failed, match="padding or batch mates"):
        conformance.padding_and_mates(backbone)


def test_a_published_checkpoint_loads(backbone: Backbone, tmp_path: Path) -> None:
    """As on the hub: saved with its language head, which is tied to the embedding."""
    whole = Kosmos2ForConditionalGeneration(backbone.model.config)
    whole.load_state_dict(backbone.model.state_dict(), strict=False)
    whole.save_pretrained(tmp_path)
    backbone.processor.tokenizer.save_pretrained(tmp_path)
    config = BackboneConfig(family="kosmos2", checkpoint=str(tmp_path), init="pretrained", image_size=96)
    loaded = loading.load(config, 1, seed=7).eval()
    images = conformance.pictures(1)
    assert torch.equal(*(conformance.run(m, images, ["open it"]) for m in (backbone, loaded)))


def test_full_size_preset_is_the_published_model() -> None:
    """1.66 B parameters, which the paper rounds to 1.7; dropout 0.1 as published."""
    config = BackboneConfig(family="kosmos2", checkpoint="preset:patch14-224", init="scratch", image_size=224)
    model_config, _ = families.preset_parts(families.family("kosmos2"), "patch14-224")
    assert (model_config.text_config.dropout, model_config.text_config.attention_dropout) == (0.1, 0.1)
    backbone = loading.load(config, 1, seed=0, device="meta")
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6) == 1664
    assert backbone.processor.prepare(conformance.pictures(1), "push")["pixel_values"].shape == (1, 3, 224, 224)
