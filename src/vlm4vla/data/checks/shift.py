"""Do pictures, states and actions of a frame belong to the same moment?

Both sides become one number per step: how much the picture changes, how much the robot moves. Of all lags from -5 to 5
the one is looked for at which the two rise and fall together. A finding needs a lag that is clearly better than the
expected ones, over the episodes together and in most of them.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from vlm4vla.data.checks.findings import Finding
from vlm4vla.data.store import EpisodeEntry, Store

Series = npt.NDArray[np.float64]

_LAG = 5
_STEPS = 25  # of an episode, at least: both ends are needed for shifting
_SCORE, _MARGIN, _MOST = 0.25, 0.08, 0.6  # score of the best lag; how much better it is; in which share of episodes
_ANSWER = 0.1  # seconds a robot may take until a command is seen
_SLOW = 0.3  # seconds it may take until states follow
_CAMERA = 0.15  # seconds: what cameras and their drivers really cost


def motion(store: Store, e: EpisodeEntry, of: str) -> Series:
    """How much the robot moves from each frame to the next, (N - 1,), in standard deviations per dimension.

    ``of``: "states", or "actions" (sizes of deltas, changes of absolute targets; the arm's dimensions).
    """
    if of == "states":
        assert store.states is not None
        steps = np.diff(store.states[e.start : e.stop].astype(np.float64), axis=0)
    else:
        arm = list(store.action_spec.arm)
        rows = store.actions[e.start : e.stop, arm].astype(np.float64)
        delta = np.array([store.action_spec.dimensions[i].kind == "delta" for i in arm], bool)
        steps = np.where(delta, rows[:-1], np.diff(rows, axis=0))
    spread = steps.std(axis=0) if len(steps) else np.zeros(steps.shape[1])
    moved = spread > 0
    if not moved.any():
        return np.zeros(len(steps))
    out: Series = np.sqrt(((steps[:, moved] / spread[moved]) ** 2).mean(axis=1))
    return out


def is_moving(store: Store, e: EpisodeEntry) -> npt.NDArray[np.bool_]:
    """(N - 1,): the robot moves from a frame to the next; by its states where there are any."""
    size = motion(store, e, "states" if store.states is not None else "actions")
    return np.asarray(size > 0.2 * np.quantile(size, 0.9)) if len(size) else np.zeros(0, bool)


def longest(marks: npt.NDArray[np.bool_]) -> int:
    """Length of the longest stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marks.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max()) if len(edges) else 0


def scores(late: Series, early: Series) -> Series | None:
    """(11,) how well ``late`` at step t + lag goes with ``early`` at step t, for lags -5 .. 5; None if too short.

    The mean of two rank correlations, of the series and of their differences: the first finds the rough place of slow
    motions, the second sharpens it. Ranks, because single jumps (a lamp, a grasp) would decide a plain correlation.
    """
    if min(len(late), len(early)) < _STEPS or np.ptp(late) == 0 or np.ptp(early) == 0:
        return None
    return (_rank(late, early) + _rank(np.diff(late), np.diff(early))) / 2


def _rank(late: Series, early: Series) -> Series:
    inner = slice(_LAG, len(early) - _LAG)
    middle = rankdata(early[inner])
    out = np.zeros(2 * _LAG + 1)
    for lag in range(-_LAG, _LAG + 1):
        moved = rankdata(late[_LAG + lag : len(late) - _LAG + lag])
        if np.ptp(moved) > 0 and np.ptp(middle) > 0:
            out[lag + _LAG] = np.corrcoef(moved, middle)[0, 1]
    return out


def best_lag(found: list[Series], expected: range) -> tuple[int, float, float] | None:
    """The lag outside ``expected`` that is clearly the best, its score and the best expected score; or None."""
    if len(found) < 2:
        return None
    table = np.stack(found)
    pooled = table.mean(axis=0)
    inside = [lag + _LAG for lag in expected if abs(lag) <= _LAG]
    best = int(pooled.argmax())
    rival = float(pooled[inside].max())
    most = float((table[:, best] > table[:, inside].max(axis=1)).mean())
    if best in inside or pooled[best] < _SCORE or pooled[best] - rival < _MARGIN or most < _MOST:
        return None
    return best - _LAG, float(pooled[best]), rival


def pictures(store: Store, camera: str, parts: list[EpisodeEntry], changes: list[Series]) -> Iterator[Finding]:
    """Pictures against states; against actions, which robots answer late, where no states are known."""
    of = "states" if store.states is not None else "actions"
    hz = store.action_spec.control_hz
    expected = range(1) if of == "states" else range(max(1, round(_ANSWER * hz)) + 1)
    pairs = [scores(change, motion(store, e, of)) for e, change in zip(parts, changes, strict=True)]
    used = [p for p in pairs if p is not None]
    found = best_lag(used, expected)
    if found is None:
        return
    lag, score, rival = found
    late = lag > 0 and lag / hz <= _CAMERA
    yield Finding(
        "warning" if late or abs(lag) == 1 else "error",
        "time-shift",
        f"The pictures of {camera} go best with the {of} {abs(lag)} frame{'s' if abs(lag) > 1 else ''} "
        f"{'earlier' if lag > 0 else 'later'} (score {score:.2f}, {rival:.2f} as they are; {len(used)} episodes; at "
        f"{hz:g} Hz that is {abs(lag) / hz:.2g} s).",
        f"{'Cameras have such delays: accept it knowingly, or' if late else 'Mend the recording, or'} pair the numbers "
        f"of frame t with the picture of frame t{lag:+d} in the reader.",
    )


def actions(store: Store, parts: list[EpisodeEntry]) -> Iterator[Finding]:
    """Actions against states: the robot moves with a command or after it, never before."""
    if store.states is None:
        return
    expected = range(max(1, round(_SLOW * store.action_spec.control_hz)) + 1)
    pairs = [scores(motion(store, e, "states"), motion(store, e, "actions")) for e in parts]
    found = best_lag([p for p in pairs if p is not None], expected)
    if found is not None:
        lag, score, rival = found
        yield Finding(
            "error" if lag < -1 else "warning",
            "time-shift",
            f"The states go best with the actions {abs(lag)} frames {'earlier' if lag > 0 else 'later'} (score "
            f"{score:.2f}, {rival:.2f} as they are): "
            + ("the robot moves before it is told to." if lag < 0 else "the robot answers very late."),
            "Check which action belongs to which frame: a frame's action is the one taken after its picture.",
        )
