"""Simulator workers of one benchmark: start them, keep them busy, replace those that die or hang."""

import math
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from vlm4vla.bench import install
from vlm4vla.records import disk_error
from vlm4vla.rollout.control import PatientChannel
from vlm4vla.rollout.job_queue import Job, Queue, Ticket
from vlm4vla.rollout.worker import load
from vlm4vla.types import RunFailed, UserError, refuse

Result = dict[str, Any]

TRIES = 3
START_S = 180.0
JOB_S = 900.0
_START_FAILURES = 3  # workers in a row that die before they are ready
_EXIT_S = 5.0
_LONGEST_WAIT_S = 3600.0  # of one look; the deadlines of the workers decide
# The environment has no vlm4vla of its own: the first argument is the folder that has the running one.
_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "import runpy; runpy.run_module('vlm4vla.rollout.worker', run_name='__main__')"
)


class WorkerFailed(RunFailed):
    """Workers cannot be started; the message has their last words."""


class _Process:
    """One worker process, its channel, the job it holds, and until when it must be heard of."""

    def __init__(self, command: list[str], log: Path, start_s: float) -> None:
        its_read, our_write = os.pipe()
        our_read, its_write = os.pipe()
        theirs = (its_read, its_write)
        words = [*command, "--read", str(theirs[0]), "--write", str(theirs[1]), "--parent", str(os.getpid())]
        try:
            with log.open("ab") as out:
                self.process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    pass_fds=theirs,
                    cwd=log.parent,  # simulators drop files of their own (MUJOCO_LOG.TXT) where they stand
                    start_new_session=True,  # Ctrl-C reaches the runner alone, which then ends its workers
                )
        finally:
            for fd in theirs:
                os.close(fd)
        self.channel = PatientChannel(our_read, our_write)
        self.ready = False
        self.deadline = time.monotonic() + start_s  # infinite while it has nothing to do
        self.silent_s = 0.0  # how long it had said nothing when it was given up, 0 if it ended by itself
        self.task: str | None = None
        self.ticket: Ticket | None = None

    def end(self, at_once: bool) -> int:
        """Close the channel, reap the process, return its exit status; a busy or stubborn one is killed."""
        self.channel.close()
        if at_once:
            self.process.kill()
        for _ in range(2):
            try:
                return self.process.wait(_EXIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return -signal.SIGKILL  # hangs in a device driver: it ends when that lets go of it

    def end_text(self) -> str:
        """How it ended, for people."""
        if self.silent_s:
            return f"killed after {self.silent_s:g} s without a sign of life"
        status = self.process.returncode
        return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


class WorkerPool:
    """``with WorkerPool(bench, workers, log) as pool: for job, result in pool.run(jobs): ...``

    ``log`` is the file that receives what the simulators print. ``python`` (tests) replaces the interpreter of the
    benchmark's own environment. ``versions`` and ``bench_id`` are what the first worker reported. A worker that dies
    (a crash, kill -9) is replaced and its job run again, up to 3 times in all. So is one that is not ready ``start_s``
    seconds after its start, or that says nothing for ``job_s`` seconds while it holds a job (it speaks each time a
    policy has answered, so a slow policy is no silence). Use it from a thread that lives as long as the pool.
    """

    versions: dict[str, str]
    bench_id: str

    def __init__(
        self,
        bench: str,
        workers: int,
        log: Path,
        python: Path | None = None,
        start_s: float = START_S,
        job_s: float = JOB_S,
    ) -> None:
        assert workers >= 1
        interpreter = install.python_of(bench) if python is None else python
        self._command = [str(interpreter), "-I", "-c", _START, str(install.link_folder()), "--bench", bench]
        self._bench, self._count, self._log = bench, workers, log
        self._start_s, self._job_s = start_s, job_s
        self._workers: list[_Process] = []
        self._start_failures = 0
        self.versions, self.bench_id = {}, ""

    def __enter__(self) -> "WorkerPool":
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            self._fill()
            while not any(w.ready for w in self._workers):
                self._listen()
        except OSError as error:
            self.close()
            raise disk_error(self._log, error) from error
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers and reap them. Idle ones leave by themselves, busy ones are killed."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.end(at_once=worker.ticket is not None or not worker.ready)

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        """Run every job; yields (job, result or failure) in the order in which they finish.

        A failure is ``{"kind": "failure", "id", "error": str, "user": bool}``: an exception inside the job (not tried
        again: it would happen again), or the death or silence of three workers. Raises WorkerFailed, or UserError when
        the benchmark cannot be loaded, if workers cannot be started at all.
        """
        queue = Queue(jobs)
        try:
            self._fill()
            while queue or any(w.ticket for w in self._workers):
                self._hand_out(queue)
                for worker, message in self._listen():
                    ticket, worker.ticket = worker.ticket, None
                    if ticket is None:
                        continue  # an idle worker died
                    if message is not None:
                        yield ticket.job, message
                    elif ticket.tries < TRIES:
                        queue.add(ticket)
                    else:
                        yield ticket.job, self._lost(ticket.job, worker)
        finally:  # a consumer that stopped early must not find these answers in its next run
            for worker in [w for w in self._workers if w.ticket]:
                self._workers.remove(worker)
                worker.end(at_once=True)

    def _hand_out(self, queue: Queue) -> None:
        for worker in self._workers:
            if queue and worker.ready and worker.ticket is None:
                ticket = queue.take(worker.task, [w.task for w in self._workers if w is not worker])
                ticket.tries += 1
                worker.ticket, worker.task = ticket, ticket.task
                worker.deadline = time.monotonic() + self._job_s
                with suppress(BrokenPipeError):  # its death is seen, and dealt with, when we listen
                    worker.channel.send(ticket.job)

    def _listen(self) -> list[tuple[_Process, Result | None]]:
        """Wait for news: (worker, its answer) or (worker, None) for one that died or was given up."""
        news: list[tuple[_Process, Result | None]] = []
        for worker in self._wait():
            try:
                messages = worker.channel.receive()
            except ConnectionError:
                self._bury(worker)
                news.append((worker, None))
                continue
            worker.deadline = time.monotonic() + (self._job_s if worker.ready else self._start_s)
            for message in messages:
                if not worker.ready:
                    self._greet(worker, message)
                if message["kind"] in ("result", "failure"):
                    news.append((worker, message))
                if message["kind"] != "alive":
                    worker.deadline = math.inf
        # After the listening: a consumer that took long must not cost workers that have answered meanwhile.
        for worker in [w for w in self._workers if w.deadline <= time.monotonic()]:
            worker.silent_s = self._job_s if worker.ready else self._start_s
            self._bury(worker)
            news.append((worker, None))
        return news

    def _wait(self) -> list[_Process]:
        """Workers from which something can be read, at the latest when a deadline is over; sends what still waits."""
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.channel.read_fd, selectors.EVENT_READ, worker)
                if worker.channel.write_fd is not None:
                    selector.register(worker.channel.write_fd, selectors.EVENT_WRITE, worker)
            patience = min(worker.deadline for worker in self._workers) - time.monotonic()
            ready = selector.select(max(0.0, min(patience, _LONGEST_WAIT_S)))
        for key, events in ready:
            if events & selectors.EVENT_WRITE:
                with suppress(BrokenPipeError):  # seen when we read
                    key.data.channel.flush()
        return [key.data for key, events in ready if events & selectors.EVENT_READ]

    def _greet(self, worker: _Process, message: Result) -> None:
        if message["kind"] == "failure":
            if message["user"]:
                raise UserError(message["error"])
            raise WorkerFailed(f"The benchmark cannot be loaded: {message['error']}. The log is {self._log}.")
        worker.ready, self._start_failures = True, 0
        if not self.versions:
            self.versions, self.bench_id = dict(message["versions"]), message["id"]
            self._check_id()
        if message["versions"] != self.versions:
            raise WorkerFailed(
                f"Two workers of one run draw or simulate with different things: {self.versions}, then "
                f"{message['versions']}. Their rows must not be mixed; mend that and run the same command again."
            )

    def _check_id(self) -> None:
        """The worker's code and ours must mean the same benchmark: rows are stored under our id."""
        here = load(self._bench).id
        if here != self.bench_id:
            raise refuse(
                f"The simulator's environment runs {self.bench_id!r}, and this process {here!r}",
                possible=[here],
                todo=f"Install the same version of the benchmark's package for {self._command[0]}, or remove it there.",
            )

    def _bury(self, worker: _Process) -> None:
        """Reap a worker that is dead or given up, and start another in its place."""
        self._workers.remove(worker)
        worker.end(at_once=True)
        if not worker.ready:
            self._start_failures += 1
            if self._start_failures >= _START_FAILURES:
                raise WorkerFailed(
                    f"{_START_FAILURES} workers in a row ended ({worker.end_text()}) before they were ready. "
                    f"The end of the log {self._log}:\n{_tail(self._log)}"
                )
        self._fill()

    def _fill(self) -> None:
        while len(self._workers) < self._count:
            self._workers.append(_Process(self._command, self._log, self._start_s))

    def _lost(self, job: Job, worker: _Process) -> Result:
        text = f"{TRIES} workers died on this job, the last one: {worker.end_text()}. The log is {self._log}."
        return {"kind": "failure", "id": job["id"], "error": text, "user": False}


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.is_file() else "(empty)"
