"""Scores of a VLM by lmms-eval, which runs in an environment of its own (its pins are not ours); ours reads its file.

Its results file (0.7.3, ``loggers/evaluation_tracker.py`` and ``evaluator_utils.consolidate_results``) is
``OUTPUT/MODEL/TIME_results.json``: ``results`` maps a task or group to ``METRIC,FILTER`` numbers, each with
``METRIC_stderr,FILTER`` (a number or "N/A"); ``versions``, ``configs`` and ``n-samples`` describe the tasks,
``group_subtasks`` the groups, ``config`` the model. Functions stand in ``configs`` as text with their memory address,
which is left out of the prompt's id; the prompt of one model may be another one's ("model specific"), which is not.

A failed evaluation ends with status 0 there: only the file says that there are results.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vlm4vla import anatomy, records
from vlm4vla import config as configs
from vlm4vla.bench import install
from vlm4vla.processes import die_with_parent
from vlm4vla.study import score_file
from vlm4vla.study.scores import ScoreRow
from vlm4vla.types import RunFailed, refuse

ENVIRONMENT = "lmms-eval"
Say = Callable[[str], None]
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_OF_MODEL = ("lmms_eval_specific_kwargs", "model_specific_target_kwargs", "model_specific_generation_kwargs")


@dataclass(frozen=True)
class Request:
    """``kind``: lmms-eval's name of the model's class, default: the family here; ``limit``: questions a task."""

    model: str
    tasks: tuple[str, ...]
    out: Path
    name: str | None = None
    family: str | None = None
    kind: str | None = None
    model_args: str = ""
    limit: int | None = None


def run(request: Request, say: Say) -> list[ScoreRow]:
    """Install lmms-eval where it is absent, run it, and put its scores into the file; finished runs are only read.

    A run with other words is another one, and so is one of a local model whose files have changed.
    """
    if not request.tasks or re.search(r"[,\s]", request.model):
        raise refuse(
            "No task is named" if not request.tasks else f"lmms-eval would cut {request.model!r} at its comma or space",
            possible="--tasks with lmms-eval's names, and a model without commas and spaces in its name",
            todo="Name a task, or move the folder; or give a file of lmms-eval's with --results.",
        )
    family = _family(request)
    score_file.check(request.out, request.name or request.model, family)
    install.install(ENVIRONMENT, say)
    words = command(request, family)
    # Of a model on the hub the words say all; a local one may have been replaced by another.
    asked = {"words": words} | ({"files": files} if (files := score_file.files_of(Path(request.model))) else {})
    place = request.out.with_suffix(".answers") / ENVIRONMENT / configs.digest(asked)
    with records.locked(place):
        found = results_of(place)
        if found is None:
            _call([str(install.python_of(ENVIRONMENT)), *words, "--output_path", str(place)], place, say)
            found = results_of(place)
        if found is None:
            raise _failed(place, "left no results")
    return take(request, found, _installed())


def take(request: Request, file: Path, version: str | None = None) -> list[ScoreRow]:
    """Put the scores of a results file of lmms-eval into ``request.out``, and return them.

    ``version``: lmms-eval's, where it is known better than to the file.
    """
    family = _family(request)
    vlm = request.name or request.model
    score_file.check(request.out, vlm, family)
    rows = read(file, vlm, family, version)
    score_file.merge(request.out, rows)
    return rows


def command(request: Request, family: str) -> list[str]:
    """What follows the interpreter, but for the folder of the results."""
    model = str(Path(request.model).absolute()) if Path(request.model).exists() else request.model
    arguments = ",".join(part for part in (f"pretrained={model}", request.model_args) if part)
    words = ["-I", "-m", "lmms_eval", "--model", request.kind or family, "--model_args", arguments]
    words += ["--tasks", ",".join(request.tasks), "--batch_size", "1", "--log_samples"]
    return words if request.limit is None else [*words, "--limit", str(request.limit)]


def results_of(folder: Path) -> Path | None:
    """The newest results file in an output folder; None where an evaluation did not come to its end."""
    return max(folder.glob("*/*_results.json"), default=None, key=lambda file: file.name)


def read(file: Path, vlm: str, family: str, version: str | None = None) -> list[ScoreRow]:
    """Every number of a results file as a row; refuses a file without any."""
    document = _document(file)
    kind, said = str(document["config"].get("model")), str(document.get("lmms_eval_version") or "unknown")
    # It tells its branch and commit, which it knows only in a checkout of its own.
    evaluator = f"lmms-eval {version or ('of unknown version' if 'unknown' in said else said)}"
    rows: list[ScoreRow] = []
    for task, values in document["results"].items():
        parts = [part for part in _parts(document, task) if part in document["configs"]]
        asked = {part: _prompt(document, part, kind) for part in parts}
        counts = [document["n-samples"].get(part, {}).get("effective") for part in parts]
        n = sum(counts) if counts and all(isinstance(count, int) for count in counts) else None
        for metric, name in _metrics(values):
            error = values.get(name.format("_stderr"))
            rows.append(
                ScoreRow(
                    vlm=vlm,
                    family=family,
                    task=task,
                    metric=metric,
                    score=values[name.format("")],
                    standard_error=error if _number(error) else None,
                    prompt=configs.digest(asked)[:8],
                    n=n or None,
                    evaluator=evaluator,
                )
            )
    if not rows:
        raise refuse(
            f"{file} holds no number",
            possible="results of tasks that are graded where they are run; some are only written for a server",
            todo="Choose other tasks, or write the scores into a file by hand.",
        )
    return rows


def _metrics(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name of each metric, with its filter where there is one, and its key with a place for "_stderr"."""
    for key, value in values.items():
        metric, comma, chosen = key.partition(",")
        if comma and "_stderr" not in metric and _number(value):
            yield metric if chosen == "none" else key, f"{metric}{{}},{chosen}"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _parts(document: Mapping[str, Any], task: str) -> list[str]:
    """The tasks of a group, of its groups too; of a task itself alone."""
    below = document.get("group_subtasks", {}).get(task)
    return [part for name in below for part in _parts(document, name)] if below else [task]


def _prompt(document: Mapping[str, Any], task: str, kind: str) -> dict[str, Any]:
    """What decides the questions that this model got: the task's version and its settings, its own where it has any."""
    config = dict(document["configs"][task])
    for key in _OF_MODEL:
        every = config.get(key)
        if isinstance(every, Mapping):
            config[key] = next((every[name] for name in (kind, "default", "dataset") if name in every), every)
    text = json.dumps({"version": document["versions"].get(task), "config": config}, sort_keys=True)
    plain: dict[str, Any] = json.loads(_ADDRESS.sub("", text))
    return plain


def _document(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise refuse(
            f"{file} cannot be read: {error}",
            possible="OUTPUT/MODEL/TIME_results.json of lmms-eval",
            todo="Give the file; a torn one must be made again.",
        ) from error
    needed = ("results", "configs", "versions", "n-samples", "config")
    missing = [key for key in needed if not isinstance(document, dict) or not isinstance(document.get(key), dict)]
    if missing:
        raise refuse(
            f"{file} lacks {', '.join(missing)}",
            possible="OUTPUT/MODEL/TIME_results.json of lmms-eval, not its file of samples",
            todo="Give the file whose name ends in _results.json.",
        )
    return dict(document)


def _installed() -> str:
    """The version that the environment was made with."""
    pins = (install.TOOLS / ENVIRONMENT / "requirements.txt").read_text()
    return str(re.findall(r"^lmms_eval==(\S+)$", pins, re.MULTILINE)[0])


def _family(request: Request) -> str:
    """As given; else the family here that runs the model, which needs its configuration alone."""
    return request.family or anatomy.parse(request.model).family


def _call(words: list[str], place: Path, say: Say) -> None:
    log = place / "log.txt"
    say(f"Running lmms-eval; it writes into {log}")
    with log.open("ab") as f:
        parent = partial(die_with_parent, os.getpid())
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=f, stderr=f, check=False, preexec_fn=parent)
    if done.returncode:
        raise _failed(place, f"ended with status {done.returncode}")


def _failed(place: Path, what: str) -> RunFailed:
    log = place / "log.txt"
    last = "\n".join(log.read_text(errors="replace").strip().splitlines()[-12:])
    return RunFailed(f"lmms-eval {what}. The last words of {log}:\n{last}\nMend that, and run the same command again.")
