"""Workers as real processes, on the fake benchmark and the interpreter of the tests."""

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

from vlm4vla.rollout.pool import TRIES, WorkerFailed, WorkerPool
from vlm4vla.rollout.wire import pack, unpack
from vlm4vla.types import UserError

BENCH = str(Path(__file__).with_name("fake_bench.py"))
PYTHON = Path(sys.executable)


def rollout(task, index=0, policy="builtin:expert", **changes):
    episode = Benchmark().episodes("eval", task, index + 1)[index].to_dict()
    job = {"kind": "rollout", "id": f"{task}/{index}", "episode": episode, "control": None, "other": None}
    job |= {"instruction": "go", "policy": policy, "execute": 1, "video": False, "assume_spec": False}
    return job | changes


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log" / "workers.log"


def pool(log, workers=2):
    return WorkerPool(BENCH, workers, log, PYTHON)


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
        ((_, good),) = p.run([rollout("move")])
        assert [w.process.pid for w in p._workers] == [pid]
    assert raised["error"] == "ZeroDivisionError: simulated" and not raised["user"]
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


def test_workers_leave_when_their_parent_is_killed(log):
    script = (
        "import sys, time; from pathlib import Path; from vlm4vla.rollout.pool import WorkerPool\n"
        "p = WorkerPool(sys.argv[1], 1, Path(sys.argv[2]), Path(sys.executable)).__enter__()\n"
        "print(p._workers[0].process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, BENCH, str(log)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while not _ended(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _ended(worker)


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
        connection.send(pack({"action_spec": Benchmark.action_spec.to_dict()}))
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
        ((_, lost),) = p.run([rollout("move", 0, uri, instruction="drop me")])
        assert lost["kind"] == "failure" and not lost["user"] and "closed the connection" in lost["error"]
        ((_, again),) = p.run([rollout("move", 0, uri)])
        assert again["success"] and len(connections) == 2
        ((_, refused),) = p.run([rollout("move", 0, uri, execute=3)])
        assert refused["user"] and "at least 3" in refused["error"]
