"""How CALVIN's two kinds of action follow from the states, and where a recording breaks that rule.

Source: ``calvin_env/utils/utils.py`` (``to_relative_action``), ``calvin_env/datarenderer.py`` (``worker_run``,
``save_step``) of mees/calvin_env and ``dataset/README.md`` of mees/calvin.
"""

import numpy as np
import numpy.typing as npt

METRES = 0.02  # one unit of a relative position
RADIANS = 0.05  # one unit of a relative Euler angle
Floats = npt.NDArray[np.floating]
# A float32 rounds an angle near pi by 2.4e-7 rad at most, which is 5e-6 units; twice that, and the rest in reserve.
TOLERANCE = 1e-4


def relative_actions(targets: Floats, states: Floats) -> npt.NDArray[np.float64]:
    """``rel_actions`` (N, 7) of ``actions`` (N, 7) and ``robot_obs`` (N, 15).

    Target minus measured pose of the tool centre point, component by component in the world frame (angles by the
    shorter way round), in units of 0.02 m and 0.05 rad, clipped to -1 .. 1; the gripper as it is.
    """
    targets, states = targets.astype(np.float64), states.astype(np.float64)
    position = (targets[:, :3] - states[:, :3]) / METRES
    angle = ((targets[:, 3:6] - states[:, 3:6] + np.pi) % (2 * np.pi) - np.pi) / RADIANS
    return np.hstack([np.clip(position, -1, 1), np.clip(angle, -1, 1), targets[:, 6:7]])


def reached(states: Floats) -> npt.NDArray[np.float64]:
    """``actions`` (N, 7) of the states (N + 1, 15) of a recording: the pose and gripper command of the next state."""
    return np.hstack([states[1:, :6], states[1:, 14:15]]).astype(np.float64)


def broken_relative(relative: Floats, targets: Floats, states: Floats) -> list[int]:
    """Frames whose stored ``rel_actions`` are not those of their ``actions`` and ``robot_obs``; all (N, ...)."""
    return _frames(np.abs(relative - relative_actions(targets, states)) > TOLERANCE)


def broken_targets(targets: Floats, states: Floats) -> list[int]:
    """Frames whose ``actions`` are not the pose and gripper command of the next frame's ``robot_obs``.

    The last frame has no next one and is not judged. A break is a cut: another recording, or a shift in time.
    """
    difference = np.abs(targets[:-1] - reached(states))
    angle = difference[:, 3:6]
    difference[:, 3:6] = np.minimum(angle, np.abs(2 * np.pi - angle))
    return _frames(difference > TOLERANCE)


def _frames(wrong: npt.NDArray[np.bool_]) -> list[int]:
    return [int(i) for i in np.flatnonzero(wrong.any(axis=1))]
