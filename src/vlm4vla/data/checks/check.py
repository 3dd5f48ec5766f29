"""``data check``: looks for what silently spoils policies, in a finished store. Reads everything, repairs nothing.

Actions, states and texts are checked over the whole store; pictures of evenly spread episodes only (decoding all of a
large set takes hours), and the report says of how many.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlm4vla.data.checks import grippers, numbers, pictures, texts, units
from vlm4vla.data.checks.findings import Finding, percent
from vlm4vla.data.store import Store
from vlm4vla.types import ActionSpec, UserError

CHUNK = 4  # the paper's on Bridge and LIBERO
_MASKED = 1 / 3  # of all steps of all chunks: from here on more padding is computed than one would think


@dataclass(frozen=True)
class Report:
    """``findings``: errors first. ``pictures_of``: numbers of the episodes whose pictures were looked at."""

    findings: tuple[Finding, ...]
    pictures_of: tuple[int, ...]

    @property
    def errors(self) -> int:
        return sum(f.severity == "error" for f in self.findings)

    @property
    def warnings(self) -> int:
        return len(self.findings) - self.errors

    def summary(self, store: Store) -> str:
        """One sentence: how many findings, and what was looked at."""
        found = (
            f"{_count(self.errors, 'error')}, {_count(self.warnings, 'warning')}" if self.findings else "no findings"
        )
        return (
            f"{found}; {len(store.episodes)} episodes with {len(store)} frames, "
            f"pictures of {len(self.pictures_of)} episodes"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "errors": self.errors,
            "warnings": self.warnings,
            "findings": [f.to_dict() for f in self.findings],
            "pictures_of": list(self.pictures_of),
        }


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")


def lint(
    store: Store,
    *,
    chunk: int = CHUNK,
    against: tuple[str, ActionSpec] | None = None,
    val: Store | None = None,
    deep: bool = False,
) -> Report:
    """Everything that looks wrong in ``store``.

    ``chunk``: steps of an action chunk; ``against``: name and action spec of the benchmark the policy shall act in;
    ``val``: the validation set, to find episodes of it among the training episodes; ``deep``: compare every file's
    SHA-256 with the manifest first.
    """
    found: list[Finding] = list(_files(store)) if deep else []
    found += numbers.finite(store)
    finite = not any(f.check == "finite" for f in found)
    if finite:  # else they would spoil what the other checks measure
        suspects = units.suspects(store)
        found += units.check(store, suspects)
        found += numbers.check(store, suspects)
        found += grippers.check(store)
    found += _chunks(store, chunk)
    found += texts.check(store)
    looked_at = pictures.spread(store)
    found += pictures.check(store, looked_at, finite)
    if against is not None:
        found += _spec(store.action_spec, *against)
    if val is not None:
        found += _spec(store.action_spec, "the validation set", val.action_spec)
        found += texts.leakage(store, val)
    found.sort(key=lambda f: f.severity != "error")
    return Report(tuple(found), looked_at)


def _files(store: Store) -> Iterator[Finding]:
    try:
        store.verify()
    except UserError as error:
        yield Finding("error", "files", str(error), "Remove the store and build it anew; then look at the disk.")


def _spec(mine: ActionSpec, name: str, theirs: ActionSpec) -> Iterator[Finding]:
    """Sentences on every field that differs: actions of one would not mean the same in the other."""
    if not mine.differences(theirs):
        return
    told: list[str] = []
    if mine.size != theirs.size:
        told.append(f"{mine.size} dimensions against {theirs.size}")
    for a, b in zip(mine.dimensions, theirs.dimensions, strict=False):
        fields = [f for f in ("name", "unit", "kind", "frame", "low", "high") if getattr(a, f) != getattr(b, f)]
        if fields:
            told.append(f"{a.name}: " + ", ".join(f"{f} {getattr(a, f)!r} against {getattr(b, f)!r}" for f in fields))
    for field in ("rotation", "control_hz"):
        if getattr(mine, field) != getattr(theirs, field):
            told.append(f"{field} {getattr(mine, field)} against {getattr(theirs, field)}")
    yield Finding(
        "error",
        "spec",
        f"The action spec of the store is not that of {name}: {'; '.join(told)}.",
        "Convert the actions in the reader, or choose the benchmark that the data was recorded for.",
    )


def _chunks(store: Store, chunk: int) -> Iterator[Finding]:
    """Chunks that reach beyond the end of their episode: the steps there are masked out of the loss."""
    lengths = np.array([e.length for e in store.episodes])
    short = np.flatnonzero(lengths < chunk)
    # A frame with r frames left (itself included) lacks chunk - r steps, for r = 1 .. chunk - 1.
    tail = np.minimum(lengths, chunk - 1)
    masked = float((tail * chunk - tail * (tail + 1) / 2).sum() / (lengths.sum() * chunk))
    measured = (
        f"{percent(len(short) / len(lengths))} of the episodes are shorter than a chunk of {chunk} steps (lengths "
        f"{lengths.min()} to {lengths.max()}), and {percent(masked)} of all steps of all chunks lie after an end."
    )
    if len(short) == len(lengths):
        todo = f"Take a chunk of at most {lengths.max()} steps: the last steps of this one are never trained."
        yield Finding("error", "chunk", measured, todo)
    elif len(short) > 0.2 * len(lengths) or masked > _MASKED:
        numbers = tuple(int(i) for i in short)
        yield Finding("warning", "chunk", measured, "Take a shorter chunk, or longer episodes.", numbers)
