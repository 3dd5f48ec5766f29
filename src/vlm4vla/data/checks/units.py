"""Is a dimension in the unit its spec declares? Millimetres for metres and degrees for radians are the usual slips."""

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from vlm4vla.data.checks.findings import Finding, Severity
from vlm4vla.data.store import Store
from vlm4vla.types import Dimension

_UNITS = {
    **dict.fromkeys(("m", "metre", "metres", "meter", "meters"), ("m", 1.0)),
    "cm": ("m", 0.01),
    "mm": ("m", 0.001),
    **dict.fromkeys(("rad", "radian", "radians"), ("rad", 1.0)),
    **dict.fromkeys(("deg", "degree", "degrees"), ("rad", np.pi / 180)),
}
_MAX_SPEED = 3.0  # metres per second: table-top arms are built for 1 to 2
_MAX_TURN = 15.0  # radians per second: fast arms' wrists turn with 4 to 7
_FAR = 10.0  # metres from the base
_TURNS = 4 * np.pi  # a joint that counts further than two turns counts degrees
_OVER_LIMITS = 20.0
_OVER_STATE = {
    "m": 50.0,
    "rad": 25.0,
    "": 25.0,
}  # smaller than the slips (1000, 57), larger than what slow controllers lose
_FOLLOWS = 0.6  # correlation from which on a state is what an action dimension moves
_LAGS = 3
_SAMPLES = 200_000


def suspects(store: Store) -> dict[int, tuple[Severity, str]]:
    """Dimension -> how bad, and a sentence on why its unit cannot be the declared one.

    Where the spec states no unit, a scale other than the state's is for a person to judge: a warning.
    """
    found: dict[int, tuple[Severity, str]] = {}
    for i in store.action_spec.arm:
        d = store.action_spec.dimensions[i]
        size = float(np.quantile(np.abs(store.actions[:, i]), 0.99))
        told = _speed(d, size, store.action_spec.control_hz) or _over(d, size)
        beside = None if told else _state(store, i)
        if told:
            found[i] = "error", told
        elif beside:
            found[i] = "error" if unit_of(d)[0] else "warning", beside
    return found


def check(store: Store, found: dict[int, tuple[Severity, str]]) -> Iterator[Finding]:
    """One finding for all :func:`suspects`."""
    if found:
        names = ", ".join(store.action_spec.dimensions[i].name for i in found)
        yield Finding(
            "error" if any(severity == "error" for severity, _ in found.values()) else "warning",
            "unit",
            " ".join(sentence for _, sentence in found.values()),
            f"Find the unit that the data set really has for {names}; convert it in the reader, or state it in the "
            "action spec with fitting limits.",
        )


def unit_of(d: Dimension) -> tuple[str, float]:
    """m or rad, and how many of them 1 stands for ("mm": 0.001, "0.02 m": 0.02); an empty text for other units."""
    found = re.match(r"(\d*\.?\d+(?:e-?\d+)?)?\s*([a-z]+)\b", d.unit.lower())
    if found is None or found[2] not in _UNITS:
        return "", 1.0
    unit, factor = _UNITS[found[2]]
    return unit, factor * float(found[1] or 1)


def _speed(d: Dimension, size: float, hz: float) -> str | None:
    """What no robot does: 99 % of the steps lie below ``size``, and it is still too much."""
    unit, factor = unit_of(d)
    real = size * factor
    told = f"{d.name} reaches {size:g} [{d.unit}]"
    if d.kind == "delta" and unit == "m" and real * hz > _MAX_SPEED:
        return f"{told} per step (q99), which at {hz:g} Hz is {real * hz:.3g} m/s: millimetres?"
    if d.kind == "delta" and unit == "rad" and (real > 2 * np.pi or real * hz > _MAX_TURN):
        return f"{told} per step (q99), which at {hz:g} Hz is {real * hz:.3g} rad/s: degrees?"
    if d.kind == "absolute" and unit == "m" and real > _FAR:
        return f"{told} (q99) from the origin of its frame: millimetres?"
    if d.kind == "absolute" and unit == "rad" and real > _TURNS:
        return f"{told} (q99), more than two turns: degrees?"
    return None


def _over(d: Dimension, size: float) -> str | None:
    """Far outside the limits: not a few outliers but another unit."""
    limit = max(abs(d.low), abs(d.high))
    if np.isfinite(limit) and limit > 0 and size > _OVER_LIMITS * limit:
        return f"{d.name} reaches {size:g} (q99), {size / limit:.0f} times its limit of {limit:g} [{d.unit}]."
    return None


def _state(store: Store, i: int) -> str | None:
    """Against the state that the dimension moves: deltas against its differences, absolutes against its values."""
    d = store.action_spec.dimensions[i]
    unit, factor = unit_of(d)
    twin = d.kind == "absolute" and d.name in store.state_names  # as joints have it: whatever the unit, it is the same
    if store.states is None or not (unit or twin):
        return None
    columns = [store.state_names.index(d.name)] if twin else list(range(len(store.state_names)))
    states = store.states[:_SAMPLES, columns].astype(np.float64)
    rows = store.actions[:_SAMPLES, i].astype(np.float64) * (1.0 if twin else factor)
    if d.kind == "delta":
        last = np.zeros(len(rows), bool)
        last[[e.stop - 1 for e in store.episodes if e.stop <= len(rows)]] = True
        states, rows = np.diff(states, axis=0)[~last[:-1]], rows[:-1][~last[:-1]]
    best, column, ratio = 0.0, 0, 1.0
    for lag in range(_LAGS if d.kind == "delta" else 1):
        found = _correlation(rows[: len(rows) - lag], states[lag:])
        j = int(np.argmax(np.abs(found)))
        if abs(found[j]) > best:
            best, column = float(abs(found[j])), j
            ratio = float(rows.std() / states[:, j].std())
    if best < _FOLLOWS or 1 / _OVER_STATE[unit] < ratio < _OVER_STATE[unit]:
        return None
    what = "motion" if d.kind == "delta" else "value"
    times = f"{ratio:.0f}" if ratio > 1 else f"{ratio:.2g}"
    return (
        f"{d.name} [{d.unit}] is {times} times the {what} of the state {store.state_names[columns[column]]!r} that "
        f"follows it (correlation {best:.2f})."
    )


def _correlation(one: npt.NDArray[np.float64], many: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of (N,) with each column of (N, S), (S,); 0 where one of both does not move."""
    if len(one) < 2:
        return np.zeros(many.shape[1])
    a, b = one - one.mean(), many - many.mean(axis=0)
    norm = np.sqrt((a * a).sum() * (b * b).sum(axis=0))
    out: npt.NDArray[np.float64] = np.where(norm > 0, a @ b / np.where(norm > 0, norm, 1.0), 0.0)
    return out
