"""Closed-loop evaluation: a policy server, simulator workers, and one row per episode that survives a kill.

``out`` holds ``rows.jsonl`` (one EpisodeRow a line, appended as episodes finish, sorted at the end), ``videos/``,
``run.json`` (written at the start without ``finished``, complete at the end) and the workers' log.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch

from vlm4vla import config as configs
from vlm4vla import provenance, records, registry
from vlm4vla.records import EpisodeRow, RunRecord
from vlm4vla.rollout import attempt, jobs, perturb
from vlm4vla.rollout.asking import split_gripper
from vlm4vla.rollout.batching import ActingPolicy
from vlm4vla.rollout.fit import check_policy
from vlm4vla.rollout.jobs import Job
from vlm4vla.rollout.names import (
    BUILTINS,
    CAMERA_MOVED,
    IMAGE_SHUFFLED,
    INSTRUCTION_PARAPHRASED,
    INSTRUCTION_SWAPPED,
)
from vlm4vla.rollout.pool import WorkerFailed, WorkerPool
from vlm4vla.rollout.progress import Bar
from vlm4vla.rollout.server import PolicyServer
from vlm4vla.rollout.video import write_mp4
from vlm4vla.rollout.wire import PolicyClient, is_ours
from vlm4vla.schemas import EvalConfig
from vlm4vla.types import Benchmark, EpisodeSpec, RunFailed, UserError, refuse, step_limit_of

LOG = "workers.log"
_PACKAGES = ("vlm4vla", "torch", "transformers", "numpy", "websockets", "msgpack", "av")
_CONNECT_S = 30.0
_GIVE_UP = 3  # failures of simulators, workers or the server (not the policy's) in a row
_PATIENCE = 1.0  # workers are in step with each other: waiting for them fills the batches (rows stay the same)


class Pool(Protocol):
    """Simulator workers of one benchmark: run jobs in any order, give (job, result) pairs as they finish."""

    versions: dict[str, str]

    def __enter__(self) -> "Pool": ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, dict[str, Any]]]: ...


PoolFactory = Callable[[str, int, Path], Pool]  # benchmark, workers, log file


class EpisodesFailed(RunFailed):
    """Simulators or workers failed (not the policy): these episodes have no row. A second run tries them again."""


def evaluate(
    config: EvalConfig, policy: ActingPolicy | None, progress: bool, pool_factory: PoolFactory | None = None
) -> RunRecord:
    """Run every episode of ``config`` that has no row yet; returns the finished record.

    ``policy`` null: ``config.policy`` is ws://HOST:PORT of a running server, or one of ``names.BUILTINS``. ``progress``
    shows a bar on stderr. ``pool_factory`` (tests) replaces the simulator workers. Raises UserError for a policy or an
    ``out`` that does not fit and for a user's mistake that a worker met, EpisodesFailed when workers failed for good,
    RunFailed where the disk is full: what was written stays whole, and a second run goes on.
    """
    bench: Benchmark = registry.find("bench", config.bench).Benchmark()
    # Mistakes are told, and a server that is not there is missed, before a folder is made.
    check_policy(config, policy, bench)
    # What "all tasks" means may be chosen outside of the settings: a run is the tasks themselves.
    config = config.model_copy(update={"tasks": jobs.chosen_tasks(config.tasks, bench)})
    every = jobs.build(config, bench, uri=config.policy)
    jobs.must_be_playable(config.tasks, bench)
    new = attempt.draft("eval", config, bench.id, {"policy": _policy_digest(config, policy)}, _PACKAGES)
    with records.locked(config.out):
        return _evaluate(config, policy, bench, every, new, progress, pool_factory)


def _evaluate(
    config: EvalConfig,
    policy: ActingPolicy | None,
    bench: Benchmark,
    every: list[Job],
    new: RunRecord,
    progress: bool,
    pool_factory: PoolFactory | None,
) -> RunRecord:
    _refuse_orphans(config.out)
    tokens = max(policy.count_tokens(text) for text in jobs.sentences(every, bench)) if policy else None
    facts = new.facts | _facts(config, bench, every, policy, tokens)
    new = new.model_copy(update={"facts": facts, "hardware": new.hardware | _device(policy)})
    record = attempt.begin(config.out, new)
    if record.finished is not None:
        return record
    done = records.read_all(config.out / "rows.jsonl", EpisodeRow)
    keys = {row.key for row in done}
    todo = [job for job in every if _key(job) not in keys]
    began = time.monotonic()
    if todo:
        with ExitStack() as stack:
            stack.enter_context(_full_disk_told(config.out))
            if policy is not None:
                stack.enter_context(_torch_threads(config.threads))
                server = PolicyServer(policy, config.batch, tokens, precision=config.precision, patience=_PATIENCE)
                uri = stack.enter_context(server).uri
                todo = [job | {"policy": uri} for job in todo]
            pool = stack.enter_context((pool_factory or WorkerPool)(config.bench, config.workers, config.out / LOG))
            bar = stack.enter_context(Bar(config.arm, len(every), done, progress))
            record = _collect(config, bench, record, pool, todo, bar)
    return _finish(config.out, record, {_key(job) for job in every}, len(done), time.monotonic() - began)


def _collect(
    config: EvalConfig, bench: Benchmark, record: RunRecord, pool: Pool, todo: list[Job], bar: Bar
) -> RunRecord:
    """Rows and videos of all jobs as they come in; the record with the simulator's versions.

    Ends after ``_GIVE_UP`` failures in a row: whatever is broken then, the other jobs will meet it too.
    """
    failures: list[str] = []
    in_a_row = 0
    for job, result in pool.run(todo):
        if result["kind"] == "failure":
            if result["user"]:
                raise UserError(result["error"])
            records.check_room(config.out)  # simulators say it in words of their own, or die of it
            failures.append(f"{job['id']}: {result['error']}")
            in_a_row += 1
            if in_a_row == _GIVE_UP:
                break
            continue
        in_a_row = 0
        record = attempt.with_versions(config.out, record, pool.versions)
        video = _write_video(config.out, job, result, bench.action_spec.control_hz)  # before the row that names it
        row = _row(config, bench, record.run, job, result, video)
        records.append(config.out / "rows.jsonl", row)
        bar.add(row)
    if failures:
        stopped = f" The run stopped after {_GIVE_UP} such failures in a row." if in_a_row == _GIVE_UP else ""
        raise EpisodesFailed(
            f"{len(failures)} of {len(todo)} episodes could not be run; they are not counted as the policy's failures."
            f"{stopped} The first: {failures[0]}. The rows so far are stored: run the same command again to try the "
            f"others once more (the workers' log is {config.out / LOG})."
        )
    return record


def _row(
    config: EvalConfig, bench: Benchmark, run: str, job: Job, result: dict[str, Any], video: str | None
) -> EpisodeRow:
    episode = job["episode"]
    chained = result["completed"] is not None and hasattr(bench, "describe")
    told = bench.describe(EpisodeSpec.from_dict(episode)) if chained else {}  # type: ignore[attr-defined]
    return EpisodeRow(
        run=run,
        arm=config.arm,
        control=job["control"],
        benchmark=bench.id,
        task=episode["task"],
        episode=episode["index"],
        seed=episode["seed"],
        success=result["success"],
        steps=result["steps"],
        first_success_step=result["first_success_step"],
        failure=result["failure"],
        video=video,
        wall_s=result["wall_s"],
        completed=result["completed"],
        partial=result["partial"],
        subtasks=len(told["subtasks"]) if told else None,
        initial_state=told.get("initial_state"),
    )


def _write_video(out: Path, job: Job, result: dict[str, Any], fps: float) -> str | None:
    if not job["video"] or result["frames"] is None or not len(result["frames"]):
        return None
    name = "_".join((job["control"] or "none", job["episode"]["task"], str(job["episode"]["index"])))
    return write_mp4(out / "videos" / f"{name}.mp4", result["frames"], fps).relative_to(out).as_posix()


def _finish(
    out: Path, record: RunRecord, expected: set[tuple[str, str, int]], resumed: int, wall_s: float
) -> RunRecord:
    rows = sorted(records.read_all(out / "rows.jsonl", EpisodeRow), key=lambda row: row.key)
    if [row.key for row in rows] != sorted(expected):
        raise refuse(
            f"{out / 'rows.jsonl'} holds {len(rows)} rows where {len(expected)} episodes were run",
            possible="one row per episode; two runs that write into one folder at a time break it",
            todo="Delete the folder and run once more.",
        )
    records.write_all(out / "rows.jsonl", rows)
    facts = record.facts | {
        "rows": len(rows),
        "rows_of_earlier_attempts": resumed,
        "episodes_wall_s": round(sum(row.wall_s for row in rows), 3),
    }
    record = record.model_copy(update={"facts": facts, "finished": attempt.now(), "wall_s": round(wall_s, 3)})
    records.write_one(out / "run.json", record)
    return record


def _refuse_orphans(out: Path) -> None:
    if (out / "rows.jsonl").is_file() and not (out / "run.json").is_file():
        raise refuse(
            f"{out} holds rows but no run.json, so nobody knows what made them",
            possible="an empty folder, or the folder of this same run",
            todo="Choose another --out.",
        )


def _policy_digest(config: EvalConfig, policy: ActingPolicy | None) -> str:
    """What identifies the policy: the digest of its weights, or the address where a server declares none."""
    if policy is not None:
        return policy.digest
    if config.policy in BUILTINS:
        return config.policy
    with PolicyClient(split_gripper(config.policy)[0], _CONNECT_S) as client:  # also says early that nobody is there
        return str(client.metadata["digest"]) if is_ours(client.metadata) else config.policy


def _facts(
    config: EvalConfig, bench: Benchmark, every: list[Job], policy: ActingPolicy | None, tokens: int | None
) -> dict[str, Any]:
    """For the audit: the starts and how they are played, from the jobs themselves; of the policy what it carries."""
    tasks = config.tasks
    swapped = INSTRUCTION_SWAPPED in config.controls
    plain = [job["episode"] for job in every if job["control"] is None]
    starts = [(episode["task"], episode["index"], episode["seed"]) for episode in plain]
    return {
        **(policy.about if policy else {}),
        "benchmark": bench.id,
        "split": config.split,
        "starts": configs.digest([list(start) for start in starts]),
        "starts_count": len(starts),
        "precision": config.precision,
        "step_limit": max(step_limit_of(bench, task) for task in tasks),
        "success_rule": bench.success_rule,
        "tasks": list(tasks),
        "tokens": tokens,
        "batch": config.batch,
        "execute": max(job["execute"] for job in every),
        "selection": None if config.selection is None else configs.to_dict(config.selection),
        "candidates": 1 if config.selection is None else len(config.selection.candidates),
        "evaluation": config.evaluation,
        "instruction_swaps": jobs.swap_pairs(tasks) if swapped else None,
        **_perturbations(config, bench, every),
    }


def _device(policy: ActingPolicy | None) -> dict[str, str]:
    """Where the policy computes; of one in another process nothing is known."""
    return provenance.device(next(policy.parameters()).device) if isinstance(policy, torch.nn.Module) else {}


def _perturbations(config: EvalConfig, bench: Benchmark, every: list[Job]) -> dict[str, Any]:
    """What the controls did, where they ran: task -> other words (of its first start), camera -> metres and degrees."""
    told = {
        job["episode"]["task"]: job["instruction"]
        for job in reversed(every)
        if job["control"] == INSTRUCTION_PARAPHRASED
    }
    moves = perturb.camera_moves(bench) if CAMERA_MOVED in config.controls else {}
    return {
        "instruction_paraphrases": told or None,
        "camera_moves": {camera: asdict(move) for camera, move in moves.items()} or None,
        "shuffle_grid": perturb.GRID if IMAGE_SHUFFLED in config.controls else None,
    }


def _key(job: Job) -> tuple[str, str, int]:
    """The same identity as EpisodeRow.key."""
    return (job["control"] or "", job["episode"]["task"], job["episode"]["index"])


@contextmanager
def _full_disk_told(out: Path) -> Iterator[None]:
    """Workers that cannot write their log do not start, and say so in no words or in a simulator's own."""
    try:
        yield
    except WorkerFailed:
        records.check_room(out)
        raise


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """CPU threads of the policy's computations (0: torch's own choice): their number can change the last digit."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
