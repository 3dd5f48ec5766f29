"""Demonstrations: a benchmark's scripted expert on its train starts, as a LeRobot data set or in its own data's layout.

``out`` holds the data set, ``run.json``, ``skipped.jsonl`` (starts on which the expert failed, or that cannot be
put in place) and the workers' log. A killed run goes on where it stopped; a finished one returns at once.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm4vla import records, registry
from vlm4vla.data.base import RawEpisode
from vlm4vla.data.progress import bar
from vlm4vla.records import Record, RunRecord
from vlm4vla.rollout import attempt
from vlm4vla.rollout.jobs import chosen_tasks, must_be_playable
from vlm4vla.schemas import DEFAULT_FORMAT, DemosConfig
from vlm4vla.types import Benchmark, EpisodeSpec, RunFailed, UserError, refuse

if TYPE_CHECKING:
    from vlm4vla.rollout.runner import Pool, PoolFactory

_PACKAGES = ("vlm4vla", "numpy", "pillow", "pyarrow", "datasets", "msgpack")
_MAX_STARTS = 4  # starts tried per wanted demonstration, before the expert is blamed
_SEARCH = 16  # starts looked at per wanted one, where only some scenes are wanted
_Start = tuple[str, int]


class DemosFailed(RunFailed):
    """Simulators or workers failed on these starts. A second run tries them again; the others are stored."""


class SkippedStart(Record):
    """A start on which the expert did not succeed, or, with ``problem``, that cannot be put in place."""

    task: str
    index: int
    seed: int
    problem: str | None = None


def record(config: DemosConfig, progress: bool, pool_factory: "PoolFactory | None" = None) -> RunRecord:
    """Record ``per_task`` successful episodes of each task (all tasks when none is named); returns the finished record.

    Kept are the first ``per_task`` starts of the train list on which the expert succeeds; which these are depends
    neither on workers nor on timing. Raises UserError for an unknown task, another run's ``out`` or an expert that
    fails too often, DemosFailed when workers failed for good.
    """
    bench: Benchmark = registry.find("bench", config.bench).Benchmark()
    if config.format is None:
        config = config.model_copy(update={"format": getattr(bench, "data_format", DEFAULT_FORMAT)})
    tasks = recordable(config.tasks, bench)
    config = config.model_copy(update={"tasks": tasks})  # as in evaluations: what "all" means may be chosen elsewhere
    if config.scenes and "scene" not in _told(bench, bench.episodes("train", tasks[0], 1)[0]):
        raise refuse(f"The starts of {bench.id} lie in no scenes", possible="no scenes", todo="Leave --scenes out.")
    must_be_playable(tasks, bench)
    with records.locked(config.out):
        return _record(config, bench, tasks, progress, pool_factory)


def recordable(given: Sequence[str], bench: Benchmark) -> tuple[str, ...]:
    """The named tasks (all when none is named) without chains of subtasks, whose episodes have several instructions.

    Refuses a chain that is named, and what ``jobs.chosen_tasks`` refuses.
    """
    chains: Collection[str] = getattr(bench, "chains", ())
    tasks = chosen_tasks(given, bench)
    named = [task for task in given if task in chains]
    if named:
        raise refuse(
            f"{named[0]!r} is a chain of subtasks, each with an instruction of its own: no single demonstration",
            given=named[0],
            possible=[task for task in tasks if task not in chains] or "the single tasks",
            todo="Record the single tasks.",
        )
    return tuple(task for task in tasks if task not in chains)


def _record(
    config: DemosConfig,
    bench: Benchmark,
    tasks: tuple[str, ...],
    progress: bool,
    pool_factory: "PoolFactory | None",
) -> RunRecord:
    began = time.monotonic()
    run = attempt.begin(config.out, attempt.draft("demos", config, bench.id, {}, _PACKAGES))
    if run.finished is not None:
        return run
    assert config.format is not None
    writer = registry.find("data.writers", config.format).Writer(
        config.out,
        action_spec=bench.action_spec,
        cameras=bench.cameras,
        state_names=bench.state_names,
        section=_section(config, bench, tasks),
    )
    if not writer.finished:
        todo = _Todo(config, bench, tasks, writer)
        if todo.missing():
            with _workers(config, pool_factory) as pool:
                run = attempt.with_versions(config.out, run, pool.versions)
                _collect(config, pool, todo, progress)
        writer.finish(todo.kept())
    else:  # an attempt that was killed after the data set was whole: at most its leftovers are to be removed
        writer.finish()
    facts = run.facts | _facts(config, bench, tasks, writer)
    wall_s = round(time.monotonic() - began, 3)
    run = run.model_copy(update={"facts": facts, "finished": attempt.now(), "wall_s": wall_s})
    records.write_one(config.out / "run.json", run)
    return run


class _Todo:
    """Which starts are judged, and which have to be tried next."""

    def __init__(self, config: DemosConfig, bench: Benchmark, tasks: tuple[str, ...], writer: Any) -> None:
        self._config, self._bench, self._tasks = config, bench, tasks
        self._places = {task: place for place, task in enumerate(tasks)}
        self._writer = writer
        self._lists: dict[str, list[EpisodeSpec]] = {}
        self._skipped = config.out / "skipped.jsonl"
        self._staged = set(writer.staged())
        self._failed = {(s.task, s.index) for s in records.read_all(self._skipped, SkippedStart)}

    def key(self, start: _Start) -> str:
        """The writer's key: sorted by task as listed, then by index."""
        return f"{self._places[start[0]]:04d}-{start[1]:07d}"

    def missing(self) -> list[EpisodeSpec]:
        """Starts to try next: those that will be kept if the expert succeeds on all of them. [] when done.

        Walks each list in index order and takes unjudged starts for successes. So no start is tried that is not
        needed, and what is kept in the end is the first ``per_task`` successes, whoever ran them when.
        """
        out: list[EpisodeSpec] = []
        per_task = self._config.per_task
        for task in self._tasks:
            starts = self._starts(task)
            wanted = per_task
            for spec in starts:
                if not wanted:
                    break
                start = (task, spec.index)
                if start in self._failed:
                    continue
                wanted -= 1
                if self.key(start) not in self._staged:
                    out.append(spec)
            if wanted:
                raise refuse(
                    f"The expert of {task!r} succeeds on {per_task - wanted} of {len(starts)} starts",
                    possible=f"{per_task} successes among the first {len(starts)} starts",
                    todo="Lower the noise or per_task, or leave the task out.",
                )
        return out

    def _starts(self, task: str) -> list[EpisodeSpec]:
        """The train starts that may be tried: the first ones of the list, or the first ones in the wanted scenes."""
        if task not in self._lists:
            self._lists[task] = self._list(task)
        return self._lists[task]

    def _list(self, task: str) -> list[EpisodeSpec]:
        count = self._config.per_task * _MAX_STARTS
        if not self._config.scenes:
            return list(self._bench.episodes("train", task, count))
        found: list[EpisodeSpec] = []
        seen: set[str] = set()
        for spec in self._bench.episodes("train", task, count * _SEARCH):
            scene = _told(self._bench, spec)["scene"]
            seen.add(scene)
            if scene in self._config.scenes and len(found) < count:
                found.append(spec)
        for scene in self._config.scenes:
            if scene not in seen:
                raise refuse(
                    f"No train start of {task!r} lies in scene {scene!r}",
                    given=scene,
                    possible=sorted(seen),
                    todo="Choose among these scenes.",
                )
        return found

    def add(self, spec: EpisodeSpec, result: Mapping[str, Any]) -> bool:
        """Store one judged start; True when it is a demonstration."""
        key = self.key((spec.task, spec.index))
        if not result["success"]:
            self.skip(spec)
            return False
        episode = RawEpisode(
            instruction=spec.instruction,
            images=result["images"],
            actions=np.asarray(result["actions"], np.float32),
            states=np.asarray(result["states"], np.float32) if self._bench.state_names else None,
            task=spec.task,
            source=spec.index,
            info={"seed": spec.seed, "first_success": int(np.argmax(result["successes"]))} | _told(self._bench, spec),
        )
        vectors = dict(result["vectors"])
        if vectors:
            vectors["executed_actions"] = result["executed"]
        self._writer.add(key, episode, vectors)
        self._staged.add(key)
        return True

    def skip(self, spec: EpisodeSpec, problem: str | None = None) -> None:
        """Note a start that gives no demonstration: the expert's failure, or the ``problem`` of the start itself."""
        record = SkippedStart(task=spec.task, index=spec.index, seed=spec.seed, problem=problem)
        records.append(self._skipped, record)
        self._failed.add((spec.task, spec.index))

    @property
    def done(self) -> int:
        return len(self._staged)

    def kept(self) -> list[str]:
        return sorted(self._staged)


def _collect(config: DemosConfig, pool: "Pool", todo: _Todo, progress: bool) -> None:
    """Run starts until every task has its demonstrations."""
    failures: list[str] = []
    missing = todo.missing()
    with bar("demonstrations", todo.done + len(missing), progress, todo.done) as advance:
        while missing and not failures:
            for spec, result in _run(config, pool, missing):
                if result["kind"] == "failure":
                    if result["user"]:
                        raise UserError(result["error"])
                    if result.get("start"):  # it would not be otherwise the next time
                        todo.skip(spec, result["error"])
                        continue
                    failures.append(f"{spec.task} {spec.index}: {result['error']}")
                elif todo.add(spec, result):
                    advance()
            missing = todo.missing()
    if failures:
        raise DemosFailed(
            f"{len(failures)} starts could not be run. The first: {failures[0]}. The other episodes are stored: run "
            f"the same command again to try these once more (the workers' log is {config.out / 'log'})."
        )


def _run(config: DemosConfig, pool: "Pool", starts: list[EpisodeSpec]) -> Iterator[tuple[EpisodeSpec, dict[str, Any]]]:
    jobs = [
        {
            "kind": "demo",
            "id": f"{spec.task}/{spec.index}",
            "episode": spec.to_dict(),
            "noise": config.noise,
            "after_success": config.after_success,
            "pictures": True,
        }
        for spec in starts
    ]
    for job, result in pool.run(jobs):
        yield EpisodeSpec.from_dict(job["episode"]), result


def _section(config: DemosConfig, bench: Benchmark, tasks: tuple[str, ...]) -> dict[str, Any]:
    """What the data set says about its making."""
    return {
        "benchmark": bench.id,
        "split": "train",
        "success_rule": bench.success_rule,
        "tasks": list(tasks),
        "per_task": config.per_task,
        **({"scenes": list(config.scenes)} if config.scenes else {}),
        "expert": {"noise": config.noise, "after_success": config.after_success},
    }


def _told(bench: Benchmark, spec: EpisodeSpec) -> dict[str, Any]:
    """What the benchmark tells of a start that belongs into data sets."""
    describe = getattr(bench, "describe", None)
    told: dict[str, Any] = describe(spec) if describe is not None else {}
    return {name: told[name] for name in ("scene", "attributes") if name in told}


def _facts(config: DemosConfig, bench: Benchmark, tasks: tuple[str, ...], writer: Any) -> dict[str, Any]:
    episodes, frames = writer.counts()
    skipped = Counter(s.task for s in records.read_all(config.out / "skipped.jsonl", SkippedStart))
    return {
        "benchmark": bench.id,
        "digest": registry.find("data.readers", str(config.format)).Reader(config.out).digest(),
        "episodes": episodes,
        "frames": frames,
        "skipped": {task: skipped[task] for task in tasks},
    }


def _workers(config: DemosConfig, pool_factory: "PoolFactory | None") -> AbstractContextManager["Pool"]:
    if pool_factory is not None:
        return pool_factory(config.bench, config.workers, config.out / "log")
    from vlm4vla.rollout.pool import WorkerPool

    return WorkerPool(config.bench, config.workers, config.out / "log")
