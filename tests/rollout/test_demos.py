"""Recording of demonstrations, with a made-up benchmark and a pool in this process."""

import json
import random as randomness
import types

import numpy as np
import pytest

from vlm4vla import records, registry
from vlm4vla.data.readers.lerobot_v3 import Reader
from vlm4vla.data.writers import lerobot_v3
from vlm4vla.records import RunRecord
from vlm4vla.rollout import demos
from vlm4vla.schemas import DemosConfig
from vlm4vla.types import ActionSpec, CameraSpec, Dimension, EpisodeSpec, UserError


class ToyBenchmark:
    id = "toy-v1"
    action_spec = ActionSpec((Dimension("x", "m", "delta", "base", -1.0, 1.0),), "none", 10.0)
    cameras = (CameraSpec("top", 6, 6),)
    state_names = ("x",)
    step_limit, success_rule = 9, "x is reached"

    def tasks(self):
        return ("push", "pull", "hopeless")

    def episodes(self, split, task, count):
        assert split == "train"
        return tuple(EpisodeSpec(self.id, split, task, i, 1000 + i, f"{task} it") for i in range(count))


FAILS = {("push", 0), ("push", 2), ("pull", 3), *(("hopeless", i) for i in range(99))}


class Killed(BaseException):
    pass


class ToyPool:
    """Answers in a random order; ``fuel`` starts, then dies."""

    def __init__(self, seed=0, fuel=10**6, failure=None, versions=None):
        self.seed, self.fuel, self.failure = seed, fuel, failure
        self.versions = versions or {"toysim": "1"}
        self.ran = []

    def __call__(self, bench, workers, log):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def run(self, jobs):
        jobs = list(jobs)
        randomness.Random(self.seed).shuffle(jobs)
        for job in jobs:
            task, index = job["episode"]["task"], job["episode"]["index"]
            assert job["kind"] == "demo" and (job["noise"], job["after_success"]) == (0.1, 2)
            if not self.fuel:
                raise Killed
            self.fuel -= 1
            self.ran.append((task, index))
            if self.failure is not None and index == 1:
                yield job, {"kind": "failure", "id": job["id"], **self.failure}
                continue
            draw = np.random.default_rng([index, len(task)])
            length = 3 + index
            good = (task, index) not in FAILS
            yield (
                job,
                {
                    "kind": "result",
                    "id": job["id"],
                    "success": good,
                    "images": {"top": draw.integers(0, 256, (length, 6, 6, 3), dtype=np.uint8)} if good else {},
                    "states": draw.normal(size=(length, 1)).astype(np.float32),
                    "actions": draw.uniform(-1, 1, (length, 1)).astype(np.float32),
                    "executed": np.zeros((length, 1), np.float32),
                    "vectors": {},
                    "successes": np.arange(length) == (1 if good else -1),
                },
            )


@pytest.fixture(autouse=True)
def toy(monkeypatch, request):
    if "sim" in request.keywords:
        return
    find = registry.find
    module = types.SimpleNamespace(Benchmark=ToyBenchmark)
    monkeypatch.setattr(registry, "find", lambda room, name: module if room == "bench" else find(room, name))


def config(out, **more):
    values = {"tasks": ("push", "pull"), "per_task": 3, "noise": 0.1, "after_success": 2} | more
    return DemosConfig(bench="toy", out=out, **values)


def test_the_first_successes_are_kept_and_failed_starts_counted(tmp_path):
    pool = ToyPool()
    run = demos.record(config(tmp_path), False, pool)
    reader = Reader(tmp_path)
    kept = [(e.task, e.source) for e in map(reader.episode, range(len(reader)))]
    assert kept == [("push", 1), ("push", 3), ("push", 4), ("pull", 0), ("pull", 1), ("pull", 2)]
    assert sorted(pool.ran) == [("pull", i) for i in range(3)] + [("push", i) for i in range(5)]  # none in vain
    assert run.facts["skipped"] == {"push": 2, "pull": 0} and run.facts["episodes"] == 6
    assert run.facts["digest"] == reader.digest() and run.kind == "demos" and run.finished
    assert run.versions == {"toysim": "1"}
    assert records.read_one(tmp_path / "run.json", RunRecord) == run
    first = reader.episode(0)
    assert first.instruction == "push it" and dict(first.info) == {"seed": 1001, "first_success": 1}
    section = json.loads((tmp_path / "meta/info.json").read_text())["vlm4vla"]
    assert section["benchmark"] == "toy-v1" and section["expert"] == {"noise": 0.1, "after_success": 2}


def tables(out):
    return {str(f.relative_to(out)): f.read_bytes() for d in ("data", "meta") for f in sorted((out / d).rglob("*.*"))}


def test_kills_and_timing_change_nothing(tmp_path):
    demos.record(config(tmp_path / "a"), False, ToyPool(seed=0))
    for attempt in range(20):
        pool = ToyPool(seed=attempt, fuel=2)
        try:
            demos.record(config(tmp_path / "b", workers=1 + attempt), False, pool)
            break
        except Killed:
            assert len(set(pool.ran)) == 2
    assert attempt == 3  # 8 starts, 2 at a time: none was tried twice; the fourth attempt only just finishes
    assert tables(tmp_path / "a") == tables(tmp_path / "b") and tables(tmp_path / "a")


def made(run):
    return {name: fact for name, fact in run.facts.items() if name != "commits"}


def test_a_finished_set_returns_at_once(tmp_path):
    run = demos.record(config(tmp_path), False, ToyPool())
    assert demos.record(config(tmp_path, workers=7), False, ToyPool(fuel=0)) == run
    # killed between the data set and the record
    records.write_one(tmp_path / "run.json", run.model_copy(update={"finished": None, "facts": {}}))
    again = demos.record(config(tmp_path), False, ToyPool(fuel=0))
    assert again.finished and made(again) == made(run)
    with pytest.raises(UserError, match=r"noise: 0\.1 there, 0\.2 now"):
        demos.record(config(tmp_path, noise=0.2), False, ToyPool())


def test_all_tasks_are_those_of_the_day_and_another_list_is_another_set(tmp_path, monkeypatch):
    """Which tasks a benchmark lists may be chosen outside of the settings, without another id."""
    monkeypatch.setattr(ToyBenchmark, "tasks", lambda self: ("push",))
    run = demos.record(config(tmp_path / "a", tasks=()), False, ToyPool())
    assert run.config["tasks"] == ["push"]
    named = demos.record(config(tmp_path / "b", tasks=("push",)), False, ToyPool())
    assert named.config_hash == run.config_hash
    monkeypatch.setattr(ToyBenchmark, "tasks", lambda self: ("pull",))
    with pytest.raises(UserError, match=r"tasks: \['push'\] there, \['pull'\] now"):
        demos.record(config(tmp_path / "a", tasks=()), False, ToyPool())


def test_a_kill_in_the_last_removal_leaves_no_second_copy(tmp_path, monkeypatch):
    whole = demos.record(config(tmp_path / "a"), False, ToyPool())

    def killed(folder, **_):
        if folder.name == ".staging":
            sorted(folder.glob("*.parquet"))[0].unlink()
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(lerobot_v3.shutil, "rmtree", killed)
        demos.record(config(tmp_path / "b"), False, ToyPool())
    assert len(list((tmp_path / "b/.staging").glob("*.parquet"))) == 5
    (tmp_path / "b/.assembly").mkdir(exist_ok=True)  # what a kill a moment earlier leaves
    again = demos.record(config(tmp_path / "b"), False, ToyPool(fuel=0))
    assert again.facts["digest"] == whole.facts["digest"]
    assert not (tmp_path / "b/.staging").exists() and not (tmp_path / "b/.assembly").exists()
    assert tables(tmp_path / "a") == tables(tmp_path / "b")


def test_mistakes_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"Possible: push, pull, hopeless\. Did you mean 'pull'"):
        demos.record(config(tmp_path / "x", tasks=("pul",)), False, ToyPool())
    with pytest.raises(UserError, match="listed twice"):
        demos.record(config(tmp_path / "x", tasks=("pull", "pull")), False, ToyPool())
    assert not (tmp_path / "x").exists()
    with pytest.raises(UserError, match="succeeds on 0 of 12 starts"):
        demos.record(config(tmp_path / "x", tasks=("hopeless",)), False, ToyPool())


def test_failures_of_workers_are_told_and_tried_again(tmp_path):
    with pytest.raises(UserError, match="no simulator"):
        demos.record(config(tmp_path / "a"), False, ToyPool(failure={"error": "no simulator", "user": True}))
    with pytest.raises(demos.DemosFailed, match=r"2 starts could not be run\. The first: pu[a-z]+ 1: died"):
        demos.record(config(tmp_path / "b"), False, ToyPool(failure={"error": "died", "user": False}))
    pool = ToyPool()
    assert demos.record(config(tmp_path / "b"), False, pool).facts["episodes"] == 6
    assert ("push", 1) in pool.ran and ("pull", 0) not in pool.ran
    with pytest.raises(UserError, match="toysim: 1 then, 2 now"):
        with pytest.raises(Killed):
            demos.record(config(tmp_path / "c"), False, ToyPool(fuel=1))
        demos.record(config(tmp_path / "c"), False, ToyPool(versions={"toysim": "2"}))


def test_a_start_that_cannot_be_put_in_place_is_passed_over_for_good(tmp_path):
    failure = {"error": "StartFailed: nothing fits", "user": False, "start": True}
    run = demos.record(config(tmp_path), False, ToyPool(failure=failure))
    kept = [(e.task, e.source) for e in map(Reader(tmp_path).episode, range(6))]
    assert kept == [("push", 3), ("push", 4), ("push", 5), ("pull", 0), ("pull", 2), ("pull", 4)]
    skipped = records.read_all(tmp_path / "skipped.jsonl", demos.SkippedStart)
    assert {(s.task, s.index): s.problem for s in skipped} == {
        ("push", 0): None,
        ("push", 1): failure["error"],
        ("push", 2): None,
        ("pull", 1): failure["error"],
        ("pull", 3): None,
    }
    assert run.facts["skipped"] == {"push": 3, "pull": 2}


@pytest.mark.sim
@pytest.mark.usefixtures("metaworld_env")
def test_real_demonstrations_do_not_depend_on_workers(tmp_path):
    runs = []
    for workers in (1, 2):
        runs.append(
            demos.record(
                DemosConfig(
                    bench="metaworld",
                    tasks=("drawer-close", "button-press-topdown"),
                    per_task=2,
                    workers=workers,
                    out=tmp_path / str(workers),
                ),
                False,
            )
        )
    assert made(runs[0]) == made(runs[1]) and runs[0].facts["episodes"] == 4
    assert tables(tmp_path / "1") == tables(tmp_path / "2")
    for name in (0, 3):
        e = Reader(tmp_path / "1").episode(name)
        frames = np.stack(list(e.images["corner2"]))
        assert frames.shape[1:] == (96, 96, 3) and frames.std() > 20 and not np.array_equal(frames[0], frames[-1])
        assert e.length == e.info["first_success"] + 1 + 4  # after_success


def test_chains_and_scenes_that_are_not_there(tmp_path, monkeypatch):
    """A chain has several instructions; scenes are a benchmark's own."""
    monkeypatch.setattr(ToyBenchmark, "chains", ("pull",), raising=False)
    assert demos.recordable((), ToyBenchmark()) == ("push", "hopeless")
    with pytest.raises(UserError, match=r"'pull' is a chain of subtasks"):
        demos.record(config(tmp_path / "x"), False, ToyPool())
    with pytest.raises(UserError, match="lie in no scenes"):
        demos.record(config(tmp_path / "x", tasks=("push",), scenes=("A",)), False, ToyPool())
    assert not (tmp_path / "x").exists()
