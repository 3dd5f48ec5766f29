"""Checks of the plain numbers: finite, within the limits, moving, not cut off, not idle."""

from collections.abc import Collection, Iterator

import numpy as np
import numpy.typing as npt

from vlm4vla.data.checks import shift
from vlm4vla.data.checks.findings import Finding, episodes, percent
from vlm4vla.data.store import Store

Shares = npt.NDArray[np.float64]
Marks = npt.NDArray[np.bool_]

_TOLERANCE = 1e-5  # of ActionSpec.check
_FROZEN_SHARE, _FROZEN_STEPS = 0.6, 20  # of an episode, in one stretch; shorter stretches are pauses
_AT_LIMIT = 0.5  # scripted experts command full speed for a third of an episode (MetaWorld)
_AT_EXTREME = 0.1  # without a limit there, so many equal extreme values come from a cut on the way
_IDLE_SHARE = 0.25


def finite(store: Store) -> Iterator[Finding]:
    """No NaN and no infinity in actions and states."""
    for name, values in (("actions", store.actions), ("states", store.states)):
        if values is None or np.isfinite(values).all():
            continue
        rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
        entry = store.episode_of(int(rows[0]))
        yield Finding(
            "error",
            "finite",
            f"{len(rows)} {name} are NaN or infinite, the first in frame {rows[0] - entry.start} of episode "
            f"{entry.episode}.",
            "Mend or remove these episodes in the data set and build anew; one such number ends a training run.",
            episodes(sorted({store.episode_of(int(r)).episode for r in rows})),
        )


def check(store: Store, suspects: Collection[int]) -> Iterator[Finding]:
    """All checks of this file that need finite numbers. ``suspects``: dimensions in a wrong unit, of which limits say
    no more."""
    yield from _limits(store, suspects)
    yield from _constant(store)
    yield from _frozen(store)
    yield from _saturated(store, suspects)
    yield from _idle(store)


def by_episode(store: Store, frames: Marks) -> Shares:
    """Share of the marked frames in every episode, (episodes,)."""
    starts = np.array([e.start for e in store.episodes])
    lengths = np.array([e.length for e in store.episodes])
    shares: Shares = np.add.reduceat(frames.astype(np.float64), starts) / lengths
    return shares


def _limits(store: Store, suspects: Collection[int]) -> Iterator[Finding]:
    told: list[str] = []
    anywhere: Marks = np.zeros(len(store), bool)
    much = False
    for i, d in enumerate(store.action_spec.dimensions):
        values = store.actions[:, i]
        outside = (values < d.low - _TOLERANCE) | (values > d.high + _TOLERANCE)
        if i in suspects or not outside.any():
            continue
        share, excess = float(outside.mean()), max(float(d.low - values.min()), float(values.max() - d.high))
        much = much or share > 0.01 or excess > 0.1 * (d.high - d.low)
        anywhere |= outside
        told.append(
            f"{d.name} is outside its limits {d.low:g} to {d.high:g} [{d.unit}] in {percent(share)} of the frames "
            f"(from {values.min():g} to {values.max():g})."
        )
    if told:
        yield Finding(
            "error" if much else "warning",
            "limits",
            " ".join(told),
            "Check the unit first. Then mend the limits of the action spec or cut the actions in the reader: "
            "a policy's answers are cut there.",
            episodes(np.flatnonzero(by_episode(store, anywhere))),
        )


def _constant(store: Store) -> Iterator[Finding]:
    still = [i for i in store.action_spec.arm if np.ptp(store.actions[:, i]) == 0]
    if not still or len(store) == 1:
        return
    names = ", ".join(f"{store.action_spec.dimensions[i].name} = {store.actions[0, i] + 0.0:g}" for i in still)
    yield Finding(
        "error" if len(still) == len(store.action_spec.arm) else "warning",
        "constant",
        f"{len(still)} of {store.action_spec.size} action dimensions never move in {len(store)} frames: {names}.",
        "Check that the reader takes the right column. If the robot really holds them still, nothing is to be done: "
        "they are predicted as their constants.",
    )


def _frozen(store: Store) -> Iterator[Finding]:
    """Long stretches in which the whole action is repeated: a recorder that hung, or absolute targets at rest."""
    same = np.zeros(len(store), bool)
    same[1:] = (store.actions[1:] == store.actions[:-1]).all(axis=1)
    stretches: dict[int, int] = {}
    for e in store.episodes:
        run = shift.longest(same[e.start + 1 : e.stop]) + 1
        if run >= _FROZEN_STEPS and run > _FROZEN_SHARE * e.length:
            stretches[e.episode] = run
    if stretches:
        worst = max(stretches, key=lambda e: stretches[e])
        yield Finding(
            "warning",
            "frozen",
            f"In {percent(len(stretches) / len(store.episodes))} of the episodes no action changes for most of the "
            f"length (the longest stretch: {stretches[worst]} of {store.episodes[worst].length} frames in episode "
            f"{worst}).",
            "Look at such an episode ('vlm4vla data show'); cut the stretch off or remove the episode.",
            episodes(stretches),
        )


def _saturated(store: Store, suspects: Collection[int]) -> Iterator[Finding]:
    """Many frames at a limit of the spec; or, for deltas, many equal extremes where the spec has no limit."""
    told: list[str] = []
    anywhere: Marks = np.zeros(len(store), bool)
    for i in store.action_spec.arm:
        d, values = store.action_spec.dimensions[i], store.actions[:, i]
        low, high = float(values.min()), float(values.max())
        if i in suspects or len(np.unique(values)) <= 10:  # on-off commands are not cut off, they have no more values
            continue
        at_limit = np.isclose(values, d.low, atol=_TOLERANCE) | np.isclose(values, d.high, atol=_TOLERANCE)
        # 0 is where a delta rests, so a one-sided dimension is not cut off there
        ends = [v for v in (low, high) if v != 0 and not (np.isclose(v, d.low) or np.isclose(v, d.high))]
        at_extreme = np.isin(values, np.array(ends, np.float32)) & (d.kind == "delta")
        if at_limit.mean() > _AT_LIMIT:
            anywhere |= at_limit
            share = percent(float(at_limit.mean()))
            told.append(f"{d.name} is at its limits {d.low:g} or {d.high:g} in {share} of the frames.")
        elif at_extreme.mean() > _AT_EXTREME:
            anywhere |= at_extreme
            share = percent(float(at_extreme.mean()))
            told.append(f"{d.name} is exactly at the data's own extremes {low:g} or {high:g} in {share} of the frames.")
    if told:
        yield Finding(
            "warning",
            "saturated",
            " ".join(told),
            "Find out where the numbers are cut off before they come here (unit, normalisation, clipping): "
            "what was cut cannot be learnt.",
            episodes(np.flatnonzero(by_episode(store, anywhere))),
        )


def _idle(store: Store) -> Iterator[Finding]:
    """Frames in which a delta-controlled arm is told to do nothing and the gripper stays as it is.

    A policy trained on them learns to wait. OpenVLA's rebuilt LIBERO sets leave them out for this reason, by the
    norm of the arm's action below 1e-4; here the border is a thousandth of each dimension's own q99.
    """
    spec = store.action_spec
    if not spec.arm or any(spec.dimensions[i].kind != "delta" for i in spec.arm):
        return
    arm = np.abs(store.actions[:, list(spec.arm)])
    idle: Marks = np.logical_and.reduce(arm <= 1e-3 * np.quantile(arm, 0.99, axis=0), axis=1)
    grippers = store.actions[:, list(spec.gripper)]
    idle[1:] &= (grippers[1:] == grippers[:-1]).all(axis=1)
    share = by_episode(store, idle)
    if idle.mean() > _IDLE_SHARE:
        yield Finding(
            "warning",
            "no-op",
            f"{percent(float(idle.mean()))} of the frames command no motion of the arm and no change of the gripper.",
            "Use the reader's no-op filter where it has one, or cut pauses off: a policy learns to wait from them.",
            episodes(np.flatnonzero(share > _IDLE_SHARE)),
        )
