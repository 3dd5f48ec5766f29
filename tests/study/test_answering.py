"""The built-in evaluator, from the command line to the correlation: it goes on after a kill, and grades rightly."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from asked import rows, whole, write

from vlm4vla.backbones import answers
from vlm4vla.backbones.answers import Answerer
from vlm4vla.cli.main import main
from vlm4vla.study import answering, questions, scores
from vlm4vla.study.answering import Request
from vlm4vla.types import UserError


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny VLM with its head; random weights."""
    folder = tmp_path_factory.mktemp("published") / "vlm"
    whole(folder)
    return folder


@pytest.fixture
def request_of(vlm: Path, tmp_path: Path) -> Request:
    file = write(tmp_path / "tasks" / "colours.jsonl", rows())
    return Request(str(vlm), (file,), tmp_path / "scores.json", name="tiny", family="Qwen3", image_size=96)


def quiet(_: str) -> None:
    pass


def test_a_run_leaves_rows_and_a_score_that_follows_from_them(request_of: Request) -> None:
    (row,) = answering.run(request_of, quiet)
    (file,) = request_of.out.with_suffix(".answers").glob("tiny/colours-*/rows.jsonl")
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["id"] for line in found] == [f"q{i}" for i in range(8)]
    right = 0
    for line, question in zip(found, rows(), strict=True):
        best = max(range(4), key=lambda i: line["log_likelihoods"][i])
        assert line["answer"] == question["choices"][best]
        right += line["answer"] == question["answer"]
    assert row.score == right / 8 and row.n == 8 and row.evaluator == answering.EVALUATOR
    assert (row.vlm, row.family, row.task, row.metric) == ("tiny", "Qwen3", "colours", "accuracy")
    assert row.standard_error == pytest.approx((row.score * (1 - row.score) / 8) ** 0.5)
    assert scores.read_scores(request_of.out) == [row]
    settings = json.loads((file.parent / "settings.json").read_text())
    assert settings["backbone"]["image_size"] == 96
    assert "model.safetensors" in settings["files"]


def test_what_is_answered_is_not_asked_again_and_a_torn_row_is(
    request_of: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = answering.run(request_of, quiet)
    (file,) = request_of.out.with_suffix(".answers").glob("tiny/colours-*/rows.jsonl")
    whole_text = file.read_bytes()
    file.write_bytes(whole_text[: whole_text.index(b"q5") + 9])  # killed inside the sixth row
    asked: list[str] = []
    plain = answering.answer

    def answer(answerer: Answerer, task: questions.Task, question: questions.Question, tokens: int):  # type: ignore[no-untyped-def]
        asked.append(question.id)
        return plain(answerer, task, question, tokens)

    monkeypatch.setattr(answering, "answer", answer)
    assert answering.run(request_of, quiet) == first
    assert asked == ["q5", "q6", "q7"] and file.read_bytes() == whole_text
    monkeypatch.setattr(answers, "load", None)  # nothing is open: the weights are not needed
    assert answering.run(request_of, quiet) == first


def test_a_kill_in_the_middle_changes_nothing(request_of: Request, tmp_path: Path) -> None:
    many = write(tmp_path / "tasks" / "many.jsonl", rows(12))
    out = tmp_path / "killed.json"
    words = ["scores", "run", request_of.model, "--tasks", str(many), "--name", "tiny"]
    words += ["--family", "Qwen3", "--image-size", "96"]
    command = [sys.executable, "-m", "vlm4vla.cli", *words, "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and child.poll() is None:
            found = list(out.with_suffix(".answers").glob("tiny/many-*/rows.jsonl"))
            if found and found[0].read_bytes().count(b"\n") >= 3:
                break
            time.sleep(0.02)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    (file,) = out.with_suffix(".answers").glob("tiny/many-*/rows.jsonl")
    assert not out.exists() and file.read_bytes().count(b"\n") < 12
    assert main([*words, "--out", str(out)]) == 0
    other = tmp_path / "whole.json"
    assert main([*words, "--out", str(other)]) == 0
    (theirs,) = other.with_suffix(".answers").glob("tiny/many-*/rows.jsonl")
    assert file.read_bytes() == theirs.read_bytes() and out.read_bytes() == other.read_bytes()


def test_another_prompt_size_or_checkpoint_begins_anew(request_of: Request, vlm: Path, tmp_path: Path) -> None:
    answering.run(request_of, quiet)
    folder = request_of.out.with_suffix(".answers") / "tiny"
    task = questions.read(request_of.tasks, "letter")[0]
    base = answering.backbone_of(request_of)
    first = answering._settings(task, base, request_of)
    assert answering._settings(task, base.model_copy(update={"image_size": 64}), request_of) != first
    other = Path(shutil.copytree(vlm, tmp_path / "vlm"))
    (other / "model.safetensors").touch()
    moved = Request(str(other), request_of.tasks, request_of.out, "tiny", "Qwen3", "text", image_size=96)
    answering.run(moved, quiet)
    assert len(list(folder.glob("colours-*"))) == 2
    assert len({row.prompt for row in scores.read_scores(request_of.out)}) == 2


def test_letters_and_words_choose_by_likelihood_per_byte(tmp_path: Path) -> None:
    likely = {"A": -3.0, "B": -1.0, "C": -2.0, "D": -9.0, "red": -6.0, "green": -7.0, "blue": -7.0, "white": -9.0}
    model = SimpleNamespace(
        prompt=lambda images, question: {},
        log_likelihoods=lambda prompt, words: [likely[text] for text in words],
        say=lambda prompt, tokens: "Red.\nor",
    )
    file = write(tmp_path / "a.jsonl", rows(4))
    answered = {}
    for way in ("letter", "text"):
        (task,) = questions.read([file], way)  # type: ignore[arg-type]
        answered[way] = answering.answer(model, task, task.questions[1], 8)  # type: ignore[arg-type]
    assert answered["letter"].answer == "green" and answered["letter"].correct
    assert answered["letter"].log_likelihoods == (-3.0, -1.0, -2.0, -9.0)
    assert answered["text"].answer == "green"  # -7 over five bytes; "red" is likelier as a whole
    (task,) = questions.read([write(tmp_path / "b.jsonl", rows(4, choices=False))], "letter")
    said = answering.answer(model, task, task.questions[0], 8)  # type: ignore[arg-type]
    assert said.answer == "Red." and said.correct and said.log_likelihoods is None


def _row(right: int, n: int, name: str = "a") -> scores.ScoreRow:
    task = questions.Task(name, Path(), "letter", "{question}{choices}", (), "d")
    answered = [answering.AnswerRow(id=str(i), answer="x", correct=i < right, log_likelihoods=None) for i in range(n)]
    return answering.score("v", "f", task, answered)


def test_errors_and_intervals() -> None:
    """Wilson's by hand: (p + z^2 / 2n -+ z sqrt(pq / n + z^2 / 4n^2)) / (1 + z^2 / n), z = 1.96."""
    row = _row(30, 40)
    assert (row.low, row.high) == pytest.approx((0.5981, 0.8581), abs=1e-4)
    assert row.standard_error == pytest.approx(0.06847, abs=1e-5)
    for extreme in (_row(0, 12), _row(12, 12)):
        assert extreme.standard_error == pytest.approx(0.06186, abs=1e-4)  # never certain
    middle = answering.mean([_row(30, 40, "b"), _row(10, 40, "a")])
    assert middle.score == 0.5 and middle.n == 80 and middle.task == "mean of a, b"
    assert middle.standard_error == pytest.approx(0.06847 / 2**0.5, abs=1e-4)
    assert middle == answering.mean([_row(10, 40, "a"), _row(30, 40, "b")])


def test_a_vlm_that_was_taught_the_colours_scores_full_marks(tmp_path: Path) -> None:
    """The whole way with weights that know: letters off by one, or pictures of another question, would fail it."""
    folder = tmp_path / "vlm"
    model = whole(folder).train()
    taught = write(tmp_path / "taught.jsonl", rows(4))
    exam = write(tmp_path / "exam" / "exam.jsonl", rows(8))
    request = Request(str(folder), (taught, exam), tmp_path / "s.json", image_size=96)
    answerer = answers.load(answering.backbone_of(request), "cpu")
    processor = answerer.processor
    (task,) = questions.read([taught], "letter")
    prompts = [answerer.prompt(task.pictures(q), task.ask(q)) for q in task.questions]
    batch = processor.collate(prompts, side="left")
    letters = torch.tensor([processor.answer(letter)[0] for letter in "ABCD"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(**batch, logits_to_keep=1).logits[:, -1], letters)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.02:
            break
    model.eval().save_pretrained(folder)
    by_task = {row.task: row.score for row in answering.run(request, quiet)}
    assert by_task == {"taught": 1.0, "exam": 1.0, "mean of exam, taught": 1.0}


def _refused(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["scores", "run", *words]) == 2
    return capsys.readouterr().err


def test_models_that_cannot_be_scored_are_told(
    request_of: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = ["--tasks", str(request_of.tasks[0]), "--out", str(tmp_path / "s.json")]
    assert "random weights, which knows no answers" in _refused(["qwen3_vl", *rest], capsys)
    assert "random weights, which knows no answers" in _refused(["qwen3_vl:2b", *rest], capsys)
    assert "is no VLM family, no folder" in _refused(["qwen9", *rest], capsys)
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "policy.json").write_text("{}")
    assert "is a policy, which has lost its language head" in _refused([str(tmp_path / "policy"), *rest], capsys)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    assert "of type 'bert', which no family here runs" in _refused([str(tmp_path / "other"), *rest], capsys)
    assert not (tmp_path / "s.json").exists()


def test_an_out_that_could_not_take_the_scores_is_refused_first(request_of: Request) -> None:
    with pytest.raises(UserError, match="is no JSON file"):
        answering.run(Request(request_of.model, request_of.tasks, Path("s.csv")), quiet)
    request_of.out.write_text(
        json.dumps([{"vlm": "tiny", "family": "Other", "task": "t", "metric": "m", "score": 0.5}])
    )
    with pytest.raises(UserError, match="has 'tiny' as of family 'Other', not 'Qwen3'"):
        answering.run(request_of, quiet)


def test_rows_of_other_questions_are_refused(request_of: Request) -> None:
    answering.run(request_of, quiet)
    (file,) = request_of.out.with_suffix(".answers").glob("tiny/colours-*/rows.jsonl")
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(UserError, match="has other questions, or in another order"):
        answering.run(request_of, quiet)
    file.write_text("".join([lines[0], "{torn\n", *lines[2:]]))
    with pytest.raises(UserError, match=r"rows\.jsonl:2 is not a valid AnswerRow"):
        answering.run(request_of, quiet)


def test_scores_of_four_vlms_are_shown_and_correlated(
    request_of: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One file grows by one VLM after the other, and ``study correlate`` reads it."""
    (row,) = answering.run(request_of, quiet)
    for i in range(4):
        scores_of = row.model_copy(update={"vlm": f"v{i}", "family": f"f{i % 2}", "score": 0.2 * i + 0.1})
        answering.score_file.merge(request_of.out, [scores_of])
    assert main(["scores", "show", str(request_of.out)]) == 0
    shown = capsys.readouterr().out
    assert "v3, of f1\n  colours, accuracy 0.700 (standard error" in shown and "8 questions; prompt letter-" in shown
    success = tmp_path / "success.csv"
    lines = [f"v{i},bench,{5 * i + 2},30" for i in range(4)] + ["tiny,bench,3,30"]
    success.write_text("vlm,benchmark,successes,n\n" + "\n".join(lines) + "\n")
    assert main(["study", "correlate", str(request_of.out), "--success", str(success), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(c["n"], c["families"], c["scores"]) for c in found["correlations"]] == [
        (5, 3, f"colours, accuracy, prompt {row.prompt}")
    ]
    other = row.model_copy(update={"vlm": "v9", "evaluator": "another"})
    answering.score_file.merge(request_of.out, [other])
    assert main(["study", "correlate", str(request_of.out), "--success", str(success)]) == 2
    assert "scores under 2 evaluators: another, vlm4vla-questions-v1" in capsys.readouterr().err


def test_settings_are_checked(request_of: Request) -> None:
    from dataclasses import replace

    with pytest.raises(UserError, match="dtype"):
        answering.run(replace(request_of, dtype="int8"), quiet)
