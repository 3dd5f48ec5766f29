"""What is believed later: one row per episode, one record per run, estimates and comparisons. JSON lines, validated.

Reports read these files and nothing else, so a table can be remade years later on a laptop. Files are written
atomically (temporary file, fsync, rename) or appended line by line with fsync; a torn last line of a killed run is
dropped on reading, never guessed at.
"""

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from vlm4vla.types import RunFailed, refuse

Measure = Literal["success", "completed"]
"""What a number sums up: the rate of success, or the subtasks solved in a row (of episodes that are chains)."""


class Record(BaseModel):
    """Base of all records: immutable, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class EpisodeRow(Record):
    """One closed-loop episode. ``control`` is null or names an evaluation-only control such as ``image-blank``.

    ``completed``: subtasks solved in a row, null where an episode is one task. ``partial``: whether the benchmark's
    condition of partial success ever held, null where it has none. ``first_success_step``: when the success condition
    held for the first time, which is no success where it has to hold at the end and does not. ``subtasks`` of a chain,
    and the number of the ``initial_state`` that it shares with others: null in rows of before they were written.
    """

    run: str
    arm: str
    control: str | None
    benchmark: str
    task: str
    episode: int
    seed: int
    success: bool
    steps: int
    first_success_step: int | None
    failure: str | None
    video: str | None
    wall_s: float
    completed: int | None = None
    partial: bool | None = None
    subtasks: int | None = None
    initial_state: int | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """Identity within a run: control ("" for none), task, episode."""
        return (self.control or "", self.task, self.episode)


class ParameterCount(Record):
    """Parameters of one group of the policy, in single parameters (not millions).

    ``unused``: of the published model, but without influence on the readout; ``tied``: shared with another group and
    counted there (both of an output head lie outside ``total``: a policy does not carry it).
    """

    group: str
    total: int
    trainable: int
    new: int
    tied: int = 0
    unused: int = 0

    @property
    def frozen(self) -> int:
        return self.total - self.trainable

    @property
    def reused(self) -> int:
        """Parameters that come from the VLM."""
        return self.total - self.new


class RunRecord(Record):
    """What produced the rows or the weights beside it."""

    run: str
    kind: Literal["demos", "store", "train", "eval", "study"]
    config: dict[str, Any]
    config_hash: str
    commit: str | None
    dirty: bool | None
    packages: dict[str, str]
    hardware: dict[str, Any]
    seed: int | None
    inputs: dict[str, str] = {}  # content hashes of what went in: store, policy
    versions: dict[str, str] = {}  # simulator, renderer, assets
    parameters: list[ParameterCount] = []
    facts: dict[str, Any] = {}  # measured settings for the audit: tokens per sample, image pixels, prompt, samples seen
    started: str
    finished: str | None = None
    wall_s: float | None = None


class Estimate(Record):
    """A success rate of one row of the table. ``task`` null: the mean over the study's tasks.

    Of chains (``measure`` "completed") ``rate``, ``low`` and ``high`` are the average number of subtasks solved in a
    row, of ``longest``; ``in_a_row`` K marks the rate of K or more in a row, with their ``successes``.
    For E3 ``arm`` names the recipe, ``seeds`` its training runs (null otherwise), ``letters`` whom it cannot be told
    apart from (recipes that share a letter), ``caution`` what is to be held against the interval, ``standard_error``
    that of ``rate`` in its unit, which the interval does not tell (null otherwise, and in older records).
    """

    arm: str
    control: str | None
    benchmark: str
    task: str | None
    episodes: int
    successes: int
    rate: float
    low: float
    high: float
    level: float
    method: str
    estimand: Literal["E1", "E2", "E3"]
    seeds: int | None = None
    letters: str | None = None
    caution: str | None = None
    measure: Measure = "success"
    longest: int | None = None
    in_a_row: int | None = None
    standard_error: float | None = None


class Comparison(Record):
    """A difference between two rows (``a`` minus ``b``) on the same starts, in rate units (0.2 = 20 points).

    Of chains (``measure`` "completed") in subtasks solved in a row, of ``longest``. E2 has ``pairs`` of episodes, and
    how many only one side solved (of chains: in how many it got further). E3 has ``seeds``, the training runs of either
    recipe, and where bounds of ``equivalence`` were declared the p-value of a difference beyond them. ``p_value`` is
    Holm's over the study's comparisons of its estimand, ``p_bh`` Benjamini and Hochberg's over the same ones (null in
    older records).
    """

    a: str
    b: str
    benchmark: str
    pairs: int | None
    only_a: int | None
    only_b: int | None
    difference: float
    low: float
    high: float
    level: float
    interval_method: str
    p_value: float
    p_method: str
    estimand: Literal["E1", "E2", "E3"]
    seeds: int | None = None
    caution: str | None = None
    equivalence: float | None = None
    equivalence_p: float | None = None
    measure: Measure = "success"
    longest: int | None = None
    p_bh: float | None = None


R = TypeVar("R", bound=Record)


def write_atomic(path: Path, text: str | bytes) -> None:
    """Write a whole file so that a reader sees the old or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as f:
            f.write(text.encode() if isinstance(text, str) else text)
            f.flush()
            os.fsync(f.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise disk_error(path, error) from error


_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than allowed here",
}
_LOCKED = {
    errno.EACCES: "the folder is not writable",
    errno.EPERM: "the folder is not writable",
    errno.EROFS: "the file system is read-only",
}


def disk_error(path: Path, error: OSError) -> Exception:
    """The house's sentence for a full disk (RunFailed: nobody's mistake) or an unwritable folder (UserError).

    Other errors pass unchanged.
    """
    if error.errno not in _FULL | _LOCKED:
        return error
    told = refuse(
        f"Cannot write {path}: {(_FULL | _LOCKED)[error.errno]}{_free(path) if error.errno in _FULL else ''}",
        possible="a folder with free space that you may write to",
        todo="Free some space or choose another --out, and run the same command again: it goes on where it stopped.",
    )
    return RunFailed(str(told)) if error.errno in _FULL else told


def _free(path: Path) -> str:
    """`` (0.3 MiB are free in FOLDER)``: of the nearest folder that is there."""
    folder = next((parent for parent in path.absolute().parents if parent.is_dir()), None)
    if folder is None:
        return ""
    return f" ({shutil.disk_usage(folder).free / 2**20:.1f} MiB are free in {folder})"


def check_room(folder: Path) -> None:
    """The sentence of a full disk where not even a small file can be written into ``folder``."""
    probe = folder / f".room.{os.getpid()}"
    try:
        probe.write_bytes(bytes(2**16))
    except OSError as error:
        raise disk_error(folder, error) from error
    finally:
        probe.unlink(missing_ok=True)


def append(path: Path, record: Record) -> None:
    """Append one JSON line and fsync it. Heals a torn last line of a killed writer first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = record.model_dump_json() + "\n"
    try:
        with path.open("ab+") as f:
            end = f.seek(0, os.SEEK_END)
            if end:
                f.seek(end - 1)
                if f.read(1) != b"\n":
                    f.seek(0)
                    f.truncate(f.read().rfind(b"\n") + 1)
            f.seek(0, os.SEEK_END)
            f.write(line.encode())
            f.flush()
            os.fsync(f.fileno())
    except OSError as error:
        raise disk_error(path, error) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for one writer: two runs that write into one folder at a time would spoil it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise disk_error(folder, error) from error
    with lock:
        # A killed run's helper processes need a few seconds to notice, and hold its lock until then.
        deadline = time.monotonic() + 20
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise refuse(
                        f"Another run is writing into {folder}",
                        possible="one run per folder at a time",
                        todo="Wait for it or end it, then run the same command again; or choose another --out.",
                    ) from None
                time.sleep(0.2)
        yield


def held(folder: Path) -> bool:
    """Whether a living process has ``folder`` locked at this moment."""
    file = folder / ".lock"
    if not file.is_file():
        return False
    with file.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def write_all(path: Path, records: Iterable[Record]) -> None:
    """Replace a JSON-lines file atomically."""
    write_atomic(path, "".join(r.model_dump_json() + "\n" for r in records))


def read_all(path: Path, cls: type[R]) -> list[R]:
    """All records of a JSON-lines file ([] without one); a torn last line is dropped, any other fault refused."""
    if not path.is_file():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]  # what follows is the line inside which a writer was killed
    lines = whole.decode("utf-8").split("\n")
    return [_parse(line, cls, f"{path}:{i}") for i, line in enumerate(lines, start=1) if line]


def write_one(path: Path, record: Record) -> None:
    write_atomic(path, record.model_dump_json(indent=1) + "\n")


def read_one(path: Path, cls: type[R]) -> R:
    if not path.is_file():
        raise refuse(f"No record {path}", todo="Give the folder of a finished run.")
    return _parse(path.read_text(encoding="utf-8"), cls, str(path))


def _parse(text: str, cls: type[R], where: str) -> R:
    try:
        return cls.model_validate_json(text)
    except ValidationError as error:
        raise refuse(
            f"{where} is not a valid {cls.__name__}: {error.errors()[0]['msg']} at {error.errors()[0]['loc']}",
            possible=sorted(cls.model_fields),
            todo="Restore the file from the run that wrote it; rows are never mended by hand.",
        ) from error
