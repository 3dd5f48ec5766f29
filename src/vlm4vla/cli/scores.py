"""``vlm4vla scores ...``: how well VLMs answer questions, for ``study correlate``"""

import argparse
import sys
from pathlib import Path
from typing import Any

from vlm4vla.cli.common import add_group, add_verb, print_json, say


def declare(verbs: Any) -> None:
    group = add_group(verbs, "scores", "what VLMs score on questions: measured here, by lmms-eval, or shown")
    run = add_verb(group, "run", _run, "answer files of questions with a VLM: scores out")
    run.add_argument("model", help="Hugging Face id, or a folder that transformers saved")
    run.add_argument("--tasks", type=Path, nargs="+", required=True, metavar="FILE", help="JSON lines of questions")
    run.add_argument("--by", choices=("letter", "text"), default="letter", help="how a choice is made")
    run.add_argument("--image-size", type=int, default=None, help="side of the square that the model sees")
    run.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights")
    run.add_argument("--tokens", type=int, default=32, help="the longest answer in words")
    run.add_argument("--revision", default=None, help="commit, tag or branch on the hub")
    lmms = add_verb(group, "lmms-eval", _lmms_eval, "run lmms-eval in an environment of its own: scores out")
    lmms.add_argument("model", help="Hugging Face id or folder")
    lmms.add_argument("--tasks", nargs="+", default=[], metavar="TASK", help="lmms-eval's names of tasks")
    lmms.add_argument("--kind", default=None, help="lmms-eval's name of the model's class; default: the family")
    lmms.add_argument("--model-args", default="", metavar="KEY=VALUE,...", help="more of lmms-eval's --model_args")
    lmms.add_argument("--limit", type=int, default=None, help="questions per task, for a trial")
    lmms.add_argument("--results", type=Path, default=None, help="read this results file; nothing is run")
    for verb in (run, lmms):
        verb.add_argument("--out", type=Path, required=True, help="JSON file of scores; others in it stay")
        verb.add_argument("--name", default=None, help="the VLM's name in the file: that of a study's arm")
        verb.add_argument("--family", default=None, help="the VLM's family in the file")
        verb.add_argument("--json", action="store_true")
    show = add_verb(group, "show", _show, "the scores of a file")
    show.add_argument("file", type=Path)
    show.add_argument("--json", action="store_true")


def _run(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.study import answering

    request = answering.Request(
        model=a.model,
        tasks=tuple(a.tasks),
        out=a.out,
        name=a.name,
        family=a.family,
        choosing=a.by,
        image_size=a.image_size,
        revision=a.revision,
        dtype=a.dtype,
        tokens=a.tokens,
    )
    return _print(answering.run(request, say), a.json)


def _lmms_eval(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.study import lmms_eval

    request = lmms_eval.Request(
        model=a.model,
        tasks=tuple(a.tasks),
        out=a.out,
        name=a.name,
        family=a.family,
        kind=a.kind,
        model_args=a.model_args,
        limit=a.limit,
    )
    found = lmms_eval.run(request, say) if a.results is None else lmms_eval.take(request, a.results)
    return _print(found, a.json)


def _show(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.study import scores

    return _print(scores.read_scores(a.file), a.json)


def _print(rows: list[Any], as_json: bool) -> int:
    from vlm4vla.config import to_dict
    from vlm4vla.study import score_file

    if as_json:
        print_json([to_dict(row) for row in rows])
    else:
        sys.stdout.write("\n".join(score_file.sentences(rows)) + "\n")
    return 0
