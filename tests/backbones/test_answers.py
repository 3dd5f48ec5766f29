"""Answers are the library's own: likelihoods equal its loss, speech its forward pass step by step, in every family."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from vlm4vla import registry
from vlm4vla.backbones import answers, conformance, families
from vlm4vla.backbones.answers import Answerer
from vlm4vla.schemas import BackboneConfig
from vlm4vla.types import RunFailed, UserError

CASES = [(name, preset) for name in registry.names("backbones") for preset in conformance.tiny_presets(name)]
SPEAKING = [case for case in CASES if families.family(case[0]).hears]
ANSWER = "red block"


def save(folder: Path, family: str, preset: str = "tiny") -> BackboneConfig:
    source = conformance.tiny(family, preset)
    torch.manual_seed(3)
    whole = AutoModelForImageTextToText.from_config(source.model_config)
    source.family.complete_scratch(whole.base_model)
    whole.save_pretrained(folder)
    source.processor.tokenizer.save_pretrained(folder)
    changes = {"checkpoint": str(folder), "init": "pretrained", "prompt": answers.ASK_PLAINLY}
    return source.config.model_copy(update=changes)


@pytest.fixture(scope="module", params=SPEAKING, ids=["-".join(case) for case in SPEAKING])
def answerer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Answerer:
    return answers.load(save(tmp_path_factory.mktemp("vlm"), *request.param), "cpu")


def next_token(answerer: Answerer, prompt: dict[str, np.ndarray], ids: list[int]) -> torch.Tensor:
    """Log-probabilities (V,) after the prompt and some answer ids, by the library's whole forward pass."""
    marks = np.full(len(ids), answerer.processor.query_id, dtype=np.int64)
    batch = answerer.processor.collate([{**prompt, "input_ids": np.concatenate([prompt["input_ids"], marks])}])
    batch["input_ids"][0, len(prompt["input_ids"]) :] = torch.tensor(ids, dtype=torch.long)
    with torch.inference_mode():
        return answerer.model(**batch, use_cache=False).logits[0, -1].double().log_softmax(-1)


def test_a_likelihood_is_the_librarys_loss_and_the_product_of_its_steps(answerer: Answerer) -> None:
    prompt = answerer.prompt(conformance.pictures(1), "what is this?")
    ids = answerer.processor.answer(ANSWER)
    (found,) = answerer.log_likelihoods(prompt, [ANSWER])
    steps = [float(next_token(answerer, prompt, ids[:i])[ids[i]]) for i in range(len(ids))]
    assert len(ids) > 1 and found == pytest.approx(sum(steps), abs=1e-4)
    # The library's own loss over the answer alone.
    whole = {**prompt, "input_ids": np.concatenate([prompt["input_ids"], [answerer.processor.query_id] * len(ids)])}
    batch = answerer.processor.collate([whole])
    batch["input_ids"][0, -len(ids) :] = torch.tensor(ids)
    labels = torch.full_like(batch["input_ids"], -100)
    labels[0, -len(ids) :] = torch.tensor(ids)
    with torch.inference_mode():
        loss = float(answerer.model(**batch, labels=labels).loss)
    assert found == pytest.approx(-loss * len(ids), abs=1e-4)


def test_answers_asked_together_are_answers_asked_alone(answerer: Answerer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters take one pass; what shares no beginning takes its own."""
    prompt = answerer.prompt(conformance.pictures(1), "which is it?")
    words = ["A", "B", ANSWER, "red ball", "C"]
    alone = [answerer.log_likelihoods(prompt, [word])[0] for word in words]
    assert answerer.log_likelihoods(prompt, words) == alone
    asked = []
    plain = answerer._after
    monkeypatch.setattr(answerer, "_after", lambda *a: asked.append(a[1]) or plain(*a))
    letters = ["A", "B", "C", "D"]
    assert answerer.log_likelihoods(prompt, letters)[:2] == alone[:2]
    # The small tokenizer spells some letters in two tokens, a space and the letter.
    begun = dict.fromkeys(tuple(answerer.processor.answer(letter)[:-1]) for letter in letters)
    assert asked == list(begun) and len(asked) <= 2


def test_nearly_all_families_speak() -> None:
    assert len(SPEAKING) >= 11


def test_it_says_the_likeliest_tokens_step_by_step(answerer: Answerer) -> None:
    prompt = answerer.prompt(conformance.pictures(2)[1:], "what is this?")
    ids: list[int] = []
    while len(ids) < 5:
        best = int(next_token(answerer, prompt, ids).argmax())
        if best in answerer.processor.special_ids:
            break
        ids.append(best)
    assert answerer.say(prompt, 5) == answerer.processor.tokenizer.decode(ids).strip()


def test_prompt_ends_where_the_answer_begins(answerer: Answerer) -> None:
    """The prompt is that of the policies up to their query, and holds the question as text."""
    processor = answerer.processor
    prompt = answerer.prompt(conformance.pictures(1), "what is this?")["input_ids"]
    policy = conformance.tiny(answerer.family.name).processor
    policy.config = processor.config
    assert processor.query_id not in prompt
    assert prompt.tolist() == policy.prepare(conformance.pictures(1), "what is this?")["input_ids"].tolist()[:-1]
    assert "what is this?" in processor.tokenizer.decode(prompt)


def test_pictures_and_questions_matter_and_earlier_ones_do_not(answerer: Answerer) -> None:
    a, b = conformance.pictures(2)

    def asked(image: np.ndarray, question: str) -> float:
        return answerer.log_likelihoods(answerer.prompt([image], question), [ANSWER])[0]

    first = asked(a, "what is this?")
    assert asked(b, "what is this?") != first and asked(a, "what colour is it?") != first
    answerer.say(answerer.prompt([b], "who?"), 3)
    assert asked(a, "what is this?") == first


def test_settings_of_generation_in_a_checkpoint_do_not_act(tmp_path: Path) -> None:
    """Published ones sample, and punish repetition: then an answer would not be the likeliest one."""
    config = save(tmp_path, "internvl")
    plain = answers.load(config, "cpu")
    (tmp_path / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 5.0, "repetition_penalty": 9.0, "eos_token_id": 3}'
    )
    other = answers.load(config, "cpu")
    said = [a.say(a.prompt(conformance.pictures(1), "what is this?"), 8) for a in (plain, other)]
    assert said[0] == said[1] and len(said[0]) > 3


def test_half_precision_weights_take_pictures_too(tmp_path: Path) -> None:
    config = save(tmp_path, "paligemma")
    half = answers.load(config.model_copy(update={"dtype": "bfloat16"}), "cpu")
    full = answers.load(config, "cpu")
    a, b = (x.log_likelihoods(x.prompt(conformance.pictures(1), "what?"), [ANSWER]) for x in (half, full))
    assert half.model.dtype == torch.bfloat16 and a == pytest.approx(b, rel=0.05)


def test_a_model_without_its_head_is_refused(tmp_path: Path) -> None:
    """Untied, and left out: the library would draw a random one."""
    config = save(tmp_path, "smolvlm")
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"has no language head, so it cannot answer\. Possible: the whole"):
        answers.load(config, "cpu")


def test_a_family_that_the_library_does_not_let_speak_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that hears no words: whoever asks it would grade chance."""
    config = save(tmp_path / "vlm", "qwen3_vl")
    for deaf in [name for name, _ in CASES if not families.family(name).hears]:
        with pytest.raises(UserError, match="that reads and writes text"):
            answers.load(save(tmp_path / deaf, deaf), "cpu")
    monkeypatch.setattr("vlm4vla.backbones.loading.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING", {})
    with pytest.raises(UserError, match="no model of type 'qwen3_vl' that reads and writes text"):
        answers.load(config, "cpu")


def test_numbers_that_are_none_are_no_likelihood(tmp_path: Path) -> None:
    answerer = answers.load(save(tmp_path, "qwen3_vl"), "cpu")
    broken = torch.full((1, 9, 2000), float("nan"))
    prompt = answerer.prompt(conformance.pictures(1), "what?")
    embedding = answerer.model.get_input_embeddings()

    class Broken:
        def __call__(self, **_: object) -> SimpleNamespace:
            return SimpleNamespace(logits=broken[:, : len(answerer.processor.answer("A"))])

        def get_input_embeddings(self) -> torch.nn.Module:
            return embedding

    answerer.model = Broken()
    with pytest.raises(RunFailed, match="log-likelihood of nan"):
        answerer.log_likelihoods(prompt, ["A"])
