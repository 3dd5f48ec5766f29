"""What the numbers of the Bridge and LIBERO data sets in RLDS form mean: every step of the published conversion.

Grippers become those of the house here and nowhere else: +1 open, -1 closed.
"""

import numpy as np
import numpy.typing as npt

from vlm4vla.data.formats import libero_layout
from vlm4vla.types import ActionSpec, Dimension

Floats = npt.NDArray[np.float32]
_OPEN, _CLOSED = 0.95, 0.05
_GRIPPER = Dimension("gripper", "+1 open, -1 closed", "gripper", "gripper", -1.0, 1.0)
_POSE = ("x", "y", "z", "roll", "pitch", "yaw")

BRIDGE_STATE = (*_POSE, "gripper_open")
LIBERO_STATE = libero_layout.state_names(("ee_states", "gripper_states"))

#: BridgeData V2 (Walke et al. 2023): WidowX at 5 Hz, metres and radians. Relabelled rotations are differences of the
#: Euler angles of the pose in the robot's base frame, not wrapped: the published extremes of bridge_orig reach 6.28
#: rad (tests/external/test_bridge_facts.py). No limits are stated anywhere, so there are none.
BRIDGE = ActionSpec(
    (
        *(Dimension(f"d{n}", "m", "delta", "robot base", -np.inf, np.inf) for n in _POSE[:3]),
        *(Dimension(f"d{n}", "rad", "delta", "robot base", -np.inf, np.inf) for n in _POSE[3:]),
        _GRIPPER,
    ),
    "euler_xyz",
    5.0,
)

#: LIBERO (Liu et al. 2023): the spec of its demonstration files; the RLDS copy has the same recorded actions.
LIBERO = libero_layout.SPEC


def movements(states: Floats) -> Floats:
    """(N, 7) states -> (N - 1, 6): how far the pose came until the next step.

    The recorded commands are replaced by what was reached. Source: ``relabel_bridge_actions`` in
    ``prismatic/vla/datasets/rlds/utils/data_utils.py`` of openvla/openvla.
    """
    moved: Floats = states[1:, :6] - states[:-1, :6]
    return moved


def binarized(gripper: Floats) -> Floats:
    """(N,) openings 0..1 -> 1 above 0.95, 0 below 0.05, and between these the value that is reached next.

    Openings after the last decided step keep the value of the last step, which is then neither 0 nor 1. Source:
    ``binarize_gripper_actions`` in ``prismatic/vla/datasets/rlds/utils/data_utils.py`` of openvla/openvla.
    """
    n = len(gripper)
    decided = (gripper > _OPEN) | (gripper < _CLOSED)
    reached = np.minimum.accumulate(np.where(decided, np.arange(n), n)[::-1])[::-1]  # next decided step; n: none
    values = np.append((gripper > _OPEN).astype(np.float32), gripper[-1:])
    out: Floats = values[reached]
    return out


def of_house(opening: Floats) -> Floats:
    """Openings 0 (closed) .. 1 (open) -> -1 .. +1."""
    return 2 * opening - 1


def bridge(actions: Floats, states: Floats, relabel: bool) -> Floats:
    """The actions of one Bridge episode, from (N, 7) recorded actions and states.

    Step 0 is left out: its recorded action is zero. With ``relabel`` so is the last step, which reaches nothing:
    (N - 2, 7); without, the recorded movements stay: (N - 1, 7). The gripper is the recorded one of each step,
    binarised over all remaining steps before the last one goes; 1 is open. Source: ``bridge_orig_dataset_transform``
    in ``prismatic/vla/datasets/rlds/oxe/transforms.py`` of openvla/openvla.
    """
    gripper = of_house(binarized(actions[1:, 6]))
    moved = movements(states[1:]) if relabel else actions[1:, :6]
    return np.concatenate([moved, gripper[: len(moved), None]], axis=1)


def libero(actions: Floats) -> Floats:
    """(N, 7) recorded LIBERO actions -> the same with the gripper of the house.

    Recorded: -1 opens, +1 closes. The published steps are clip to 0..1 and 1 - x, so that 1 opens. Source:
    ``libero_dataset_transform`` in ``prismatic/vla/datasets/rlds/oxe/transforms.py`` of openvla/openvla. Steps that do
    nothing were removed before the data set was written (``experiments/robot/libero/regenerate_libero_dataset.py``).
    """
    gripper = of_house(1 - np.clip(actions[:, 6:], 0, 1))
    return np.concatenate([actions[:, :6], gripper], axis=1)
