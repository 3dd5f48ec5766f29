import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from rollout_fakes import LONG, SPEC, TASKS, FakeBench, FakePolicy, configured, picture
from websockets.sync.server import ServerConnection, serve

from vlm4vla import provenance, records
from vlm4vla.records import EpisodeRow, RunRecord
from vlm4vla.rollout import runner
from vlm4vla.rollout.wire import PolicyClient, pack
from vlm4vla.schemas import EvalConfig
from vlm4vla.study.audit_facts import EVALUATED
from vlm4vla.types import UserError, refuse


class FakePool:
    """Asks the real server as a worker would; success depends on its answer. Finishes in reverse order."""

    made: ClassVar[list["FakePool"]] = []
    wrong: Callable[[dict[str, Any], int], dict[str, Any] | None] = staticmethod(lambda job, place: None)
    versions: ClassVar[dict[str, str]] = {"simulator": "1.0"}

    def __init__(self, bench: str, workers: int, log: Path) -> None:
        self.asked, self.jobs = (bench, workers, log), list[dict[str, Any]]()
        FakePool.made.append(self)

    def __enter__(self) -> "FakePool":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, todo: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        self.jobs = list(todo)
        clients: dict[str, PolicyClient] = {}
        for place, job in enumerate(reversed(self.jobs)):
            result = FakePool.wrong(job, place)
            if result is None:
                seen = picture((job["other"] or job["episode"])["seed"])
                value = 0.0
                if not job["policy"].startswith("builtin:"):
                    client = clients.get(job["policy"]) or clients.setdefault(
                        job["policy"], PolicyClient(job["policy"], LONG)
                    )
                    reply = client.infer({"observation/image": seen, "prompt": job["instruction"]})
                    value = float(reply["actions"][0, 0])
                success = value > 0.5
                result = {"kind": "result", "success": success, "steps": 30 if not success else 7}
                result |= {"first_success_step": 7 if success else None, "failure": None if success else "step_limit"}
                result |= {
                    "completed": None,
                    "partial": None,
                    "wall_s": 0.25,
                    "frames": np.stack([seen] * 4) if job["video"] else None,
                }
            yield job, result | {"id": job["id"]}
        for client in clients.values():
            client.close()


@pytest.fixture(autouse=True)
def fake_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.registry, "find", lambda room, name: SimpleNamespace(Benchmark=FakeBench))
    FakePool.made = []
    FakePool.wrong = staticmethod(lambda job, place: None)


def run(config: EvalConfig, policy: FakePolicy | None = None) -> RunRecord:
    builtin = config.policy.startswith("builtin:")
    return runner.evaluate(config, None if builtin else policy or FakePolicy(), False, FakePool)


def rows(out: Path) -> list[EpisodeRow]:
    return records.read_all(out / "rows.jsonl", EpisodeRow)


def test_every_episode_has_its_row_and_the_record_says_how(tmp_path: Path) -> None:
    policy = FakePolicy()
    record = run(configured(tmp_path, videos_per_task=1, workers=3), policy)
    got = rows(tmp_path)
    assert [(r.task, r.episode, r.seed) for r in got] == [
        (t, i, 100 * n + i) for n, t in enumerate(TASKS) for i in range(4)
    ]
    assert {r.success for r in got} == {True, False}
    for r in got:
        assert r.success == (picture(r.seed)[..., 0].mean() / 255 > 0.5)
        assert (r.run, r.arm, r.benchmark, r.control) == (record.run, "a", "fake/v1", None)
        assert (r.failure, r.first_success_step) == ((None, 7) if r.success else ("step_limit", None))
    assert record == records.read_one(tmp_path / "run.json", RunRecord)
    assert record.finished and record.inputs == {"policy": "fake0123"} and record.versions == {"simulator": "1.0"}
    assert record.facts["tokens"] == 13 and record.facts["rows"] == 12 and record.facts["batch"] == 2
    assert {len(b) for b in policy.batches} == {2} and set(policy.tokens) == {13}
    assert FakePool.made[0].asked == ("fake", 3, tmp_path / "workers.log")
    videos = sorted(p.name for p in (tmp_path / "videos").iterdir())
    assert videos == [f"none_{t}_0.mp4" for t in TASKS]
    assert [r.video for r in got if r.video] == [f"videos/{name}" for name in videos]


def test_the_record_says_which_starts_were_played_and_how(tmp_path: Path) -> None:
    """Each fact is what the settings let expect; the name of the start list depends on the starts alone."""
    config = configured(tmp_path / "a", precision="bf16")
    found = run(config, FakePolicy()).facts
    expected = {name: told.expected(config) for name, told in EVALUATED.items() if told.expected is not None}
    assert {name: found[name] for name in expected} == expected
    assert found["center_crop"] == 0.9 and found["checkpoint_step"] == 7  # the policy's own word
    assert {*EVALUATED} - {"normalizer", "chunk"} <= set(found)
    workers = run(configured(tmp_path / "b", workers=3, controls=(None, "image-blank")), FakePolicy()).facts
    fewer = run(configured(tmp_path / "c", episodes=3), FakePolicy()).facts
    assert workers["starts"] == found["starts"] != fewer["starts"] and fewer["starts_count"] == 9


def test_controls_share_the_starts_of_the_evaluation(tmp_path: Path) -> None:
    controls = ("image-other", None, "instruction-swapped", "image-blank")
    run(configured(tmp_path, controls=controls, control_episodes=2))
    done = FakePool.made[0].jobs
    assert list(dict.fromkeys(j["control"] for j in done)) == [None, *(c for c in controls if c)]
    by_id = {j["id"]: j for j in done}
    assert len(by_id) == len(done) == 3 * (4 + 3 * 2)
    other = by_id["image-other/push/1"]
    assert (other["episode"]["seed"], other["other"]["seed"]) == (201, 202)
    swapped = by_id["instruction-swapped/drawer-open/1"]
    assert (swapped["instruction"], swapped["episode"]["task"]) == ("please drawer close", "drawer-open")
    assert by_id["image-blank/push/0"]["instruction"] == "please push"
    assert records.read_one(tmp_path / "run.json", RunRecord).facts["instruction_swaps"] == {
        "drawer-close": "drawer-open",
        "drawer-open": "drawer-close",
        "push": "drawer-close",
    }
    got = rows(tmp_path)
    assert [r.key for r in got] == sorted(r.key for r in got)
    assert {r.seed for r in got if r.control == "image-other"} < {r.seed for r in got if r.control is None}


class Killed(BaseException):
    pass


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(configured(whole))

    def kill_after_five(job: dict[str, Any], place: int) -> None:
        if place == 5:
            raise Killed

    FakePool.wrong = staticmethod(kill_after_five)
    with pytest.raises(Killed):
        run(configured(parts))
    assert len(rows(parts)) == 5
    assert records.read_one(parts / "run.json", RunRecord).finished is None
    with (parts / "rows.jsonl").open("a") as f:
        f.write('{"run": "torn')  # the killed process was writing its sixth line
    FakePool.wrong = staticmethod(lambda job, place: None)
    record = run(configured(parts, workers=7, videos_per_task=2))  # neither changes what a row says
    assert len(FakePool.made[-1].jobs) == 7
    assert record.facts["rows_of_earlier_attempts"] == 5
    assert [r.model_copy(update={"video": None}) for r in rows(parts)] == rows(whole)


def test_a_finished_run_returns_at_once(tmp_path: Path) -> None:
    first = run(configured(tmp_path))
    before = (tmp_path / "rows.jsonl").stat().st_mtime_ns
    assert run(configured(tmp_path, workers=5)) == first
    assert len(FakePool.made) == 1 and (tmp_path / "rows.jsonl").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"execute": 1}, r"execute: 2 there, 1 now"),
        ({"batch": 3}, r"batch: 2 there, 3 now"),
        ({"episodes": 5}, r"episodes: 4 there, 5 now"),
        ({"arm": "b"}, r"arm: 'a' there, 'b' now"),
    ],
)
def test_rows_of_two_runs_are_never_mixed(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    run(configured(tmp_path))
    with pytest.raises(UserError, match=rf"holds another run \({told}\).*another --out"):
        run(configured(tmp_path, **changes))


def listing(monkeypatch: pytest.MonkeyPatch, *tasks: str) -> None:
    """As a setting outside of the configuration may choose: the benchmark keeps its id."""
    monkeypatch.setattr(FakeBench, "tasks", lambda self: tasks)


def test_all_tasks_are_those_of_the_day_and_another_list_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing(monkeypatch, "drawer-close", "drawer-open")
    first = run(configured(tmp_path / "a", tasks=()))
    assert first.config["tasks"] == first.facts["tasks"] == ["drawer-close", "drawer-open"]
    assert run(configured(tmp_path / "b", tasks=("drawer-close", "drawer-open"))).config_hash == first.config_hash
    listing(monkeypatch, "push")
    told = r"holds another run \(tasks: \['drawer-close', 'drawer-open'\] there, \['push'\] now\).*another --out"
    with pytest.raises(UserError, match=told):
        run(configured(tmp_path / "a", tasks=()))
    assert run(configured(tmp_path / "c", tasks=())).config_hash != first.config_hash


def test_a_killed_run_of_all_tasks_takes_no_rows_of_another_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakePool.wrong = kill_at(2)
    with pytest.raises(Killed):
        run(configured(tmp_path, tasks=()))
    FakePool.wrong = kill_at(99)
    with monkeypatch.context() as other:
        listing(other, "push")
        with pytest.raises(UserError, match="holds another run"):
            run(configured(tmp_path, tasks=()))
    assert run(configured(tmp_path, tasks=())).facts["rows"] == 12


def test_other_weights_are_another_run_and_another_path_is_not(tmp_path: Path) -> None:
    run(configured(tmp_path))
    run(configured(tmp_path, policy="the same folder, moved"))
    policy = FakePolicy()
    policy.digest = "other456"
    with pytest.raises(UserError, match=r"policy: 'fake0123' there, 'other456' now"):
        run(configured(tmp_path), policy)


class OnTheCpu(FakePolicy, torch.nn.Module):
    """A policy of ours is a module, somewhere."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        FakePolicy.__init__(self)
        self.weight = torch.nn.Parameter(torch.zeros(1))


def test_the_record_says_where_the_policy_computed(tmp_path: Path) -> None:
    assert run(configured(tmp_path / "a"), OnTheCpu()).hardware["device"] == "cpu"
    assert "device" not in run(configured(tmp_path / "b")).hardware  # of others nothing is known


def test_another_simulator_is_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(job: dict[str, Any], place: int) -> None:
        if place == 2:
            raise Killed

    FakePool.wrong = staticmethod(kill)
    with pytest.raises(Killed):
        run(configured(tmp_path))
    monkeypatch.setattr(FakePool, "versions", {"simulator": "1.1"})
    with pytest.raises(UserError, match=r"simulator: 1.0 then, 1.1 now"):
        run(configured(tmp_path))


def kill_at(place: int) -> Callable[[dict[str, Any], int], None]:
    def wrong(_job: dict[str, Any], now: int) -> None:
        if now == place:
            raise Killed

    return staticmethod(wrong)


def test_other_software_is_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(**changes: str) -> None:
        found = {"vlm4vla": "1", "torch": "2.11", "transformers": "5", "numpy": "2", "av": "15"} | changes
        monkeypatch.setattr(provenance, "package_versions", lambda names: found)

    installed()
    FakePool.wrong = kill_at(2)
    with pytest.raises(Killed):
        run(configured(tmp_path))
    FakePool.wrong = kill_at(99)
    for name in ("vlm4vla", "torch", "transformers", "numpy"):
        installed(**{name: "9"})
        told = rf"The software is not the one that began .*\({name}: [\d.]+ then, 9 now\)"
        with pytest.raises(UserError, match=told):
            run(configured(tmp_path))
    assert len(rows(tmp_path)) == 2
    installed(av="16")  # draws videos, computes no row
    first = run(configured(tmp_path))
    installed(torch="9")
    assert run(configured(tmp_path)) == first, "a finished run is only read"


def test_the_commit_of_every_attempt_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for attempt, source in enumerate((("aaa", False), ("bbb", True), (None, None))):
        monkeypatch.setattr(provenance, "source_state", lambda source=source: source)
        FakePool.wrong = kill_at(1 if attempt < 2 else 99)
        with suppress(Killed):
            run(configured(tmp_path))
    record = records.read_one(tmp_path / "run.json", RunRecord)
    assert record.facts["commits"] == ["aaa", "bbb with uncommitted changes", "not from a checkout"]
    assert (record.commit, record.finished is None) == ("aaa", False)


def test_rows_without_a_record_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(UserError, match=r"no run.json"):
        run(configured(tmp_path))


def test_tasks_that_cannot_be_played_are_refused_before_the_first_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def must_have_assets(_bench: FakeBench, tasks: Sequence[str]) -> None:
        assert tuple(tasks) == ("push", "drawer-open")
        raise refuse("No mesh for push", todo="Leave it out.")

    monkeypatch.setattr(FakeBench, "must_have_assets", must_have_assets, raising=False)
    with pytest.raises(UserError, match="No mesh for push"):
        run(configured(tmp_path / "out", tasks=("push", "drawer-open")))
    assert not FakePool.made and not (tmp_path / "out").exists()


def test_lost_workers_are_not_failures_of_the_policy(tmp_path: Path) -> None:
    def lose(job: dict[str, Any], place: int) -> dict[str, Any] | None:
        lost = {"kind": "failure", "user": False, "error": "3 workers died"}
        return lost if job["id"] in ("none/push/1", "none/push/2") else None

    FakePool.wrong = staticmethod(lose)
    with pytest.raises(runner.EpisodesFailed, match=r"2 of 12 episodes could not be run.*none/push/2: 3 workers died"):
        run(configured(tmp_path))
    assert len(rows(tmp_path)) == 10 and records.read_one(tmp_path / "run.json", RunRecord).finished is None
    FakePool.wrong = staticmethod(lambda job, place: None)
    assert run(configured(tmp_path)).finished
    assert len(rows(tmp_path)) == 12 and len(FakePool.made[-1].jobs) == 2


def test_three_failures_in_a_row_end_the_run(tmp_path: Path) -> None:
    reached = []

    def lose(job: dict[str, Any], place: int) -> dict[str, Any] | None:
        reached.append(place)
        return None if place in (0, 3) else {"kind": "failure", "user": False, "error": "no answer in 300 s"}

    FakePool.wrong = staticmethod(lose)
    told = r"5 of 12 episodes could not be run.*stopped after 3 such failures in a row.*no answer in 300 s"
    with pytest.raises(runner.EpisodesFailed, match=told):
        run(configured(tmp_path))
    assert reached == list(range(7)) and len(rows(tmp_path)) == 2


def test_a_users_mistake_stops_at_once_with_its_sentence(tmp_path: Path) -> None:
    def mistake(job: dict[str, Any], place: int) -> dict[str, Any] | None:
        return (
            {"kind": "failure", "user": True, "error": str(refuse("Wrong gripper", todo="Turn it."))} if place else None
        )

    FakePool.wrong = staticmethod(mistake)
    with pytest.raises(UserError, match=r"^Wrong gripper. Turn it.$"):
        run(configured(tmp_path))
    assert len(rows(tmp_path)) == 1


def test_a_video_is_there_before_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Path:
        raise refuse("Cannot write: the disk is full", todo="Free some space.")

    monkeypatch.setattr(runner, "write_mp4", full)
    with pytest.raises(UserError, match="disk is full"):
        run(configured(tmp_path, videos_per_task=1))
    assert all(r.video is None for r in rows(tmp_path))


def test_a_writer_beside_this_one_is_noticed(tmp_path: Path) -> None:
    def twice(job: dict[str, Any], place: int) -> None:
        if place == 1:
            line = (tmp_path / "rows.jsonl").read_text().splitlines()[0]
            with (tmp_path / "rows.jsonl").open("a") as f:
                f.write(line + os.linesep)

    FakePool.wrong = staticmethod(twice)
    with pytest.raises(UserError, match="holds 13 rows where 12 episodes were run"):
        run(configured(tmp_path))


def test_builtin_policies_need_no_server(tmp_path: Path) -> None:
    record = run(configured(tmp_path, policy="builtin:do-nothing", tasks=()))
    assert {j["policy"] for j in FakePool.made[0].jobs} == {"builtin:do-nothing"}
    assert len(rows(tmp_path)) == 12 and record.facts["tokens"] is None
    assert record.inputs == {"policy": "builtin:do-nothing"}


def test_a_running_server_is_asked_for_its_digest(tmp_path: Path) -> None:
    from vlm4vla.rollout.server import PolicyServer

    with PolicyServer(FakePolicy(), 2, None) as server:
        record = runner.evaluate(configured(tmp_path, policy=server.uri), None, False, FakePool)
    assert record.inputs == {"policy": "fake0123"} and record.facts["tokens"] is None
    with pytest.raises(UserError, match="No policy server answers"):
        runner.evaluate(configured(tmp_path / "b", policy="ws://127.0.0.1:9"), None, False, FakePool)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tasks": ("drawer-opne",)}, "Did you mean 'drawer-open'"),
        ({"tasks": ("push", "push")}, "listed twice"),
        ({"controls": ()}, "nothing would run"),
        ({"controls": ("image-blank",), "control_episodes": 5}, "control_episodes is 5, but only 4 episodes"),
        ({"episodes": 10}, "10 eval episodes of 'drawer-close' were asked for, fake/v1 has 9. Possible: 1 to 9"),
        ({"execute": 4}, "execute is 4. Possible: 1 to 3"),
        ({"controls": ("instruction-swapped",), "tasks": ("push",)}, "two or more tasks"),
    ],
)
def test_mistakes_are_told_before_anything_starts(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        run(configured(tmp_path / "new", **changes))
    assert not FakePool.made and not (tmp_path / "new").exists()


def test_a_policy_of_another_world_is_refused(tmp_path: Path) -> None:
    for name, value, told in (
        ("cameras", ("wrist",), "camera 'wrist', which fake/v1 lacks"),
        ("state_names", ("x",), r"reads the state \(x\)"),
        ("action_spec", SPEC.from_dict(SPEC.to_dict() | {"control_hz": 20.0}), "20.0 Hz against 10.0 Hz"),
    ):
        policy = FakePolicy()
        setattr(policy, name, value)
        with pytest.raises(UserError, match=told):
            run(configured(tmp_path), policy)
    with pytest.raises(UserError, match="'folder' was not loaded"):
        runner.evaluate(configured(tmp_path), None, False, FakePool)


def test_progress_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner.evaluate(configured(tmp_path), FakePolicy(), True, FakePool)
    out, err = capsys.readouterr()
    successes = sum(r.success for r in rows(tmp_path))
    assert out == "" and "12/12" in err and f"success {successes}/12" in err
    assert json.loads((tmp_path / "run.json").read_text())["kind"] == "eval"


def test_the_gripper_in_the_address_is_part_of_the_run_and_not_sent(tmp_path: Path) -> None:
    paths: list[str] = []

    def answer(connection: ServerConnection) -> None:
        assert connection.request is not None
        paths.append(connection.request.path)
        connection.send(pack({"tool": "another"}))

    played = {"kind": "result", "success": True, "steps": 7, "first_success_step": 7, "failure": None}
    played |= {"completed": None, "partial": None, "wall_s": 0.25, "frames": None}
    FakePool.wrong = staticmethod(lambda job, place: played)
    with serve(answer, "127.0.0.1", 0, compression=None) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        uri = f"ws://127.0.0.1:{listening.socket.getsockname()[1]}"
        turned = f"{uri}?gripper=close_positive"
        record = runner.evaluate(configured(tmp_path, policy=turned, assume_spec=True), None, False, FakePool)
        with pytest.raises(UserError, match=r"policy: 'ws.*gripper=close_positive' there"):
            runner.evaluate(configured(tmp_path, policy=uri, assume_spec=True), None, False, FakePool)
        listening.shutdown()
        thread.join()
    assert record.inputs == {"policy": turned} and {job["policy"] for job in FakePool.made[0].jobs} == {turned}
    assert paths == ["/", "/"]
