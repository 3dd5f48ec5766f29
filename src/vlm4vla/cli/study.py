"""``vlm4vla study ...``"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from vlm4vla.cli.common import add_group, add_verb, print_document, print_json, print_lines, say
from vlm4vla.types import refuse


def declare(verbs: Any) -> None:
    group = add_group(verbs, "study", "arms x seeds as one object: plan, audit, run, status, report")
    for name, handler, text in (
        ("plan", _study_plan, "the cells of a study"),
        ("estimate", _study_estimate, "how long it takes here, measured by a short probe"),
        ("audit", _study_audit, "do the arms differ in nothing but the named factor?"),
    ):
        verb = add_verb(group, name, handler, text, overrides=True)
        verb.add_argument("study", type=Path)
        verb.add_argument("--json", action="store_true")
        if name == "audit":
            verb.add_argument("--out", type=Path, default=None, help="the study's folder: what its runs recorded, too")
        if name == "estimate":
            verb.add_argument("--jobs", type=int, default=None, help="policies at a time")
    status = add_verb(group, "status", _study_status, "what is finished, running, failed or missing", overrides=True)
    status.add_argument("study", type=Path, help="the folder of a study, or its file")
    status.add_argument("--out", type=Path, default=None, help="folder of a file's study; default: runs/NAME")
    status.add_argument("--json", action="store_true")
    run = add_verb(group, "run", _study_run, "run or resume a study", overrides=True)
    run.add_argument("study", type=Path)
    run.add_argument("--out", type=Path, required=True)
    run.add_argument("--jobs", type=int, default=None, help="policies at a time; default: as many as the cores carry")
    run.add_argument("--on", choices=("local", "ray"), default="local", help="processes of this machine, or Ray")
    run.add_argument("--ray-address", default=None, help="a cluster's HOST:PORT, or auto; default: Ray is started here")
    power = add_verb(group, "power", _study_power, "how many training runs a claim about recipes needs")
    power.add_argument("--difference", type=float, required=True, help="to be found, in points")
    power.add_argument("--retrain-sd", type=float, default=4.0, help="SD over retraining in points; published: 1 to 11")
    power.add_argument("--power", type=float, default=0.8, help="chance of finding it")
    power.add_argument("--arms", type=int, default=2, help="arms whose retrain variance is pooled")
    power.add_argument("--comparisons", type=int, default=1, help="how many claims share alpha = 0.05")
    power.add_argument("--episodes", type=int, default=None, help="per training run; default: evaluation without noise")
    power.add_argument("--rate", type=float, default=0.5, help="success rate, for the noise of the episodes")
    power.add_argument("--json", action="store_true")
    simulate = add_verb(group, "simulate", _study_simulate, "do the intervals cover where the truth is known?")
    simulate.add_argument("--studies", type=int, default=None, help="made-up studies per cell; default 2000, quick 200")
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument("--quick", action="store_true", help="a small part of the grid, in seconds")
    simulate.add_argument("--json", action="store_true")
    report = add_verb(group, "report", _study_report, "build the report of a study folder again")
    report.add_argument("folder", type=Path)
    correlate = add_verb(
        group, "correlate", _study_correlate, "do VLM scores go together with success, and how surely?"
    )
    correlate.add_argument("scores", type=Path, nargs="?", help="rows of vlm, family, task, metric, score, ...")
    correlate.add_argument("--success", type=Path, default=None, help="rows of vlm, benchmark, ...; or a study folder")
    correlate.add_argument("--published", action="store_true", help="the paper's own numbers")
    correlate.add_argument("--json", action="store_true")
    correlate.add_argument("--out", type=Path, default=None, help="folder for the results and the figure")
    published = add_verb(group, "published", _study_published, "the paper's tables and its correlation figure, rebuilt")
    published.add_argument("--out", type=Path, required=True)
    published.add_argument("--json", action="store_true")


def _study_plan(a: argparse.Namespace, rest: list[str]) -> int:
    from vlm4vla import config
    from vlm4vla.schemas import StudyConfig
    from vlm4vla.study import plan

    lines = plan.describe(config.load(StudyConfig, a.study, rest), Path("runs"))
    print_lines(
        lines, a.json, lambda line: "  ".join(f"{k} {_listed(v)}" for k, v in line.items() if v not in ([], None))
    )
    return 0


def _listed(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


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

    study = config.load(StudyConfig, a.study, rest)
    found = audit.audit(study, {}) if a.out is None else audit.of_folder(study, a.out)
    print_json(found) if a.json else sys.stdout.write("\n".join(audit.sentences(found)) + "\n")
    return 0 if found["ok"] else 1


def _study_run(a: argparse.Namespace, rest: list[str]) -> int:
    from vlm4vla import config
    from vlm4vla.schemas import StudyConfig
    from vlm4vla.study.run import Study

    if a.on == "local" and a.ray_address is not None:
        raise refuse("--ray-address needs --on ray", possible="--on ray --ray-address HOST:PORT", todo="Add --on ray.")
    words = ["vlm4vla", "study", "run", str(a.study), "--out", str(a.out), *rest]
    study = Study(config.load(StudyConfig, a.study, rest), a.out, say, a.jobs, shlex.join(words))
    already = study.finished()
    if already or a.on == "local":
        study.run()
    else:
        from vlm4vla.study import on_ray

        study.check()
        with on_ray.connected(a.ray_address, study.out) as cluster:
            study.jobs = cluster.jobs(study.config.train.threads, a.jobs)
            study.run_cells = cluster.run_cells
            study.run()
    say(f"{'Already done, nothing to run' if already else 'Done'}. The report: {a.out / 'report' / 'index.html'}")
    return 0


def _study_status(a: argparse.Namespace, rest: list[str]) -> int:
    from vlm4vla.study import status

    config, out = status.find(a.study, a.out, rest)
    found = status.status(config, out)
    print_json(found) if a.json else sys.stdout.write("\n".join(status.sentences(found)) + "\n")
    return 0


def _study_report(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.report.build import build

    build(a.folder, a.folder / "report")
    say(f"{a.folder / 'report' / 'index.html'}")
    return 0


def _study_correlate(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.report import correlation
    from vlm4vla.study import published, scores

    if a.published == (a.scores is not None) or (a.scores is None) != (a.success is None):
        raise refuse(
            "Scores and success rates are needed, or the published numbers alone",
            possible="SCORES.csv --success FILE_OR_STUDY_FOLDER; --published",
            todo="Give one of the two.",
        )
    found = published.correlations() if a.published else scores.correlations(a.scores, a.success)
    if a.out is not None:
        from vlm4vla.report.published import write_correlations

        written = write_correlations(found, a.out)
        say(f"{written['correlation']}, {written['points']}, {', '.join(written['figures'])}")
    if a.json:
        print_json(correlation.document(found))
    else:
        for c in found:
            sys.stdout.write(f"{c.benchmark} against {c.scores}\n")
            sys.stdout.writelines(f"  {sentence}\n" for sentence in correlation.words(c))
    return 0


def _study_published(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.study import published

    written = published.build(a.out)
    print_json(written) if a.json else say(written["html"])
    return 0


def _study_power(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.study import power

    found = power.plan(
        a.difference / 100,
        a.retrain_sd / 100,
        power=a.power,
        arms=a.arms,
        comparisons=a.comparisons,
        episodes=a.episodes,
        rate=a.rate,
    )
    if a.json:
        print_json(found)
    else:
        sys.stdout.write("\n".join(power.sentences(found)) + "\n")
    return 0


def _study_simulate(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.study import simulate

    grid = simulate.QUICK if a.quick else simulate.Grid()
    studies = (200 if a.quick else 2000) if a.studies is None else a.studies
    found = simulate.simulate(studies, a.seed, grid, say)
    if a.json:
        print_json(found)
    else:
        sys.stdout.write("\n".join(simulate.sentences(found)) + "\n")
    return 0 if found["ok"] else 1
