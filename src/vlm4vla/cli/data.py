"""``vlm4vla data ...``"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from vlm4vla.cli.common import add_group, add_verb, list_of, print_document, print_json, print_lines, say


def declare(verbs: Any) -> None:
    group = add_group(verbs, "data", "robot data: build a frame store and look at it")
    build = add_verb(group, "build", _data_build, "episodes in, frame store out")
    build.add_argument("source", type=Path)
    build.add_argument("--format", required=True, help="reader: " + list_of("data.readers"))
    build.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="of the reader; an unknown one lists them"
    )
    build.add_argument("--out", type=Path, required=True)
    build.add_argument("--image-size", type=int, default=224)
    build.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (one per core)")
    build.add_argument("--encoding", choices=("jpeg", "png", "raw"), default="jpeg", help="jpeg is of quality 95")
    info = add_verb(group, "info", _data_info, "what a store holds")
    check = add_verb(group, "check", _data_check, "look for what spoils policies; status 1 where there are errors")
    check.add_argument("--bench", help="compare the action spec with this benchmark's: " + list_of("bench"))
    check.add_argument("--val", type=Path, metavar="STORE", help="look for episodes of it among the training episodes")
    check.add_argument("--chunk", type=int, default=4, help="steps of an action chunk")
    check.add_argument("--deep", action="store_true", help="read every file and compare its SHA-256")
    stats = add_verb(group, "stats", _data_stats, "quantiles, mean and deviation of actions and states")
    stats.add_argument("--png", type=Path, metavar="FILE", help="draw histograms as well")
    show = add_verb(group, "show", _data_show, "a sheet of one episode")
    show.add_argument("--episode", type=int, default=0)
    show.add_argument("--out", type=Path, required=True, help="FILE.html or FILE.png")
    for verb in (info, check, stats, show):
        verb.add_argument("store", type=Path)
    for verb in (info, check, stats):
        verb.add_argument("--json", action="store_true")


def _data_build(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.data import build, inspect, options
    from vlm4vla.data.base import open_with_origin

    opened = open_with_origin(a.format, a.source, options.split_pairs(a.option))
    built = build.build(
        opened.reader, a.out, a.image_size, a.encoding, progress=True, workers=a.workers, origin=opened.origin
    )
    left_out = "".join(f", {key.replace('_', ' ')}: {n}" for key, n in inspect.left_out(built).items())
    say(f"{a.out}: {len(built.episodes)} episodes, {len(built)} frames{left_out}, content {built.digest[:12]}")
    if built.provenance["code"] != build.code():
        say(f"{a.out} was built by other code than runs now. To build it anew, remove it first.")
    return 0


def _data_info(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.data import inspect
    from vlm4vla.data.store import Store

    print_document(inspect.info(Store.open(a.store)), a.json)
    return 0


def _data_check(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla import registry
    from vlm4vla.data.checks.check import lint
    from vlm4vla.data.store import Store
    from vlm4vla.types import refuse

    if a.chunk < 1:
        raise refuse(f"--chunk {a.chunk} was given", possible="1 or more steps", todo="Give a whole number above 0.")
    benchmark = registry.find("bench", a.bench).Benchmark() if a.bench else None
    store = Store.open(a.store)
    report = lint(
        store,
        chunk=a.chunk,
        against=(benchmark.id, benchmark.action_spec) if benchmark is not None else None,
        val=Store.open(a.val) if a.val else None,
        deep=a.deep,
    )
    if a.json:
        print_json(report.to_dict())
    else:
        print_lines([f.to_dict() | {"where": f.where()} for f in report.findings], False, _finding)
    say(f"{a.store}: {report.summary(store)}")
    return 1 if report.errors else 0


def _finding(found: dict[str, Any]) -> str:
    head = f"{found['severity']}: {found['check']} ({found['where']})"
    return f"{head}\n    {found['measured']}\n    To do: {found['todo']}"


def _data_stats(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.data import inspect
    from vlm4vla.data.store import Store

    store = Store.open(a.store)
    numbers = inspect.stats(store)
    if a.json:
        print_json(numbers)
    else:
        sys.stdout.write(inspect.table(numbers))
    if a.png:
        inspect.histograms(store, a.png)
        say(f"{a.png}")
    return 0


def _data_show(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.data import inspect, sheet
    from vlm4vla.data.store import Store
    from vlm4vla.types import refuse

    write = {".html": sheet.write_html, ".png": inspect.show}.get(a.out.suffix.lower())
    if write is None:
        raise refuse(f"--out {a.out} was given", possible="a file .html or .png", todo="Name the file so.")
    write(Store.open(a.store), a.episode, a.out)
    say(f"{a.out}")
    return 0
