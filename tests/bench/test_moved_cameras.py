"""The geometry of moved cameras, and what the benchmarks declare; no simulator is imported here."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vlm4vla import registry
from vlm4vla.bench import common
from vlm4vla.bench.simpler import plane
from vlm4vla.types import CameraShift

SHIFT = CameraShift((0.02, -0.01, 0.005), (0.01, 0.03, -0.02))
# A camera that looks down at a table: columns to the right, up, towards the viewer.
AXES = Rotation.from_euler("zyx", [0.4, 0.1, -0.6]).as_matrix() @ np.eye(3)
PLACE = np.array([0.3, -0.2, 1.3])


def test_a_camera_is_moved_and_turned_in_its_own_axes() -> None:
    place, axes = common.moved(PLACE, AXES, SHIFT)
    assert np.allclose(AXES.T @ (place - PLACE), SHIFT.translation)
    assert np.allclose(Rotation.from_matrix(AXES.T @ axes).as_rotvec(), SHIFT.rotation)
    same, straight = common.moved(PLACE, AXES, CameraShift((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)))
    assert np.array_equal(same, PLACE) and np.array_equal(straight, AXES)


def test_the_photograph_of_a_table_is_seen_where_its_points_are() -> None:
    """Points of the plane, projected by hand into both cameras, are what the homography says."""
    lens = np.array([[623.588, 0, 319.501], [0, 623.588, 239.545], [0, 0, 1]])

    def pixel(place: np.ndarray, axes: np.ndarray, point: np.ndarray) -> np.ndarray:
        right, up, back = axes.T @ (point - place)
        assert back < 0, "behind the camera"
        return np.array([319.501 + 623.588 * right / -back, 239.545 - 623.588 * up / -back])

    found = plane.homography(lens, AXES, PLACE, 0.87, SHIFT)
    moved = common.moved(PLACE, AXES, SHIFT)
    ahead = PLACE - AXES[:, 2] * (PLACE[2] - 0.87) / AXES[2, 2]  # the point of the table in the middle of the picture
    for aside in np.random.default_rng(0).uniform(-0.2, 0.2, (20, 2)):
        point = ahead + np.array([*aside, 0.0])
        before = found @ np.array([*pixel(*moved, point), 1.0])
        assert np.allclose(before[:2] / before[2], pixel(PLACE, AXES, point), atol=1e-6)
    assert np.linalg.norm(pixel(*moved, ahead) - pixel(PLACE, AXES, ahead)) > 5, "nothing was moved"


@pytest.mark.parametrize("name", registry.names("bench"))
def test_every_camera_of_every_benchmark_can_be_moved_a_little(name: str) -> None:
    module = registry.find("bench", name)
    bench: Any = module.Benchmark()
    assert list(bench.camera_moves) == [camera.name for camera in bench.cameras]
    for move in bench.camera_moves.values():
        assert 0 < move.metres <= 0.03 and 0 < move.degrees <= 2
    # How far a control moves a camera is no part of the benchmark's version.
    plain: Callable[[], dict[str, Any]] = module.decides_scores
    assert not [key for key in plain()["constants"] if "MOVE" in key]
