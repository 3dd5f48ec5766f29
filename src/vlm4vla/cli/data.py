"""``vlm4vla data ...``"""

import argparse
from pathlib import Path
from typing import Any

from vlm4vla.cli.common import add_group, add_verb, list_of, print_document, say


def declare(verbs: Any) -> None:
    group = add_group(verbs, "data", "robot data: build a frame store and look at it")
    build = add_verb(group, "build", _data_build, "episodes in, frame store out")
    build.add_argument("source", type=Path)
    build.add_argument("--format", required=True, help="reader: " + list_of("data.readers"))
    build.add_argument("--out", type=Path, required=True)
    build.add_argument("--image-size", type=int, default=224)
    build.add_argument("--workers", type=int, default=2)
    build.add_argument("--encoding", choices=("jpeg", "png", "raw"), default="png")
    for name, handler, text in (
        ("info", _data_info, "what a store holds"),
        ("stats", _data_stats, "statistics of its actions and states"),
    ):
        verb = add_verb(group, name, handler, text)
        verb.add_argument("store", type=Path)
        verb.add_argument("--json", action="store_true")
    show = add_verb(group, "show", _data_show, "a sheet of one episode as PNG")
    show.add_argument("store", type=Path)
    show.add_argument("--episode", type=int, default=0)
    show.add_argument("--out", type=Path, required=True)


def _data_build(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla import registry
    from vlm4vla.data import build

    reader = registry.find("data.readers", a.format).Reader(a.source)
    built = build.build(reader, a.out, a.image_size, a.encoding, progress=True, workers=a.workers)
    say(f"{a.out}: {len(built.episodes)} episodes, {len(built)} frames, content {built.digest[:12]}")
    return 0


def _data_info(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.data import inspect
    from vlm4vla.data.store import Store

    print_document(inspect.info(Store.open(a.store)), a.json)
    return 0


def _data_stats(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.data import inspect
    from vlm4vla.data.store import Store

    print_document(inspect.stats(Store.open(a.store)), a.json)
    return 0


def _data_show(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.data import inspect
    from vlm4vla.data.store import Store

    inspect.show(Store.open(a.store), a.episode, a.out)
    say(f"{a.out}")
    return 0
