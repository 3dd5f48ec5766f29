"""``vlm4vla study ...``"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from vlm4vla.cli.common import add_group, add_verb, print_document, print_json, print_lines, say


def declare(verbs: Any) -> None:
    group = add_group(verbs, "study", "arms x seeds as one object: plan, audit, run, report")
    for name, handler, text in (
        ("plan", _study_plan, "the cells of a study"),
        ("estimate", _study_estimate, "how long it takes here, measured by a short probe"),
        ("audit", _study_audit, "do the arms differ in nothing but the named factor?"),
    ):
        verb = add_verb(group, name, handler, text, overrides=True)
        verb.add_argument("study", type=Path)
        verb.add_argument("--json", action="store_true")
        if name == "estimate":
            verb.add_argument("--jobs", type=int, default=None, help="policies at a time")
    run = add_verb(group, "run", _study_run, "run or resume a study", overrides=True)
    run.add_argument("study", type=Path)
    run.add_argument("--out", type=Path, required=True)
    run.add_argument("--jobs", type=int, default=None, help="policies at a time; default: cores / train.threads")
    report = add_verb(group, "report", _study_report, "build the report of a study folder again")
    report.add_argument("folder", type=Path)


def _study_plan(a: argparse.Namespace, rest: list[str]) -> int:
    from vlm4vla import config
    from vlm4vla.schemas import StudyConfig
    from vlm4vla.study import plan

    lines = plan.describe(config.load(StudyConfig, a.study, rest), Path("runs"))
    print_lines(lines, a.json, lambda line: "  ".join(f"{k} {v}" for k, v in line.items()))
    return 0


def _study_estimate(a: argparse.Namespace, rest: list[str]) -> int:
    from vlm4vla import config
    from vlm4vla.schemas import StudyConfig
    from vlm4vla.study import execute, run

    study = config.load(StudyConfig, a.study, rest)
    print_document(run.estimate(study, a.jobs or execute.default_jobs(study.train.threads)), a.json)
    return 0


def _study_audit(a: argparse.Namespace, rest: list[str]) -> int:
    from vlm4vla import config
    from vlm4vla.schemas import StudyConfig
    from vlm4vla.study import audit

    found = audit.audit(config.load(StudyConfig, a.study, rest), {})
    if a.json:
        print_json(found)
    else:
        for row in found["rows"]:
            mark = "" if not row["differs"] else "  differs, allowed" if row["allowed"] else "  DIFFERS"
            values = row["values"] if row["differs"] else next(iter(row["values"].values()))
            sys.stdout.write(f"{row['setting']}: {values}{mark}\n")
    return 0 if found["ok"] else 1


def _study_run(a: argparse.Namespace, rest: list[str]) -> int:
    from vlm4vla import config
    from vlm4vla.schemas import StudyConfig
    from vlm4vla.study.run import Study

    words = ["vlm4vla", "study", "run", str(a.study), "--out", str(a.out), *rest]
    study = Study(config.load(StudyConfig, a.study, rest), a.out, say, a.jobs, shlex.join(words))
    already = study.finished()
    study.run()
    say(f"{'Already done, nothing to run' if already else 'Done'}. The report: {a.out / 'report' / 'index.html'}")
    return 0


def _study_report(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.report.build import build

    build(a.folder, a.folder / "report")
    say(f"{a.folder / 'report' / 'index.html'}")
    return 0
