"""What the user sees while an evaluation runs."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from vlm4vla.records import EpisodeRow


class Bar:
    """Progress on stderr: episodes done, success so far (of this run's rows, earlier attempts included)."""

    def __init__(self, arm: str, total: int, done: list[EpisodeRow], shown: bool) -> None:
        self._successes, self._count = sum(row.success for row in done), len(done)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not shown)
        self._task: TaskID = self._progress.add_task(arm, total=total, completed=len(done), rate="")

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def add(self, row: EpisodeRow) -> None:
        self._successes += row.success
        self._count += 1
        rate = f"success {self._successes}/{self._count} ({self._successes / self._count:.0%})"
        self._progress.update(self._task, advance=1, rate=rate)
