"""``vlm4vla bench check``: is this benchmark, installed here, the one that its id promises?

Each finding is ``{"name", "ok", "text"}`` plus its counts. Nothing here knows a particular benchmark.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vlm4vla.bench import install
from vlm4vla.rollout.jobs import must_be_playable
from vlm4vla.rollout.names import BUILTINS
from vlm4vla.rollout.pool import WorkerPool
from vlm4vla.rollout.worker import load
from vlm4vla.types import SPLITS, Benchmark, EpisodeSpec, RunFailed, Split

Log = Callable[[str], None]
Finding = dict[str, Any]

EXPERT_RATE = 0.9
"""Smallest mean success rate of the scripted expert over the tasks; single tasks below one half are named."""
IDLE_RATE = 0.05
"""Largest success rate of doing nothing, over all episodes."""
_WORKERS = 2
_SEEDS = 1000  # starts per task and split whose seeds are compared


class _Bench:
    """The benchmark as the runner sees it, and how to start its workers."""

    def __init__(self, name: str, quick: bool, python: Path | None) -> None:
        self.name, self.python = name, python
        self.spec: Benchmark = load(name)
        tasks = self.spec.tasks()
        self.tasks = tuple(dict.fromkeys((tasks[0], tasks[len(tasks) // 2], tasks[-1]))) if quick else tasks
        must_be_playable(self.tasks, self.spec)
        self.expert_episodes, self.idle_episodes, self.starts = (3, 2, 3) if quick else (25, 5, 10)
        self.log = install.home() / "log" / f"check-{Path(name).stem}.log"

    @contextmanager
    def pool(self, workers: int) -> Iterator[WorkerPool]:
        with WorkerPool(self.name, workers, self.log, self.python) as pool:
            yield pool

    def start(self, task: str, index: int, split: Split = "train") -> EpisodeSpec:
        return self.spec.episodes(split, task, index + 1)[index]


def check(bench: str, quick: bool, log: Log, python: Path | None = None) -> dict[str, Any]:
    """Run all checks; ``ok`` is whether every one passed. Three tasks and few episodes when ``quick``.

    ``python`` (tests) replaces the interpreter of the benchmark's environment. Raises UserError when the benchmark is
    not installed, RunFailed when a job fails where none should.
    """
    at = _Bench(bench, quick, python)
    findings: list[Finding] = []

    def note(finding: Finding) -> None:
        findings.append(finding)
        log(f"{'ok  ' if finding['ok'] else 'FAIL'} {finding['name']}: {finding['text']}")

    note(_disjoint_seeds(at))
    with at.pool(1) as pool:
        versions = dict(pool.versions)
        note(_reset_forgets(at, pool))
        note(_same_as_fresh(at, pool))
        note(_refuses(at, pool))
        if hasattr(at.spec, "camera_moves"):
            note(_cameras_come_back(at, pool))
    with at.pool(_WORKERS) as pool:
        note(_disjoint_starts(at, pool))
        note(_expert(at, pool))
        note(_idle(at, pool))
    return {
        "bench": bench,
        "id": at.spec.id,
        "quick": quick,
        "tasks": list(at.tasks),
        "versions": versions,
        "findings": findings,
        "ok": all(f["ok"] for f in findings),
    }


def _one(pool: WorkerPool, job: dict[str, Any]) -> dict[str, Any]:
    ((_, result),) = pool.run([job])
    return result


def _good(pool: WorkerPool, job: dict[str, Any]) -> dict[str, Any]:
    result = _one(pool, job)
    if result["kind"] == "failure":
        raise RunFailed(f"The job {job['kind']} of the start {job['episode']} failed: {result['error']}")
    return result


def _frame(start: EpisodeSpec) -> dict[str, Any]:
    return {"kind": "frame", "id": f"frame/{start.task}/{start.index}", "episode": start.to_dict()}


def _replay(start: EpisodeSpec, actions: np.ndarray[Any, Any]) -> dict[str, Any]:
    name = f"replay/{start.task}/{start.split}/{start.index}"
    return {"kind": "replay", "id": name, "episode": start.to_dict(), "actions": actions}


def _random_actions(at: _Bench, steps: int) -> np.ndarray[Any, Any]:
    """(steps, A) within the limits, or of the size that is typical where there are none; grippers open or close."""
    spec, random = at.spec.action_spec, np.random.default_rng(0)
    low, high = (np.array([getattr(d, side) for d in spec.dimensions]) for side in ("low", "high"))
    if not np.isfinite([low, high]).all():
        typical = at.spec.typical  # type: ignore[attr-defined]  # see Benchmark
        low, high = np.maximum(low, -typical), np.minimum(high, typical)
    actions = random.uniform(low, high, (steps, spec.size)).astype(np.float32)
    actions[:, spec.gripper] = np.where(actions[:, spec.gripper] > 0, 1.0, -1.0)
    return actions


def _finding(name: str, wrong: list[str], total: int, what: str, **more: Any) -> Finding:
    text = f"{total - len(wrong)} of {total} {what}" + (f"; not: {', '.join(wrong)}" if wrong else "")
    return {"name": name, "ok": not wrong, "text": text, "passed": total - len(wrong), "of": total} | more


def _reset_forgets(at: _Bench, pool: WorkerPool) -> Finding:
    """Same seed, same first picture and same physics, whatever was done to another start in between."""
    wrong: list[str] = []
    actions = _random_actions(at, 40)
    for task in at.tasks:
        start, other = at.start(task, 0), at.start(task, 1)
        first = _good(pool, _frame(start)), _good(pool, _replay(start, actions))
        _good(pool, _replay(other, actions[:23]))
        again = _good(pool, _frame(start)), _good(pool, _replay(start, actions))
        same = [np.array_equal(first[0][key], again[0][key]) for key in ("frame", "state")]
        same += [np.array_equal(first[1][key], again[1][key]) for key in ("start", "states", "successes")]
        if not all(same):
            wrong.append(task)
    return _finding("reset", wrong, len(at.tasks), "tasks: same seed, same first picture and bit-equal physics")


def _same_as_fresh(at: _Bench, used: WorkerPool) -> Finding:
    """The first picture in a process that ran other tasks equals the one that a fresh process renders.

    Catches renderers that spoil each other's pictures, which no simulator reports.
    """
    wrong: list[str] = []
    _one(used, _frame(at.start(at.tasks[-1], 0)))
    for task in at.tasks:
        job = _frame(at.start(task, 0))
        seen = _one(used, job)
        with at.pool(1) as fresh:
            right = _good(fresh, job)["frame"]
        if seen["kind"] == "failure" or not np.array_equal(seen["frame"], right):
            wrong.append(task)
    return _finding("picture", wrong, len(at.tasks), "tasks: same picture after other tasks as in a fresh process")


def _cameras_come_back(at: _Bench, pool: WorkerPool) -> Finding:
    """Every moved camera sees something else, the world does not notice, and afterwards the old pictures are back."""
    wrong: list[str] = []
    for task in at.tasks:
        start = at.start(task, 0)
        found = _good(pool, {"kind": "moved", "id": f"moved/{task}", "episode": start.to_dict()})
        before, moved, after = found["pictures"]
        same_world = all(np.array_equal(state, found["states"][0]) for state in found["states"])
        seen = [(np.array_equal(before[c], moved[c]), np.array_equal(before[c], after[c])) for c in before]
        if not same_world or seen != [(False, True)] * len(at.spec.cameras):
            wrong.append(task)
    return _finding("cameras", wrong, len(at.tasks), "tasks: moved cameras see it otherwise, and come back to the bit")


def _refuses(at: _Bench, pool: WorkerPool) -> Finding:
    """Actions of a wrong size, outside the limits, or not numbers are refused."""
    spec, start = at.spec.action_spec, at.start(at.tasks[0], 0)
    idle = at.spec.do_nothing()
    over, nan = idle.copy(), idle.copy()
    over[0], nan[0] = spec.dimensions[0].high * 1.5, np.nan
    bad = {"too large": over, "not a number": nan, "wrong size": np.append(idle, idle[:1])}
    wrong = []
    for what, action in bad.items():
        answer = _one(pool, _replay(start, action[None]))
        if answer["kind"] != "failure" or not answer["user"]:
            wrong.append(what)
    return _finding("refusal", wrong, len(bad), "kinds of action outside the spec are refused")


def _disjoint_seeds(at: _Bench) -> Finding:
    wrong = []
    for task in at.tasks:
        seeds = [e.seed for split in SPLITS for e in at.spec.episodes(split, task, _SEEDS)]
        if len(set(seeds)) < len(seeds):
            wrong.append(task)
    what = f"tasks: no seed shared among {_SEEDS} starts each of {', '.join(SPLITS)}"
    return _finding("splits", wrong, len(at.tasks), what)


def _disjoint_starts(at: _Bench, pool: WorkerPool) -> Finding:
    """Different seeds really give different starts, within and between the splits."""
    none = np.zeros((0, at.spec.action_spec.size), np.float32)
    starts = [at.start(t, i, s) for t in at.tasks for s in SPLITS for i in range(at.starts)]
    seen: dict[str, set[bytes]] = {task: set() for task in at.tasks}
    for job, result in pool.run([_replay(start, none) for start in starts]):
        if result["kind"] == "failure":
            raise RunFailed(f"The start {job['episode']} failed: {result['error']}")
        seen[job["episode"]["task"]].add(result["start"].tobytes())
    wrong = [task for task in at.tasks if len(seen[task]) < at.starts * len(SPLITS)]
    return _finding("starts", wrong, len(at.tasks), f"tasks: {at.starts} starts of each split, all different")


def _rates(at: _Bench, pool: WorkerPool, policy: str, episodes: int) -> tuple[dict[str, int], dict[str, int]]:
    """Per task: successes, and the most steps that one needed."""
    jobs = [
        {
            "kind": "rollout",
            "id": f"{policy}/{task}/{index}",
            "episode": at.start(task, index).to_dict(),
            "control": None,
            "other": None,
            "instruction": at.spec.instruction(task),
            "policy": policy,
            "execute": 1,
            "video": False,
            "assume_spec": False,
        }
        for task in at.tasks
        for index in range(episodes)
    ]
    successes, longest = dict.fromkeys(at.tasks, 0), dict.fromkeys(at.tasks, 0)
    for job, result in pool.run(jobs):
        if result["kind"] == "failure":
            raise RunFailed(f"The rollout {job['id']} failed: {result['error']}")
        task = job["episode"]["task"]
        successes[task] += result["success"]
        if result["success"]:
            longest[task] = max(longest[task], result["steps"])
    return successes, longest


def _expert(at: _Bench, pool: WorkerPool) -> Finding:
    each = at.expert_episodes
    successes, longest = _rates(at, pool, BUILTINS[0], each)
    total, of = sum(successes.values()), each * len(at.tasks)
    low = [f"{task} {n}/{each}" for task, n in successes.items() if 2 * n < each]
    text = f"the scripted expert succeeds in {total} of {of}" + (f"; below one half: {', '.join(low)}" if low else "")
    per_task = {task: {"successes": successes[task], "of": each, "longest": longest[task]} for task in at.tasks}
    return {"name": "expert", "ok": total >= EXPERT_RATE * of, "text": text, "passed": total, "of": of} | {
        "tasks": per_task
    }


def _idle(at: _Bench, pool: WorkerPool) -> Finding:
    each = at.idle_episodes
    successes, _ = _rates(at, pool, BUILTINS[1], each)
    total, of = sum(successes.values()), each * len(at.tasks)
    text = f"doing nothing succeeds in {total} of {of}"
    per_task = {task: {"successes": n, "of": each} for task, n in successes.items()}
    return {"name": "do-nothing", "ok": total <= IDLE_RATE * of, "text": text, "passed": total, "of": of} | {
        "tasks": per_task
    }
