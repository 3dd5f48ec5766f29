"""Cells as Ray tasks: the same files as without Ray, a failure where a process is killed, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import ray_stages
from fake_stages import Stages

from vlm4vla.cli.main import main
from vlm4vla.study import cells, execute, on_ray, state
from vlm4vla.study.cells import Cell
from vlm4vla.study.on_ray import Cluster, Place
from vlm4vla.types import UserError

FOUR = ("--seeds", "[0, 1]")
HERE = Path(__file__).parent
quiet: Callable[[str], None] = lambda _: None  # noqa: E731


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Ray of this test process; its processes find ``ray_stages``."""
    settings = {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    with mock.patch.dict(os.environ, settings), on_ray.connected(None, tmp_path_factory.mktemp("token")) as found:
        yield found


def found_in(out: Path, *words: str) -> list[Cell]:
    return cells.cells(ray_stages.study(*words), out)


def rows(out: Path) -> dict[str, list[dict[str, object]]]:
    """Rows by evaluation folder; ``run`` of the stand-ins has the path of ``out`` in it."""
    return {
        str(file.relative_to(out)): [json.loads(line) | {"run": ""} for line in file.read_text().splitlines()]
        for file in sorted(out.rglob("rows.jsonl"))
    }


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def until(happened: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    """The process and all that come from it."""
    own = [int(c) for f in Path(f"/proc/{pid}/task").glob("*/children") for c in f.read_text().split()]
    return [pid, *(other for child in own for other in children(child))]


def test_begun_here_and_finished_on_ray_gives_the_same_files(cluster: Cluster, tmp_path: Path) -> None:
    with mock.patch.object(execute.subprocess, "run", Stages().run):
        assert execute.run_cells(found_in(tmp_path / "here", *FOUR), 2, quiet) == []
        assert execute.run_cells(found_in(tmp_path / "both", *FOUR)[:2], 2, quiet) == []
    first = {f: f.stat().st_mtime_ns for f in (tmp_path / "both").rglob("*") if f.is_file()}
    cluster.work = ray_stages.well
    assert cluster.run_cells(found_in(tmp_path / "both", *FOUR), 2, quiet) == []
    assert all(f.stat().st_mtime_ns == then for f, then in first.items())
    assert all(map(state.finished, found_in(tmp_path / "both", *FOUR)))
    names = [{str(f.relative_to(out)) for f in out.rglob("*")} for out in (tmp_path / "here", tmp_path / "both")]
    assert names[0] == names[1]
    assert len(rows(tmp_path / "here")) == 4 and rows(tmp_path / "here") == rows(tmp_path / "both")


def test_a_failed_cell_stops_no_other_and_runs_as_it_would_here(cluster: Cluster, tmp_path: Path) -> None:
    found, said = found_in(tmp_path, *FOUR), list[str]()
    cluster.work = ray_stages.partly
    (failure,) = cluster.run_cells(found, 2, said.append)
    assert str(failure).startswith("frozen-s0: train ended with status 1: vlm4vla: no luck (its log is")
    assert [state.state_of(cell) for cell in found] == ["finished", "finished", "failed", "finished"]
    assert sorted(said)[1:] == [f"{name}: trained and evaluated" for name in ("frozen-s1", "trained-s0", "trained-s1")]
    told = {(cell.folder / "surroundings").read_text() for cell in found}
    assert told == {str(["1", os.nice(0), str(Path.cwd())])}


def test_a_killed_process_is_its_cells_failure(cluster: Cluster, tmp_path: Path) -> None:
    found = found_in(tmp_path, *FOUR)
    cluster.work = ray_stages.deadly
    (failure,) = cluster.run_cells(found, 2, quiet)
    assert failure.name == "frozen-s0" and "its Ray process was killed" in failure.message
    until(lambda: not alive(int((found[2].folder / "pid").read_text())), 10)
    noted = state.last_failure(found[2].folder)
    assert noted is not None and noted["message"] == failure.message
    assert "The worker died" in found[2].log.read_text()
    cluster.work = ray_stages.well
    assert cluster.run_cells(found, 2, quiet) == [] and all(map(state.finished, found))


def driver(out: Path, address: str, **more: str) -> tuple["subprocess.Popen[bytes]", list[int]]:
    """A process that runs two cells on Ray without an end; and the verbs of both. ``more``: environment variables."""
    out.mkdir()
    words = [sys.executable, str(HERE / "ray_stages.py"), str(out), address]
    silent: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(words, env={**os.environ, **more}, **silent)
    until(lambda: len([f for f in out.glob("cells/*/pid") if f.read_text()]) == 2 or process.poll() is not None, 120)
    assert process.poll() is None
    return process, [int(f.read_text()) for f in out.glob("cells/*/pid")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_driver_that_ends_leaves_no_verb_on_the_cluster(
    cluster: Cluster, number: signal.Signals, tmp_path: Path
) -> None:
    import ray

    out = tmp_path / "study"
    process, verbs = driver(out, ray.get_runtime_context().gcs_address)
    assert len(list(out.glob(".ray-*"))) == 1
    process.send_signal(number)
    process.wait(60)
    until(lambda: not any(map(alive, verbs)), 15)
    assert len(list(out.glob(".ray-*"))) == (number == signal.SIGKILL)
    cluster.work = ray_stages.well
    assert cluster.run_cells(found_in(out), 2, quiet) == [] and len(rows(out)) == 2


def test_a_killed_driver_takes_its_own_ray_with_it(tmp_path: Path) -> None:
    with TemporaryDirectory(ignore_cleanup_errors=True) as short:  # a killed driver leaves its Ray's folder
        process, verbs = driver(tmp_path / "study", "own", TMPDIR=short, PYTHONPATH=str(HERE))
        (server,) = [p for p in children(process.pid) if "gcs_server" in Path(f"/proc/{p}/comm").read_text()]
        process.kill()
        process.wait()
        until(lambda: not any(map(alive, [server, *verbs])), 15)


def test_ray_listens_on_loopback_alone(cluster: Cluster) -> None:
    tables = "".join(Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")).splitlines()
    lines = [line.split() for line in tables]
    listening = {f"socket:[{words[9]}]": words[1].split(":")[0] for words in lines if words[3] == "0A"}
    files = [file for pid in children(os.getpid()) for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()]
    own = {listening[name] for name in (str(file.readlink()) for file in files) if name in listening}
    assert own == {"0100007F", "0000000000000000FFFF00000100007F"}


def test_a_machine_that_does_not_see_the_folder_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    import ray

    (tmp_path / "token").write_text("of another folder")
    for name, fault in (("token", "another folder stands at"), ("none", "No such file or directory")):
        place = Place(tmp_path / name, "secret", str(tmp_path), None)
        stranger = Cluster(ray, place, ray_stages.well)
        with pytest.raises(UserError, match=rf"127\.0\.0\.1 of the Ray cluster cannot work in .*{fault}.*--out"):
            stranger.check()
        failures = stranger.run_cells(found_in(tmp_path / "study"), 2, quiet)
        assert len(failures) == 2 and all(fault in failure.message for failure in failures)
        assert not (tmp_path / "study").exists()


def cluster_of(*machines: dict[str, float]) -> Cluster:
    told = [{"Alive": True, "NodeID": "x", "NodeManagerAddress": "y", "Resources": each} for each in machines]
    ray: Any = SimpleNamespace(nodes=lambda: told, remote=lambda **_: lambda work: work)
    return Cluster(ray, Place(Path("x"), "", "", None), ray_stages.well)


def test_cells_ask_for_their_threads_and_for_a_gpu_where_there_are() -> None:
    with pytest.raises(UserError, match="no machine with a CPU"):
        cluster_of({"memory": 1.0}).check()
    without = cluster_of({"CPU": 8.0}, {"CPU": 2.0}, {"memory": 1.0})
    assert without.needs(3) == {"num_cpus": 3, "num_gpus": 0}
    assert without.needs(0) == without.needs(99) == {"num_cpus": 8, "num_gpus": 0}
    assert [without.jobs(2, None), without.jobs(3, None), without.jobs(0, None), without.jobs(2, 3)] == [5, 2, 1, 3]
    mixed = cluster_of({"CPU": 64.0}, {"CPU": 16.0, "GPU": 4.0}, {"CPU": 4.0, "GPU": 1.0})
    assert mixed.needs(4) == {"num_cpus": 4, "num_gpus": 1} and mixed.needs(0)["num_cpus"] == 16
    assert [mixed.jobs(4, None), mixed.jobs(8, None), mixed.jobs(4, 99), mixed.jobs(4, 2)] == [5, 2, 5, 2]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--ray-address", "auto"], "--ray-address needs --on ray."),
        (["--on", "ray", "--ray-address", "127.0.0.1:1"], "No Ray cluster could be joined at 127.0.0.1:1: "),
        (["--on", "ray", "--ray-address", "nowhere"], "No Ray cluster could be joined at nowhere: "),
    ],
)
def test_wrong_words_are_refused(
    words: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mock.patch.dict(os.environ):
        assert main(["study", "run", str(ray_stages.FILE), "--out", str(tmp_path / "o"), *words]) == 2
    told = capsys.readouterr().err
    assert expected in told and "Possible: " in told
    assert not (tmp_path / "o").exists()


def test_without_ray_there_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(on_ray.importlib.util, "find_spec", lambda _: None)
    assert main(["study", "run", str(ray_stages.FILE), "--out", str(tmp_path / "o"), "--on", "ray"]) == 2
    assert "Ray is not installed. Possible: --on local" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
