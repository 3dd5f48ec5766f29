"""Pictures of the one camera, turned upright."""

from typing import Any

import numpy as np

from vlm4vla.bench import mujoco_render
from vlm4vla.bench.metaworld.protocol import MULTISAMPLES, RENDER_FLAGS_OFF
from vlm4vla.bench.mujoco_render import BACKEND, describe
from vlm4vla.types import CameraShift, Image

__all__ = ["BACKEND", "PictureMaker", "describe"]


class PictureMaker(mujoco_render.PictureMaker):
    """Draws one fixed camera of one task's models."""

    def __init__(self, model: Any, camera: str, height: int, width: int) -> None:
        super().__init__(model, height, width, MULTISAMPLES, RENDER_FLAGS_OFF)
        self._view = (camera, height, width)

    def picture(self, model: Any, data: Any, shift: CameraShift | None = None) -> Image:
        """(height, width, 3) of the current state, turned by 180 degrees (the camera hangs upside down).

        ``shift`` moves the camera for this picture.
        """
        # Rows from the bottom up are half of the turn; mirroring the columns is the other half.
        return np.ascontiguousarray(self.draw(model, data, *self._view, shift)[:, ::-1])
