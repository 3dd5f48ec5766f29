"""Scores of a VLM by the built-in evaluator: it answers files of questions, and every answer stays as a row.

Rows lie beside the scores file: ``FILE.answers/VLM/TASK-HASH/``, where the hash names all that decides an answer. A run
that was killed goes on after its last whole row; changed questions, pictures, prompt, size or weights begin anew.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vlm4vla import anatomy, records
from vlm4vla import config as configs
from vlm4vla.backbones import answers
from vlm4vla.backbones.answers import Answerer
from vlm4vla.records import Record
from vlm4vla.schemas import BackboneConfig
from vlm4vla.study import questions, score_file
from vlm4vla.study.intervals import wilson
from vlm4vla.study.questions import LETTERS, Choosing, Question, Task
from vlm4vla.study.scores import ScoreRow
from vlm4vla.types import refuse

EVALUATOR = "vlm4vla-questions-v1"
"""Changes with anything that may change an answer or its grading: scores of two versions are never correlated."""
NORMAL = 1.96
"""Quantile of the normal distribution for 95 %."""
Say = Callable[[str], None]


class AnswerRow(Record):
    """One answered question. ``log_likelihoods`` of the choices, in their order; null where the model spoke."""

    id: str
    answer: str
    correct: bool
    log_likelihoods: tuple[float, ...] | None


@dataclass(frozen=True)
class Request:
    """What is asked of which VLM. ``name`` and ``family`` are those of the scores file, by default the model's own."""

    model: str
    tasks: tuple[Path, ...]
    out: Path
    name: str | None = None
    family: str | None = None
    choosing: Choosing = "letter"
    image_size: int | None = None
    revision: str | None = None
    dtype: str = "float32"
    tokens: int = 32


def run(request: Request, say: Say) -> list[ScoreRow]:
    """Answer what is still open, put the scores into the file, and return them: one row per task, and their mean."""
    tasks = questions.read(request.tasks, request.choosing)
    config = backbone_of(request)
    vlm, family = request.name or request.model, request.family or config.family
    score_file.check(request.out, vlm, family)
    folder = request.out.with_suffix(".answers") / _slug(vlm)
    answerer: list[Answerer] = []  # loaded when the first open question is met: a finished run needs no weights

    def ask(task: Task, question: Question) -> AnswerRow:
        if not answerer:
            answerer.append(answers.load(config, "cuda" if torch.cuda.is_available() else "cpu"))
        return answer(answerer[0], task, question, request.tokens)

    found = []
    with records.locked(folder):
        for task in tasks:
            rows = _answered(folder, task, config, request, ask, say)
            found.append(score(vlm, family, task, rows))
            say(f"{vlm}: {score_file.sentence(found[-1])}")
    found += [mean(found)] if len(found) > 1 else []
    score_file.merge(request.out, found)
    return found


def backbone_of(request: Request) -> BackboneConfig:
    """The VLM's settings: pretrained, asked without a sentence of ours, at the size of its own encoder by default."""
    if (Path(request.model) / "policy.json").is_file():
        raise refuse(
            f"{request.model!r} is a policy, which has lost its language head",
            possible="a VLM: a Hugging Face id, or a folder that transformers saved",
            todo="Give the VLM that the policy was made from.",
        )
    config = anatomy.parse(request.model, request.image_size, None, request.revision)
    if config.checkpoint.startswith("preset:"):
        raise refuse(
            f"{request.model!r} is an architecture with random weights, which knows no answers",
            possible="a VLM: a Hugging Face id, or a folder that transformers saved",
            todo="Give a checkpoint.",
        )
    plain = configs.to_dict(config)
    plain |= {"init": "pretrained", "prompt": answers.ASK_PLAINLY, "dtype": request.dtype}
    return configs.validate(BackboneConfig, plain, "the command line")


def answer(answerer: Answerer, task: Task, question: Question, tokens: int) -> AnswerRow:
    """Ask one question; of equally likely choices the first counts."""
    prompt = answerer.prompt(task.pictures(question), task.ask(question))
    if question.choices is None:
        said = answerer.say(prompt, tokens).split("\n")[0]
        return AnswerRow(
            id=question.id, answer=said, correct=questions.equal(said, question.right), log_likelihoods=None
        )
    words = LETTERS[: len(question.choices)] if task.way == "letter" else question.choices
    found = answerer.log_likelihoods(prompt, list(words))
    per_byte = [value / len(text.encode()) for value, text in zip(found, words, strict=True)]
    chosen = question.choices[per_byte.index(max(per_byte))]
    return AnswerRow(id=question.id, answer=chosen, correct=chosen == question.answer, log_likelihoods=tuple(found))


def score(vlm: str, family: str, task: Task, rows: Sequence[AnswerRow]) -> ScoreRow:
    """Share of right answers, its standard error and Wilson's 95 % interval."""
    right, n = sum(row.correct for row in rows), len(rows)
    interval = wilson(right, n)
    error = (right * (n - right) / n**3) ** 0.5
    return ScoreRow(
        vlm=vlm,
        family=family,
        task=task.name,
        metric="accuracy",
        score=right / n,
        # All right or all wrong is no certainty: then the error is the one that Wilson's interval stands for.
        standard_error=error or (interval.high - interval.low) / 2 / NORMAL,
        low=interval.low,
        high=interval.high,
        n=n,
        prompt=task.prompt,
        evaluator=EVALUATOR,
    )


def mean(rows: Sequence[ScoreRow]) -> ScoreRow:
    """The mean over tasks, all of one weight; its interval is normal, cut at 0 and 1, the tasks being fixed."""
    ordered = sorted(rows, key=lambda row: row.task)
    middle = sum(row.score for row in ordered) / len(ordered)
    error = sum((row.standard_error or 0.0) ** 2 for row in ordered) ** 0.5 / len(ordered)
    return ordered[0].model_copy(
        update={
            "task": "mean of " + ", ".join(row.task for row in ordered),
            "score": middle,
            "standard_error": error,
            "low": max(0.0, middle - NORMAL * error),
            "high": min(1.0, middle + NORMAL * error),
            "n": sum(row.n or 0 for row in ordered),
            "prompt": configs.digest([row.prompt for row in ordered])[:8],
        }
    )


def _answered(
    folder: Path,
    task: Task,
    config: BackboneConfig,
    request: Request,
    ask: Callable[[Task, Question], AnswerRow],
    say: Say,
) -> list[AnswerRow]:
    """All rows of a task in the order of its questions; those that are there already are not asked again."""
    settings = _settings(task, config, request)
    place = folder / f"{_slug(task.name)}-{configs.digest(settings)}"
    records.write_atomic(place / "settings.json", json.dumps(settings, indent=1) + "\n")
    file = place / "rows.jsonl"
    rows = records.read_all(file, AnswerRow)
    if [row.id for row in rows] != [question.id for question in task.questions[: len(rows)]]:
        raise refuse(
            f"{file} has other questions, or in another order, than the task file",
            possible="rows as the run wrote them: first question first",
            todo=f"Delete {place} and run it again.",
        )
    if rows:
        say(f"{task.name}: {len(rows)} of {len(task.questions)} questions are answered already")
    for question in task.questions[len(rows) :]:
        rows.append(ask(task, question))
        records.append(file, rows[-1])
        if len(rows) % 100 == 0:
            say(f"{task.name}: {len(rows)} of {len(task.questions)}")
    return rows


def _settings(task: Task, config: BackboneConfig, request: Request) -> dict[str, Any]:
    """All that decides the answers to a task, for the folder's name and for those who read it later."""
    return {
        "evaluator": EVALUATOR,
        "task": task.digest,
        "way": task.way,
        "template": task.template,
        "tokens": request.tokens if task.way == "said" else None,
        "backbone": configs.to_dict(config),
        "files": score_file.files_of(Path(config.checkpoint)),
    }


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.") or "vlm"
