"""Euler angles and rotation matrices, in the two conventions that meet here. Angles in radians, matrices (3, 3)."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

BRIDGE_DOWN = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
"""Bridge measures the hand's orientation against this one: fingers straight down (rail-berkeley/bridge_data_robot)."""


def of_fixed(angles: npt.ArrayLike) -> Array:
    """Roll, pitch, yaw around the fixed axes x, y, z, in this order: how Bridge and SIMPLER mean them."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.asarray(angles, np.float64)), np.sin(np.asarray(angles, np.float64))
    x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    product: Array = z @ y @ x
    return product


def fixed(matrix: Array) -> Array:
    """The inverse of :func:`of_fixed`, pitch within 90 degrees."""
    m = matrix
    return np.array(
        [
            np.arctan2(m[2, 1], m[2, 2]),
            np.arcsin(np.clip(-m[2, 0], -1, 1)),
            np.arctan2(m[1, 0], m[0, 0]),
        ]
    )


def moving(matrix: Array) -> Array:
    """Angles around the moving axes x, y, z, in this order, that give the same matrix: how ManiSkill 3 means them."""
    m = matrix
    return np.array(
        [
            np.arctan2(-m[1, 2], m[2, 2]),
            np.arcsin(np.clip(m[0, 2], -1, 1)),
            np.arctan2(-m[0, 1], m[0, 0]),
        ]
    )


def of_quaternion(quaternion: npt.ArrayLike) -> Array:
    """From (w, x, y, z)."""
    w, x, y, z = np.asarray(quaternion, np.float64) / np.linalg.norm(np.asarray(quaternion, np.float64))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
