"""Is the gripper's sense the declared one (+1 opens, -1 closes)? Flipped ones train well and never grasp."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from vlm4vla.data.checks.findings import Finding, episodes
from vlm4vla.data.store import Store

Series = npt.NDArray[np.float64]

_WAIT = 0.3  # seconds until a hand has followed
_OPPOSITE = -0.3  # correlation; a hand that holds something is still narrower than an open one
_ENOUGH = 5  # episodes
_MERGED = 0.03  # of the episodes in which the gripper moves
_CLOSED_AT_START = 0.9
_MEND = "Convert the gripper once, in the reader or its action spec: +1 opens, -1 closes."


def check(store: Store) -> Iterator[Finding]:
    for g in store.action_spec.gripper:
        yield from _range(store, g)
        against = list(_against_opening(store, g)) if len(store.action_spec.gripper) == 1 else []
        yield from against
        if not against:
            yield from _starts(store, g)


def _range(store: Store, g: int) -> Iterator[Finding]:
    values, name = store.actions[:, g], store.action_spec.dimensions[g].name
    if values.min() >= 0 and np.ptp(values) > 0:
        yield Finding(
            "error",
            "gripper-range",
            f"{name} lies between {values.min():g} and {values.max():g}: it is never told to close (-1).",
            "The data set seems to count from 0 to 1. " + _MEND,
        )
    elif (values == values[0]).all() and (abs(float(values[0])) != 1 or len(_tasks(store)) > _ENOUGH):
        yield Finding(
            "warning",
            "gripper-range",
            f"{name} is {values[0]:g} in all {len(store)} frames of {len(_tasks(store))} tasks.",
            "Check that the reader takes the right column. " + _MEND,
        )


def _tasks(store: Store) -> set[str]:
    return {e.task for e in store.episodes}


def opening(store: Store) -> tuple[str, int] | None:
    """The one state number that says how far the gripper is open, by its name ('open', 'width'); None without one.

    Other gripper numbers (joint angles, finger positions) grow with the opening on one robot and with closing on the
    next, so nothing is concluded from them; several "widths" are joints, too (InternVLA-M1 has six).
    """
    found = [
        (name, i)
        for i, name in enumerate(store.state_names)
        if "grip" in name.lower() and any(word in name.lower() for word in ("open", "width"))
    ]
    return found[0] if len(found) == 1 else None


def _against_opening(store: Store, g: int) -> Iterator[Finding]:
    """Shortly after a command the hand must be wider where it was told to open than where it was told to close."""
    place = opening(store)
    if place is None:
        return
    assert store.states is not None
    name, column = place
    wait = max(1, round(_WAIT * store.action_spec.control_hz))
    commands: list[Series] = []
    widths: list[Series] = []
    for e in store.episodes:
        if e.length > wait:
            commands.append(store.actions[e.start : e.stop - wait, g].astype(np.float64))
            widths.append(store.states[e.start + wait : e.stop, column].astype(np.float64))
    if not commands:
        return
    command, width = np.concatenate(commands), np.concatenate(widths)
    if np.ptp(command) == 0 or np.ptp(width) == 0:
        return
    found = float(np.corrcoef(command, width)[0, 1])
    longer = [e.episode for e in store.episodes if e.length > wait]
    own = [_correlation(c, w) for c, w in zip(commands, widths, strict=True)]
    opposite = [n for n, r in zip(longer, own, strict=True) if r is not None and r < _OPPOSITE]
    moving = [r for r in own if r is not None]
    if (
        found >= _OPPOSITE
        and len(opposite) > 1
        and len(opposite) > _MERGED * len(moving)
        and np.median(moving) > -_OPPOSITE
    ):
        yield Finding(
            "warning",
            "gripper-sense",
            f"In {len(opposite)} of {len(moving)} episodes the gripper's command and the state {name} {wait} frames "
            "later go opposite ways, in most others the same way.",
            "Look at one of them: sets of two conventions may have been merged. " + _MEND,
            episodes(opposite),
        )
    if found < _OPPOSITE:
        yield Finding(
            "error",
            "gripper-sense",
            f"The gripper's command and the state {name} {wait} frames later go opposite ways (correlation "
            f"{found:.2f}).",
            _MEND,
            episodes(opposite),
        )


def _correlation(command: Series, width: Series) -> float | None:
    """None where one of them does not change."""
    if np.ptp(command) == 0 or np.ptp(width) == 0:
        return None
    return float(np.corrcoef(command, width)[0, 1])


def _starts(store: Store, g: int) -> Iterator[Finding]:
    """Manipulation starts with an open hand. Counted where the gripper moves; over several tasks if it never does."""
    commands = [store.actions[e.start : e.stop, g] for e in store.episodes]
    moving = [i for i, c in enumerate(commands) if c.min() < 0 < c.max()]
    if not moving and len(_tasks(store)) <= 2:
        return  # doors and buttons are moved with a closed hand
    counted = moving or list(range(len(commands)))
    closed = [i for i in counted if commands[i][0] < 0]
    if len(counted) >= _ENOUGH and len(closed) > _CLOSED_AT_START * len(counted):
        what = "in which the gripper moves" if moving else "(the gripper moves in none)"
        yield Finding(
            "error" if moving and len(closed) >= 2 * _ENOUGH else "warning",
            "gripper-sense",
            f"{len(closed)} of {len(counted)} episodes {what} begin with a closing command (-1).",
            "Look at an episode ('vlm4vla data show'): if the hand is open there, the sense is flipped. " + _MEND,
            episodes(closed),
        )
