"""A plane seen by two cameras. Needs numpy only."""

import numpy as np
import numpy.typing as npt

from vlm4vla.bench import common
from vlm4vla.types import CameraShift

Array = npt.NDArray[np.float64]

_OPENCV = np.diag([1.0, -1.0, -1.0])
"""Columns: right, up and towards the viewer, in OpenCV's axes of a camera (x to the right, y down, z forward)."""


def homography(lens: Array, axes: Array, place: Array, height: float, shift: CameraShift) -> Array:
    """(3, 3) from pixels after the move to pixels before it, of the horizontal plane at ``height`` in the world.

    ``lens`` (3, 3): intrinsic matrix in pixels. ``axes`` (3, 3; columns to the right, up, towards the viewer) and
    ``place`` (3,) of the unmoved camera.
    """
    turn = _OPENCV @ common.rotation(shift) @ _OPENCV  # axes of the moved camera in those of the unmoved one
    way = _OPENCV @ np.array(shift.translation)
    normal = _OPENCV @ axes.T @ np.array([0.0, 0.0, 1.0])  # of the plane, in the unmoved camera: normal . X = distance
    distance = height - place[2]
    seen = turn + np.outer(way, turn.T @ normal) / (distance - normal @ way)
    return np.asarray(lens @ seen @ np.linalg.inv(lens))
