"""The camera moved a little, and with it the photograph that stands behind the drawn things.

The scene's background is a photograph taken by the unmoved camera: left as it is, the table would not move with the
camera and things would seem to slide on it. It is seen anew through the homography of the table's plane: exact for what
lies on the table, nearly so for what stands behind it. Beyond its edges, where there is no photograph, it is mirrored.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm4vla.bench import common
from vlm4vla.bench.simpler import plane, protocol, rotations
from vlm4vla.bench.simpler.simulator import sapien, torch
from vlm4vla.types import CameraShift

Array = npt.NDArray[np.float64]
cv2: Any = importlib.import_module("cv2")  # the package's own way of reading the photograph

TABLE_TOP_M = 0.87
"""Height of the table's plane in the world; the sink's bottom is within 6 cm of it."""
_SAPIEN = np.array([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
"""Columns: right, up and towards the viewer, in SAPIEN's axes of a camera (x forward, y to the left, z up)."""


@contextmanager
def moved(sim: Any, shift: CameraShift | None) -> Iterator[None]:
    """Inside the block pictures are those of the moved camera; camera and photograph are put back afterwards."""
    if shift is None:
        yield
        return
    camera = sim._sensors[protocol.CAMERA].camera
    component = camera._render_cameras[0]
    pose, photograph = component.get_local_pose(), sim._rgb_overlay_images[protocol.CAMERA]
    turned = _seen_from(photograph.cpu().numpy(), _homography(component, shift))
    camera.set_local_pose(_after(pose, shift))
    sim._rgb_overlay_images[protocol.CAMERA] = torch.as_tensor(turned, device=photograph.device)
    try:
        yield
    finally:
        camera.set_local_pose(pose)
        sim._rgb_overlay_images[protocol.CAMERA] = photograph


def _after(pose: Any, shift: CameraShift) -> Any:
    place, axes = common.moved(np.asarray(pose.p, np.float64), _axes(pose), shift)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = axes @ _SAPIEN.T, place
    return sapien.Pose(matrix)


def _axes(pose: Any) -> Array:
    """(3, 3): to the right, up and towards the viewer."""
    return np.asarray(rotations.of_quaternion(np.asarray(pose.q, np.float64)) @ _SAPIEN)


def _homography(component: Any, shift: CameraShift) -> Array:
    """(3, 3): a pixel of the moved camera to the one of the photograph that shows the same point of the table."""
    pose = component.get_global_pose()
    lens = np.asarray(component.get_intrinsic_matrix(), np.float64)
    return plane.homography(lens, _axes(pose), np.asarray(pose.p, np.float64), TABLE_TOP_M, shift)


def _seen_from(photograph: npt.NDArray[Any], homography: Array) -> npt.NDArray[Any]:
    height, width = photograph.shape[:2]
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    seen: npt.NDArray[Any] = cv2.warpPerspective(
        photograph, homography, (width, height), flags=how, borderMode=cv2.BORDER_REFLECT
    )
    return seen
