"""Pictures of both cameras, turned in one place."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vlm4vla.bench import mujoco_render
from vlm4vla.bench.libero.protocol import CAMERAS, HALF_TURN, MULTISAMPLES
from vlm4vla.bench.mujoco_render import BACKEND, describe
from vlm4vla.types import CameraShift, CameraSpec, Image

__all__ = ["BACKEND", "PictureMaker", "describe"]


class PictureMaker(mujoco_render.PictureMaker):
    """Draws the fixed cameras of one task's models."""

    def __init__(self, model: Any, cameras: tuple[CameraSpec, ...]) -> None:
        super().__init__(model, max(c.height for c in cameras), max(c.width for c in cameras), MULTISAMPLES)
        self.option.geomgroup[0], self.option.geomgroup[1] = 0, 1  # robosuite: collision shapes, what is seen

    def pictures(
        self, model: Any, data: Any, cameras: tuple[CameraSpec, ...], shifts: Mapping[str, CameraShift]
    ) -> dict[str, Image]:
        """(height, width, 3) of the current state by camera; ``cameras`` are among those of the start.

        ``shifts`` move the cameras that they name; the camera on the hand against the hand.
        """
        return {
            c.name: self._turned(self.draw(model, data, CAMERAS[c.name], c.height, c.width, shifts.get(c.name)))
            for c in cameras
        }

    @staticmethod
    def _turned(pixels: Image) -> Image:
        # The one place where pictures are turned. OpenGL's rows run from the bottom up.
        return np.ascontiguousarray(pixels[::-1, ::-1] if HALF_TURN else pixels)
