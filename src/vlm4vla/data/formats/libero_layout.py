"""The layout of LIBERO's demonstration files, and what their numbers mean: shared by their reader and their writer.

Layout, by ``scripts/create_dataset.py`` of Lifelong-Robot-Learning/LIBERO (read at 1952000): one HDF5 file per
task, ``TASK_demo.hdf5``, with the group ``data`` (attributes env_name, env_args, problem_info, bddl_file_name,
bddl_file_content, macros_image_convention, num_demos, total) and in it ``demo_0``, ``demo_1``, ... (attributes
num_samples, model_file, init_state), each with actions (N, 7), states, robot_states (N, 9), rewards and dones (N) and
the group ``obs``. From memory, no official file was at hand: pictures of 128 x 128, ``tag`` = libero-v1.

Three things that a reader of such a file has to know:

* Pictures are upside down as OpenGL renders them. Every VLA recipe turns them by 180 degrees, in training and in
  evaluation (``[::-1, ::-1]``; openvla, openpi, lerobot): :func:`turned` is the only place that does it here.
* The gripper number is -1 open and +1 closed, the negative of the house's: :func:`flipped` is the only place.
* In the official files the pictures and obs of row t were taken after action t was executed (``env.step`` first, then
  the recording), in files that OpenVLA's script regenerated, and in those of our writer, before it.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vlm4vla.types import ActionSpec, Dimension, Image

SUFFIX = "_demo.hdf5"
STAGING = ".staging"  # of a folder that is being written
ATTRIBUTE = "vlm4vla"  # of data and of each demo: JSON of ours
VERSION = 1

CAMERAS = {"agentview": "agentview_rgb", "eye_in_hand": "eye_in_hand_rgb"}

_AXES, _TURNS = ("x", "y", "z"), ("rx", "ry", "rz")
# Vectors of obs and the names of their numbers: end effector in the world (m; axis-angle, rad), both fingers (m),
# arm joints (rad). ee_states is ee_pos and ee_ori.
VECTORS: dict[str, tuple[str, ...]] = {
    "ee_states": (*_AXES, *_TURNS),
    "ee_pos": _AXES,
    "ee_ori": _TURNS,
    "gripper_states": ("left", "right"),
    "joint_states": tuple(f"joint_{i}" for i in range(1, 8)),
}

# robosuite's OSC_POSE controller with its default scales, 20 Hz: a delta of the goal pose per step; both parts are
# applied in the world's axes (robosuite 1.4: the delta rotation is multiplied from the left).
SPEC = ActionSpec(
    (
        *(Dimension(n, "0.05 m", "delta", "world", -1, 1) for n in ("dx", "dy", "dz")),
        *(Dimension(n, "0.5 rad", "delta", "world", -1, 1) for n in ("drx", "dry", "drz")),
        Dimension("gripper", "+1 open, -1 close", "gripper", "gripper", -1, 1),
    ),
    "axis_angle",
    20.0,
)


def turned(picture: Image) -> Image:
    """An (H, W, 3) picture, or several (N, H, W, 3), turned by 180 degrees; its own inverse."""
    return np.ascontiguousarray(picture[..., ::-1, ::-1, :])


def flipped(actions: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A copy of (N, 7) actions with the other gripper sense (LIBERO: +1 closes; house: +1 opens); its own inverse."""
    out = actions.copy()
    out[:, SPEC.gripper] *= -1
    return out


def state_names(vectors: Sequence[str]) -> tuple[str, ...]:
    """Names of the numbers of some obs vectors side by side: ee_states.x, ..., gripper_states.right."""
    return tuple(f"{vector}.{name}" for vector in vectors for name in VECTORS[vector])
