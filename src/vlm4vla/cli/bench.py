"""``vlm4vla bench ...``"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from vlm4vla.cli.common import add_group, add_verb, print_document, print_lines, say


def declare(verbs: Any) -> None:
    group = add_group(verbs, "bench", "benchmarks: install, check, list episodes, record demonstrations")
    add_verb(group, "list", _bench_list, "benchmarks and whether they are installed").add_argument(
        "--json", action="store_true"
    )
    install = add_verb(group, "install", _bench_install, "make the benchmark's own environment, provide its assets")
    install.add_argument("name")
    install.add_argument("--assets", type=Path, help="folder that has its assets (default: download the official ones)")
    check = add_verb(group, "check", _bench_check, "does the simulator behave: pictures, expert, do-nothing, starts")
    check.add_argument("name")
    check.add_argument("--quick", action="store_true")
    check.add_argument("--json", action="store_true")
    episodes = add_verb(group, "episodes", _bench_episodes, "one line per evaluation episode")
    episodes.add_argument("name")
    episodes.add_argument("--tasks", nargs="*", default=[])
    episodes.add_argument("--split", choices=("train", "dev", "eval"), default="eval")
    episodes.add_argument("--per-task", type=int, default=None, help="default: the whole of a published list, else 20")
    episodes.add_argument("--json", action="store_true", help="with all that the benchmark tells of a start")
    replay = add_verb(group, "replay", _bench_replay, "recordings of the original simulator, compared with ours")
    replay.add_argument("name")
    replay.add_argument("files", nargs="+", type=Path, metavar="FILE")
    replay.add_argument("--json", action="store_true")
    ceiling = add_verb(group, "ceiling", _bench_ceiling, "what a perfect imitator of the expert reaches, by normaliser")
    ceiling.add_argument("name")
    ceiling.add_argument("--tasks", nargs="*", default=[])
    ceiling.add_argument("--episodes", type=int, default=10, help="dev starts per task")
    ceiling.add_argument("--fit-episodes", type=int, default=10, help="train starts per task that normalisers see")
    ceiling.add_argument(
        "--normalizers", nargs="*", default=["none", "quantile", "quantile:0.65"], metavar="KIND[:CLIP]"
    )
    ceiling.add_argument("--horizons", nargs="*", default=["10:10", "10:5", "10:1"], metavar="CHUNK:EXECUTED")
    ceiling.add_argument("--noise", type=float, default=0.0, help="sd of the noise while normalisers are fitted")
    ceiling.add_argument("--workers", type=int, default=2)
    ceiling.add_argument("--json", action="store_true")
    expert = add_verb(group, "expert", _bench_expert, "how often the scripted expert succeeds, task by task")
    expert.add_argument("name")
    expert.add_argument("--tasks", nargs="*", default=[], help="default: all")
    expert.add_argument("--episodes", type=int, default=40, help="starts per task")
    expert.add_argument("--split", choices=("train", "dev", "eval"), default="train")
    expert.add_argument("--first", type=int, default=0, help="number of the first start, to leave out those tuned on")
    expert.add_argument(
        "--noise", type=float, default=0.0, help="sd of the noise that demonstrations are recorded with"
    )
    expert.add_argument("--workers", type=int, default=2)
    expert.add_argument("--json", action="store_true")
    text = "demonstrations of the scripted expert, as a data set"
    demos = add_verb(group, "demos", _bench_demos, text, overrides=True)
    demos.add_argument("name", help="a benchmark, or a YAML file of all settings")
    demos.add_argument("--tasks", nargs="*", default=None, help="default: all")
    demos.add_argument("--scenes", type=lambda text: text.split(","), default=None, metavar="A,B", help="default: all")
    demos.add_argument("--format", default=None, help="default: that of the benchmark's own data, else lerobot_v3")
    demos.add_argument("--per-task", type=int, default=None, help="successful episodes of each task")
    demos.add_argument("--out", type=Path, default=None)
    demos.epilog = "Further settings follow as --noise SD --workers N --after_success STEPS."


def _bench_list(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla import registry
    from vlm4vla.bench import install

    lines = []
    for name in registry.names("bench"):
        benchmark = registry.find("bench", name).Benchmark()
        lines.append(
            {"name": name, "id": benchmark.id, "tasks": len(benchmark.tasks()), "installed": install.is_installed(name)}
        )
    print_lines(
        lines,
        a.json,
        lambda r: (
            f"{r['name']}  {r['id']}  {r['tasks']} tasks  "
            f"{'installed' if r['installed'] else 'not installed: vlm4vla bench install ' + r['name']}"
        ),
    )
    return 0


def _bench_install(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.bench import assets, install

    assets.provide(a.name, a.assets, say)
    install.install(a.name, say)
    return 0


def _bench_check(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.rollout import check

    found = check.check(a.name, quick=a.quick, log=say)
    print_document(found, a.json)
    return 0 if found["ok"] else 1


def _bench_episodes(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla import registry
    from vlm4vla.rollout import jobs

    benchmark = registry.find("bench", a.name).Benchmark()
    published = getattr(benchmark, "published", {}) if a.split == "eval" else {}
    describe = getattr(benchmark, "describe", None) if a.json else None
    for task in jobs.chosen_tasks(a.tasks or sorted(published), benchmark):
        for episode in benchmark.episodes(a.split, task, a.per_task or published.get(task, 20)):
            more = describe(episode) if describe is not None else {}
            sys.stdout.write(json.dumps(episode.to_dict() | more) + "\n")
    return 0


def _bench_replay(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.bench import recordings

    found = recordings.replay(a.name, a.files)
    print_lines(found, a.json, lambda r: f"{'ok  ' if r['ok'] else 'FAIL'} {r['file']}: {r['text']}")
    return 0 if all(r["ok"] for r in found) else 1


def _bench_ceiling(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.rollout import ceiling

    what = ceiling.Ceiling(
        bench=a.name,
        tasks=tuple(a.tasks),
        episodes=a.episodes,
        fit_episodes=a.fit_episodes,
        normalizers=tuple(a.normalizers),
        horizons=tuple(ceiling.horizon(text) for text in a.horizons),
        noise=a.noise,
        workers=a.workers,
    )
    lines = ceiling.measure(what, say)
    if not a.json:  # single tasks are for the long form
        lines = [line for line in lines if line["task"] is None]
    print_lines(lines, a.json, ceiling.sentence)
    return 0


def _bench_expert(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.rollout import expert

    what = expert.Trial(a.name, tuple(a.tasks), a.split, a.first, a.episodes, a.workers, a.noise)
    lines = expert.measure(what, say)
    print_lines(lines, a.json, expert.sentence)
    return 0


def _bench_demos(a: argparse.Namespace, rest: list[str]) -> int:
    from vlm4vla import config
    from vlm4vla.rollout import demos
    from vlm4vla.schemas import DemosConfig

    given = {"tasks": a.tasks, "scenes": a.scenes, "format": a.format, "per_task": a.per_task, "out": a.out}
    values = {key: value for key, value in given.items() if value is not None}
    if a.name.endswith((".yaml", ".yml")):
        settings = config.load(DemosConfig, Path(a.name), rest, **values)
    else:
        settings = config.load(DemosConfig, None, rest, bench=a.name, **values)
    demos.record(settings, progress=True)
    say(f"{settings.out}: {settings.per_task} demonstrations of each task")
    return 0
