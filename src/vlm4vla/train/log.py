"""What a training run says: a progress bar on stderr, ``metrics.jsonl``, TensorBoard."""

import json
import os
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from vlm4vla import records


class Log:
    """Averages the loss parts between two lines; counts samples per second and the share of time waiting for data."""

    def __init__(self, out: Path, name: str, steps: int, batch: int, start: int, quiet: bool) -> None:
        self.file = out / "metrics.jsonl"
        self.batch = batch
        self.sums: dict[str, float] = {}
        self.count = 0
        self.waited = 0.0
        self.since = time.monotonic()
        self.quiet = quiet
        if quiet:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        _drop_after(self.file, start)
        # A resumed run may have lived past its checkpoint: TensorBoard hides what came after ``start``.
        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True))
        self.task = self.progress.add_task(name, total=steps, completed=start, note="")

    def __enter__(self) -> "Log":
        if not self.quiet:
            self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.quiet:
            self.progress.stop()
            self.board.close()

    def step(self, step: int, parts: dict[str, float], waited: float, every: int, last: bool) -> None:
        """Record one optimizer step (counted from 1); writes a line every ``every`` steps and at the last."""
        for key, value in parts.items():
            self.sums[key] = self.sums[key] + value if key in self.sums else value
        self.count += 1
        self.waited += waited
        if self.quiet:
            return
        self.progress.update(self.task, completed=step)
        if step % every and not last:
            return
        wall = time.monotonic() - self.since
        line: dict[str, float] = {"step": step, "samples": step * self.batch}
        line |= {key: value / self.count for key, value in self.sums.items()}
        line |= {"samples_per_s": self.count * self.batch / wall, "data_wait": self.waited / wall, "wall_s": wall}
        try:
            with self.file.open("a") as f:
                f.write(json.dumps(line) + "\n")
                f.flush()
                os.fsync(f.fileno())
            for key, value in line.items():
                if key not in ("step", "samples"):
                    self.board.add_scalar(key, value, step)
        except OSError as error:
            raise records.disk_error(self.file, error) from error
        note = f"loss {line['loss']:.4f}  {line['samples_per_s']:.0f} samples/s  waiting {line['data_wait']:.0%}"
        self.progress.update(self.task, note=note)
        self.sums, self.count, self.waited, self.since = {}, 0, 0.0, time.monotonic()


def _drop_after(file: Path, step: int) -> None:
    """Remove lines of steps after the checkpoint that is resumed from, and a torn last line."""
    if not file.is_file():
        return
    kept: list[str] = []
    for line in file.read_text().splitlines():
        try:
            data = json.loads(line)
        except json.JSONDecodeError:
            break  # the line a killed run was writing
        if data["step"] <= step:
            kept.append(line)
    records.write_atomic(file, "".join(line + "\n" for line in kept))
