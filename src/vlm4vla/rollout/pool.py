"""Simulator workers of one benchmark: start them, keep them busy, replace those that die."""

import os
import selectors
import signal
import subprocess
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from vlm4vla.bench import install
from vlm4vla.records import disk_error
from vlm4vla.rollout.control import BrokenFrame, Channel
from vlm4vla.types import RunFailed, UserError

Job = dict[str, Any]
Result = dict[str, Any]

TRIES = 3
_START_FAILURES = 3  # workers in a row that die before they are ready
_EXIT_S = 5.0


class WorkerFailed(RunFailed):
    """Workers cannot be started; the message has their last words."""


@dataclass
class _Ticket:
    """A job and how many workers it was given to."""

    job: Job
    tries: int = 0

    @property
    def task(self) -> str:
        task: str = self.job["episode"]["task"]
        return task


class _Process:
    """One worker process, its channel, and the job it holds."""

    def __init__(self, command: list[str], log: Path) -> None:
        its_read, our_write = os.pipe()
        our_read, its_write = os.pipe()
        theirs = (its_read, its_write)
        words = [*command, "--read", str(theirs[0]), "--write", str(theirs[1])]
        try:
            with log.open("ab") as out:
                self.process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    pass_fds=theirs,
                    cwd=log.parent,  # simulators drop files of their own (MUJOCO_LOG.TXT) where they stand
                    start_new_session=True,  # Ctrl-C reaches the runner alone; workers end when their channel closes
                )
        finally:
            for fd in theirs:
                os.close(fd)
        self.channel = Channel(our_read, our_write)
        self.ready = False
        self.task: str | None = None
        self.ticket: _Ticket | None = None

    def end(self, at_once: bool) -> int:
        """Close the channel, reap the process, return its exit status; a busy or stubborn one is killed."""
        self.channel.close()
        if at_once:
            self.process.kill()
        try:
            return self.process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class _Queue:
    """Jobs by task: a worker gets a job of the task whose environment it has open, else of the least served task."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._by_task: dict[str, deque[_Ticket]] = {}
        for job in jobs:
            self.add(_Ticket(job))

    def __bool__(self) -> bool:
        return bool(self._by_task)

    def add(self, ticket: _Ticket) -> None:
        self._by_task.setdefault(ticket.task, deque()).append(ticket)

    def take(self, current: str | None, served: list[str | None]) -> _Ticket:
        """``served``: the tasks that the other workers have open. Ties go to the longest queue."""
        task = current
        if task is None or task not in self._by_task:
            task = min(self._by_task, key=lambda t: (served.count(t), -len(self._by_task[t])))
        ticket = self._by_task[task].popleft()
        if not self._by_task[task]:
            del self._by_task[task]
        return ticket


class WorkerPool:
    """``with WorkerPool(bench, workers, log) as pool: for job, result in pool.run(jobs): ...``

    ``log`` is the file that receives what the simulators print. ``python`` (tests) replaces the interpreter of the
    benchmark's own environment. ``versions`` and ``bench_id`` are what the first worker reported. A worker that dies
    (a crash, kill -9) is replaced and its job run again, up to 3 times in all.
    """

    versions: dict[str, str]
    bench_id: str

    def __init__(self, bench: str, workers: int, log: Path, python: Path | None = None) -> None:
        assert workers >= 1
        interpreter = install.python_of(bench) if python is None else python
        self._command = [str(interpreter), "-I", "-m", "vlm4vla.rollout.worker", "--bench", bench]
        self._count, self._log = workers, log
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
        again: it would happen again), or the death of three workers. Raises WorkerFailed, or UserError when the
        benchmark cannot be loaded, if workers cannot be started at all.
        """
        queue = _Queue(jobs)
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

    def _hand_out(self, queue: _Queue) -> None:
        for worker in self._workers:
            if queue and worker.ready and worker.ticket is None:
                ticket = queue.take(worker.task, [w.task for w in self._workers if w is not worker])
                ticket.tries += 1
                worker.ticket, worker.task = ticket, ticket.task
                with suppress(BrokenPipeError):  # its death is seen, and dealt with, when we listen
                    worker.channel.send(ticket.job)

    def _listen(self) -> list[tuple[_Process, Result | None]]:
        """Wait for news: (worker, its answer) or (worker, None) for one that died while it held a job."""
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.channel, selectors.EVENT_READ, worker)
            ready = [key.data for key, _ in selector.select()]
        news: list[tuple[_Process, Result | None]] = []
        for worker in ready:
            try:
                message = worker.channel.receive()
            except (BrokenFrame, ConnectionError):
                message = None
            if message is None:
                self._bury(worker)
                news.append((worker, None))
            elif not worker.ready:
                self._greet(worker, message)
            else:
                news.append((worker, message))
        return news

    def _greet(self, worker: _Process, message: Result) -> None:
        if message["kind"] == "failure":
            if message["user"]:
                raise UserError(message["error"])
            raise WorkerFailed(f"The benchmark cannot be loaded: {message['error']}. The log is {self._log}.")
        worker.ready, self._start_failures = True, 0
        if not self.versions:
            self.versions, self.bench_id = dict(message["versions"]), message["id"]

    def _bury(self, worker: _Process) -> None:
        """Reap a dead worker and start another in its place."""
        self._workers.remove(worker)
        status = worker.end(at_once=True)
        if not worker.ready:
            self._start_failures += 1
            if self._start_failures >= _START_FAILURES:
                raise WorkerFailed(
                    f"{_START_FAILURES} workers in a row ended ({_how(status)}) before they were ready. "
                    f"The end of the log {self._log}:\n{_tail(self._log)}"
                )
        self._fill()

    def _fill(self) -> None:
        while len(self._workers) < self._count:
            self._workers.append(_Process(self._command, self._log))

    def _lost(self, job: Job, worker: _Process) -> Result:
        status = _how(worker.process.returncode)
        text = f"{TRIES} workers died on this job, the last one: {status}. The log is {self._log}."
        return {"kind": "failure", "id": job["id"], "error": text, "user": False}


def _how(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.is_file() else "(empty)"
