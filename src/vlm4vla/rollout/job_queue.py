"""Jobs that wait for a worker, in the order that spares the workers changing their environments."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Job = dict[str, Any]


@dataclass
class Ticket:
    """A job and how many workers it was given to."""

    job: Job
    tries: int = 0

    @property
    def task(self) -> str:
        task: str = self.job["episode"]["task"]
        return task


class Queue:
    """Jobs by task: a worker gets a job of the task whose environment it has open, else of the least served task."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._by_task: dict[str, deque[Ticket]] = {}
        for job in jobs:
            self.add(Ticket(job))

    def __bool__(self) -> bool:
        return bool(self._by_task)

    def add(self, ticket: Ticket) -> None:
        self._by_task.setdefault(ticket.task, deque()).append(ticket)

    def take(self, current: str | None, served: list[str | None]) -> Ticket:
        """``served``: the tasks that the other workers have open. Ties go to the longest queue."""
        task = current
        if task is None or task not in self._by_task:
            task = min(self._by_task, key=lambda t: (served.count(t), -len(self._by_task[t])))
        ticket = self._by_task[task].popleft()
        if not self._by_task[task]:
            del self._by_task[task]
        return ticket
