"""Workers as real processes, on the fake benchmark and the interpreter of the tests."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fake_bench import Benchmark
from websockets.sync.server import serve as ws_serve

from vlm4vla.rollout import worker
from vlm4vla.rollout.pool import TRIES, WorkerFailed, WorkerPool
from vlm4vla.rollout.wire import pack, unpack
from vlm4vla.types import UserError

BENCH = str(Path(__file__).with_name("fake_bench.py"))
PYTHON = Path(sys.executable)


def rollout(task, index=0, policy="builtin:expert", **changes):
    episode = Benchmark().episodes("eval", task, index + 1)[index].to_dict()
    job = {"kind": "rollout", "id": f"{task}/{index}", "episode": episode, "control": None, "other": None}
    job |= {"instruction": "go", "policy": policy, "execute": 1, "seed": 0, "video": False, "assume_spec": False}
    return job | changes


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log" / "workers.log"


def pool(log, workers=2, **deadlines):
    return WorkerPool(BENCH, workers, log, PYTHON, **deadlines)


def played(log, script, **deadlines):
    """A pool whose one worker is a script that has a ``channel``."""
    p = pool(log, 1, **deadlines)
    start = (
        "import sys, time; from vlm4vla.rollout.control import Channel\n"
        "channel = Channel(int(sys.argv[2]), int(sys.argv[4]))\n"
    )
    p._command = [sys.executable, "-c", start + script]
    return p


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_every_job_is_answered_once_and_workers_are_reaped(log):
    with pool(log) as p:
        assert p.bench_id == "fake-v1" and p.versions["fake"] == "1"
        pids = [w.process.pid for w in p._workers]
        jobs = [rollout(t, i) for t in ("move", "slide") for i in range(10)]
        answers = list(p.run(jobs))
        more = list(p.run([rollout("move", 3)]))
    assert sorted(j["id"] for j, _ in answers) == sorted(j["id"] for j in jobs)
    assert all(r["kind"] == "result" and r["id"] == j["id"] and r["success"] for j, r in answers + more)
    assert all(gone(pid) for pid in pids)
    text = log.read_text()
    assert "a simulator that prints" in text
    assert text.count("closed move") <= 2 and text.count("closed slide") <= 2  # environments were kept across jobs


def test_an_exception_is_a_failure_and_the_worker_lives_on(log):
    with pool(log, workers=1) as p:
        (pid,) = [w.process.pid for w in p._workers]
        (_, raised), (_, unknown) = [*p.run([rollout("raise")]), *p.run([rollout("move", policy="builtin:exprt")])]
        ((_, nowhere),) = p.run([rollout("nowhere")])
        ((_, good),) = p.run([rollout("move")])
        assert [w.process.pid for w in p._workers] == [pid]
    assert raised["error"] == "ZeroDivisionError: simulated" and not raised["user"] and not raised["start"]
    assert nowhere["error"] == "StartFailed: nothing fits" and nowhere["start"] and not nowhere["user"]
    assert unknown["user"] and "builtin:expert" in unknown["error"]
    assert good["success"]
    assert "Traceback" in log.read_text()


def test_a_job_that_killed_one_worker_is_run_again(log, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_BENCH_FLAG", str(tmp_path / "flag"))
    with pool(log) as p:
        answers = {j["id"]: r for j, r in p.run([rollout("die-once"), *(rollout("move", i) for i in range(4))])}
    assert len(answers) == 5 and all(r["kind"] == "result" for r in answers.values())


def test_a_job_that_kills_every_worker_fails_and_costs_nobody_else(log):
    with pool(log) as p:
        answers = {j["id"]: r for j, r in p.run([rollout("die"), *(rollout("move", i) for i in range(4))])}
        assert len(p._workers) == 2
    lost = answers.pop("die/0")
    assert lost["kind"] == "failure" and not lost["user"]
    assert f"{TRIES} workers died" in lost["error"] and "SIGKILL" in lost["error"]
    assert len(answers) == 4 and all(r["kind"] == "result" for r in answers.values())


def test_a_worker_killed_from_outside_is_replaced(log):
    with pool(log, workers=1) as p:
        (before,) = [w.process.pid for w in p._workers]
        os.kill(before, signal.SIGKILL)
        ((_, answer),) = p.run([rollout("move")])
        assert answer["success"] and p._workers[0].process.pid != before


def test_a_consumer_that_stops_early_leaves_no_stale_answer(log):
    with pool(log) as p:
        running = p.run([rollout("move", i) for i in range(6)])
        next(running)
        running.close()
        ((job, answer),) = p.run([rollout("slide", 5)])
    assert job["id"] == answer["id"] == "slide/5"


def test_workers_that_cannot_start_say_why(log, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_module")
    with pytest.raises(WorkerFailed, match="no_such_module"):
        WorkerPool(str(broken), 1, log, PYTHON).__enter__()
    aborting = tmp_path / "aborting.py"
    aborting.write_text("import os; os.abort()")
    with pytest.raises(WorkerFailed, match="SIGABRT"):
        WorkerPool(str(aborting), 1, log, PYTHON).__enter__()
    with pytest.raises(UserError, match="Possible"):
        WorkerPool("no-such-benchmark", 1, log, PYTHON).__enter__()


def test_a_worker_that_hangs_is_given_up_and_its_job_counted(log):
    with pool(log, job_s=1.5) as p:
        jobs = [rollout("hang"), *(rollout("move", i) for i in range(3))]
        answers = {j["id"]: r for j, r in p.run(jobs)}
        pids = [w.process.pid for w in p._workers]
    lost = answers.pop("hang/0")
    assert lost["kind"] == "failure" and not lost["user"]
    assert f"{TRIES} workers died" in lost["error"] and "1.5 s without a sign of life" in lost["error"]
    assert len(answers) == 3 and all(r["kind"] == "result" for r in answers.values())
    assert log.read_text().count("hanging") == TRIES
    assert all(gone(pid) for pid in pids)


def test_a_worker_that_hangs_at_its_start_is_given_up(log, tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text("import time; time.sleep(3600)")
    with pytest.raises(WorkerFailed, match=r"0\.5 s without a sign of life"):
        WorkerPool(str(slow), 1, log, PYTHON, start_s=0.5).__enter__()


READY = "channel.send({'kind': 'ready', 'id': 'fake-v1', 'versions': {'fake': '1'}})\n"


def test_a_worker_that_reads_nothing_or_stops_inside_an_answer_stalls_nobody(log):
    large = rollout("move") | {"padding": bytes(2**20)}  # many times what a pipe holds
    with played(log, READY + "time.sleep(3600)", job_s=0.5) as p:
        ((_, unread),) = p.run([large])
    half = "channel.receive(); import os; os.write(channel._write.fileno(), b'\\0\\0\\1'); time.sleep(3600)"
    with played(log, READY + half, job_s=0.5) as p:
        ((_, cut),) = p.run([rollout("move")])
    assert "without a sign of life" in unread["error"] and "without a sign of life" in cut["error"]


def test_a_large_job_and_a_large_answer_arrive(log):
    echo = "job = channel.receive(); channel.send({'kind': 'result', 'id': job['id'], 'back': job['padding']})\n"
    with played(log, READY + echo + "channel.receive()") as p:
        padding = np.random.default_rng(0).bytes(3 * 2**20)
        ((_, answer),) = p.run([rollout("move") | {"padding": padding}])
    assert answer["back"] == padding


def test_a_slow_worker_that_speaks_is_not_given_up(log):
    talk = "for _ in range(10): time.sleep(0.3); channel.send({'kind': 'alive'})\n"
    work = "job = channel.receive()\n" + talk + "channel.send({'kind': 'result', 'id': job['id']}); channel.receive()"
    with played(log, READY + work, job_s=1.5) as p:
        before = list(p._workers)
        ((_, answer),) = p.run([rollout("move")])
        assert answer["kind"] == "result" and p._workers == before


def test_the_worker_speaks_while_a_policy_is_slow(monkeypatch):
    class Slow:
        looks = False
        cameras = frozenset()
        window = 1

        def reset(self, episode): ...

        def ask(self, observation):
            return np.zeros((1, 2), np.float32)

    clock = iter([0.0, 1.0, 2.0, 6.0, 6.0, 7.0])
    monkeypatch.setattr(worker.time, "monotonic", lambda: next(clock))
    said = []
    chooser = worker._Reporting(Slow(), said.append)
    for expected in (0, 0, 1, 1):
        assert chooser.ask(None).shape == (1, 2)
        assert said == [{"kind": "alive"}] * expected


def test_a_consumer_that_takes_long_costs_no_worker(log):
    work = (
        "while (job := channel.receive()) is not None:\n"
        "    time.sleep(job['delay']); channel.send({'kind': 'result', 'id': job['id'], 'large': bytes(2**20)})"
    )
    p = played(log, READY + work, job_s=1.0)
    p._count = 2
    with p:
        before = [w.process.pid for w in p._workers]
        for _ in p.run([rollout("move", i) | {"delay": i / 2} for i in range(2)]):
            time.sleep(1.5)  # meanwhile the other worker answers, and waits until somebody reads it
        assert [w.process.pid for w in p._workers] == before


def test_workers_of_another_benchmark_or_renderer_are_refused(log):
    other = READY.replace("fake-v1", "fake-v2")
    with pytest.raises(UserError, match=r"'fake-v2'.*'fake-v1'"):
        played(log, other + "channel.receive()").__enter__()
    with played(log, READY + "channel.receive()") as p:
        p.versions = {"fake": "2"}  # as another worker had said
        os.kill(p._workers[0].process.pid, signal.SIGKILL)
        with pytest.raises(WorkerFailed, match="different things"):
            list(p.run([rollout("move")]))


@pytest.mark.parametrize("task", [None, "hang"])
def test_workers_end_when_their_runner_is_killed(log, task):
    """An idle one would also see its channel close; one that hangs in a job would not."""
    script = (
        "import json, sys, time; from pathlib import Path; from vlm4vla.rollout.pool import WorkerPool\n"
        "p = WorkerPool(sys.argv[1], 1, Path(sys.argv[2]), Path(sys.executable)).__enter__()\n"
        "print(p._workers[0].process.pid, flush=True)\n"
        "list(p.run(json.loads(sys.argv[3])))\n"
        "time.sleep(3600)"
    )
    jobs = json.dumps([rollout(task)] if task else [])
    words = [sys.executable, "-c", script, BENCH, str(log), jobs]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        while task and "hanging" not in log.read_text() and parent.poll() is None:
            time.sleep(0.05)
        assert not _ended(pid)
        parent.kill()
    deadline = time.monotonic() + 30  # it takes milliseconds; without the signal it would take an hour
    while not _ended(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _ended(pid)


def _ended(pid):
    """Gone, or a zombie that its new parent has not reaped yet."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def server():
    """A policy server of its own: moves by 0.5 in chunks of two, and counts its connections."""
    connections = []

    def serve(connection):
        connections.append(connection)
        wanted = {"images": {"front": {"key": "observation/image"}}, "state": None}
        spec = Benchmark.action_spec.to_dict()
        connection.send(pack({"server": "vlm4vla", "observation": wanted, "action_spec": spec}))
        for frame in connection:
            request = unpack(frame)
            assert request["observation/image"].shape == (4, 4, 3)
            if request["prompt"] == "drop me":
                return
            connection.send(pack({"actions": np.tile(np.array([0.5, 1.0], np.float32), (2, 1))}))

    with ws_serve(serve, "127.0.0.1", 0, compression=None) as ws:
        thread = threading.Thread(target=ws.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{ws.socket.getsockname()[1]}", connections
        ws.shutdown()
        thread.join()


def test_a_policy_server_is_asked_over_one_connection_per_worker(log, server):
    uri, connections = server
    with pool(log, workers=1) as p:
        answers = [r for _, r in p.run([rollout("move", i, uri, execute=2) for i in range(5)])]
        assert all(r["success"] and r["steps"] == 8 for r in answers)
        assert len(connections) == 1
        ((_, lost),) = p.run([rollout("move", 0, uri, instruction="drop me", control="instruction-swapped")])
        assert lost["kind"] == "failure" and not lost["user"] and "closed the connection" in lost["error"]
        ((_, again),) = p.run([rollout("move", 0, uri)])
        assert again["success"] and len(connections) == 2
        ((_, refused),) = p.run([rollout("move", 0, uri, execute=3)])
        assert refused["user"] and "at least 3" in refused["error"]
