"""Cells of a study as tasks of Ray (``study run --on ray``): of a Ray that is started here, or of a running cluster.

A task does what a thread of ``execute.run_cells`` does. Files are its only result, so the board, ``study status`` and a
later run on this machine alone find what they always find; on a cluster the study's folder must be shared by all
machines. The verbs of a cell end with the Ray process that started them, and that one ends with this driver.

Ray is an optional extra, imported here alone, and only when a study is run on it.
"""

import importlib.util
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vlm4vla import records
from vlm4vla.processes import die_with_parent
from vlm4vla.study import execute, state
from vlm4vla.study.cells import Cell
from vlm4vla.study.execute import Say, Work
from vlm4vla.study.state import Failure
from vlm4vla.types import RunFailed, UserError, refuse

_ALWAYS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # otherwise it reports to its makers
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # otherwise it copies the working folder where `uv run` started us
}
_OWN = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # one machine, so it listens on loopback; Linux obeys it, too
    "RAY_AUTH_MODE": "token",  # other users of this machine can reach loopback
    "RAY_worker_niceness": "0",  # otherwise 15, and a local run has 0
    "RAY_memory_monitor_refresh_ms": "0",  # otherwise what others do with the memory ends cells
}
_LOOPBACK = "127.0.0.1"
_STORE_BYTES = 100 * 2**20  # Ray's shared memory; only settings and failures pass through it
_PATIENCE_S = 120  # for the first answer of a machine


@dataclass(frozen=True)
class Place:
    """Where a cell's verbs run: beside the study's token file, and with what a Ray process would have otherwise."""

    token: Path
    secret: str
    folder: str
    threads: str | None  # OMP_NUM_THREADS, which Ray sets; results depend on it
    own: bool = False  # a Ray that ends with the driver

    def enter(self) -> str | None:
        """Called in a Ray process; what is wrong with it, or nothing."""
        if self.own:  # Ray's processes need seconds to notice that the one which started them was killed
            die_with_parent(os.getppid())
        try:
            if self.token.read_text() != self.secret:
                return f"another folder stands at {self.token.parent}"
            os.chdir(self.folder)
        except OSError as error:
            return f"{error.filename}: {error.strerror}"
        os.environ.pop("OMP_NUM_THREADS", None)
        if self.threads is not None:
            os.environ["OMP_NUM_THREADS"] = self.threads
        return None


@dataclass(frozen=True)
class Node:
    """A machine of the cluster: CPUs and GPUs that it offers."""

    id: str
    address: str
    cpus: int
    gpus: int


class Cluster:
    """A connection to Ray. ``run_cells`` is the one of ``execute``, elsewhere."""

    def __init__(self, ray: Any, place: Place, work: Work) -> None:
        self._ray, self._place, self.work = ray, place, work
        self.nodes = [_node(told) for told in ray.nodes() if told["Alive"] and told["Resources"].get("CPU", 0) >= 1]
        # A process that is gone is the cell's failure: a second attempt is the user's to start, as everywhere.
        self._task = ray.remote(max_retries=0)(_task)

    def needs(self, threads: int) -> dict[str, int]:
        """What a cell asks for: its threads (0: all of a machine's; never more than one has), a GPU where there are."""
        usable, gpus = self._usable()
        most = max(node.cpus for node in usable)
        return {"num_cpus": min(threads or most, most), "num_gpus": gpus}

    def jobs(self, threads: int, wished: int | None) -> int:
        """Cells at a time: as many as fit, or fewer where ``wished``."""
        usable, gpus = self._usable()
        cpus = self.needs(threads)["num_cpus"]
        fitting = sum(min(node.cpus // cpus, node.gpus) if gpus else node.cpus // cpus for node in usable)
        return min(fitting, wished or fitting)

    def _usable(self) -> tuple[list[Node], int]:
        with_gpu = [node for node in self.nodes if node.gpus]
        return with_gpu or self.nodes, 1 if with_gpu else 0

    def run_cells(self, found: Sequence[Cell], jobs: int, say: Say) -> list[Failure]:
        """Train and evaluate every cell that is not finished, ``jobs`` at a time. A failed cell stops no other."""
        return execute.follow(found, jobs, say, self._start, self._outcome)

    def _start(self, cell: Cell) -> Future[Any]:
        task = self._task.options(**self.needs(cell.train.threads))
        future: Future[Any] = task.remote(self.work, cell, self._place).future()
        return future

    def _outcome(self, cell: Cell, ended: Future[Any]) -> Failure | None:
        error = ended.exception()
        if error is None:
            failure: Failure | None = ended.result()
            return failure
        lines, kinds = str(error).strip().splitlines(), self._ray.exceptions
        if isinstance(error, kinds.WorkerCrashedError):
            message = "its Ray process was killed; the kernel does so where memory is short"
        else:  # a fault inside the task comes as a traceback
            message = f"its Ray task failed: {lines[-1 if isinstance(error, kinds.RayTaskError) else 0]}"
        state.note_failure(cell.folder, "ray", message)
        with cell.log.open("a") as log:
            log.write(f"{error}\n")
        return Failure(cell.name, message, cell.log)

    def check(self) -> None:
        """Refuses a cluster without CPUs, or of which a machine cannot work in the study's folder."""
        if not self.nodes:
            raise refuse(
                "The Ray cluster has no machine with a CPU to offer",
                possible="at least one machine started with --num-cpus 1 or more",
                todo="Add one (`ray start --address ...`), or use --on local.",
            )
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        probe = self._ray.remote(num_cpus=0, max_retries=0)(_probe)
        for node in self.nodes:
            there = NodeAffinitySchedulingStrategy(node_id=node.id, soft=False)
            try:
                asked = probe.options(scheduling_strategy=there).remote(self._place)
                fault = self._ray.get(asked, timeout=_PATIENCE_S)
            except self._ray.exceptions.RayError as error:
                fault = f"it does not answer: {str(error).strip().splitlines()[-1]}"
            if fault is not None:
                raise refuse(
                    f"Machine {node.address} of the Ray cluster cannot work in {self._place.token.parent}: {fault}",
                    possible="machines with vlm4vla installed that share the study's folder and the working folder at "
                    "the same paths",
                    todo="Choose a folder on a shared file system with --out, or use --on local.",
                )


def _node(told: dict[str, Any]) -> Node:
    resources = told["Resources"]
    cpus, gpus = int(resources["CPU"]), int(resources.get("GPU", 0))
    return Node(told["NodeID"], told["NodeManagerAddress"], cpus, gpus)


def _task(work: Work, cell: Cell, place: Place) -> Failure | None:
    """In a Ray process, whose main thread (it starts the verbs) lives as long as the process."""
    fault = place.enter()
    return work(cell) if fault is None else Failure(cell.name, f"its machine cannot work: {fault}")


def _probe(place: Place) -> str | None:
    return place.enter()


@contextmanager
def connected(address: str | None, out: Path, work: Work = execute.run_cell) -> Iterator[Cluster]:
    """A Ray to run cells of the study in the folder ``out`` on; ended, or left, whatever ends the block.

    ``address`` HOST:PORT or ``auto`` is a running cluster's; null starts one on this machine, on loopback alone, with
    a password of its own and its logs in a temporary folder. SIGTERM becomes KeyboardInterrupt, so that it ends, too.
    Raises UserError without Ray, without the cluster, or where its machines do not share ``out``.
    """
    if importlib.util.find_spec("ray") is None:
        raise refuse(
            "Ray is not installed",
            possible="--on local, which needs nothing; --on ray with the extra `ray`",
            todo="Run `pip install 'vlm4vla[ray]'` and the same command again, or leave --on away.",
        )
    os.environ.update(_ALWAYS if address else _ALWAYS | _OWN | {"RAY_AUTH_TOKEN": secrets.token_hex(32)})
    token, threads = out / f".ray-{secrets.token_hex(8)}", os.environ.get("OMP_NUM_THREADS")
    place = Place(token, secrets.token_hex(8), str(Path.cwd()), threads, own=not address)
    with ExitStack() as stack:
        ray = _join(address, stack)
        if not records.held(out):
            for stale in out.glob(".ray-*"):  # of a study that was killed
                stale.unlink(missing_ok=True)
        records.write_atomic(place.token, place.secret)
        stack.callback(place.token.unlink, missing_ok=True)
        cluster = Cluster(ray, place, work)
        if address:
            cluster.check()
        yield cluster


def _no_cluster(address: str, error: object) -> UserError:
    return refuse(
        f"No Ray cluster could be joined at {address}: {error}",
        possible="HOST:PORT of a running cluster's head, or auto on one of its machines",
        todo="Start it (`ray start --head`), or leave --ray-address away: Ray is then started here.",
    )


def _answers(address: str) -> None:
    """Refuses an address at which nobody listens: Ray itself would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _join(address: str | None, stack: ExitStack) -> Any:
    """The module, connected."""
    import ray

    settings: dict[str, Any] = {"logging_level": "warning", "log_to_driver": False}
    if address:
        _answers(address)
        settings["address"] = address
    else:
        folder = stack.enter_context(TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
        settings |= {"address": "local", "include_dashboard": False, "_temp_dir": folder}
        settings |= {"num_cpus": len(os.sched_getaffinity(0)), "object_store_memory": _STORE_BYTES}
    signals = threading.current_thread() is threading.main_thread()
    if signals:
        stack.callback(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    stack.callback(ray.shutdown, wait_for_processes=True)
    try:
        ray.init(**settings)
    except (OSError, RuntimeError, ValueError, TimeoutError, ray.exceptions.RayError) as error:
        if address:
            raise _no_cluster(address, error) from error
        raise RunFailed(f"Ray could not be started on this machine: {error}") from error
    if not address and [node["NodeManagerAddress"] for node in ray.nodes()] != [_LOOPBACK]:
        raise RunFailed(f"Ray {ray.__version__} does not keep to this machine. Install the version that is tested.")
    if signals:  # in place of Ray's handler, which ends the process without a word
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    return ray
