"""Pictures of a MuJoCo scene without a window. Chooses the OpenGL backend before mujoco is imported.

robosuite's own renderer makes a new OpenGL context at every reset and leaves the freeing of the old one to Python's
garbage collection, which may then happen in the context of the new one; this one is kept, and closed by hand.
"""

import importlib
from typing import Any

import numpy as np

from vlm4vla.bench.libero import backend
from vlm4vla.bench.libero.protocol import CAMERAS, HALF_TURN, MULTISAMPLES
from vlm4vla.types import CameraSpec, Image, refuse

BACKEND = backend.choose()


def _missing(error: Exception) -> Exception:
    return refuse(
        f"OpenGL does not start with the backend {BACKEND!r} ({type(error).__name__}: {error})",
        possible="osmesa (software, needs the Debian package libosmesa6), egl (needs a graphics driver)",
        todo="Install it (`apt-get install libosmesa6`), or set MUJOCO_GL to the other one, and try again.",
    )


try:
    import mujoco
except ModuleNotFoundError:
    raise
except (ImportError, AttributeError, OSError, RuntimeError) as _error:
    # PyOpenGL's ways to say that the library is not there, and mujoco's for a MUJOCO_GL that it does not know
    raise _missing(_error) from _error


def _context(width: int, height: int) -> Any:
    try:
        context = mujoco.GLContext(width, height)
        context.make_current()
    except Exception as error:  # each backend has its own classes, EGLError and RuntimeError among them
        raise _missing(error) from error
    return context


def describe() -> str:
    """OpenGL renderer and version, as the driver names itself. Only while no picture-maker lives."""
    context = _context(16, 16)
    gl = importlib.import_module("OpenGL.GL")  # after mujoco has chosen its platform
    words = [gl.glGetString(name) for name in (gl.GL_RENDERER, gl.GL_VERSION)]
    context.free()
    return ", ".join(word.decode() for word in words if word)


class PictureMaker:
    """Draws the fixed cameras of one task's models. At most one may live in a process (see sim.py)."""

    def __init__(self, model: Any, cameras: tuple[CameraSpec, ...]) -> None:
        """``model`` decides the buffers (but not the multisampling) and which meshes and textures are uploaded."""
        model.vis.quality.offsamples = MULTISAMPLES
        height, width = max(c.height for c in cameras), max(c.width for c in cameras)
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        self._cameras = cameras
        self._gl = _context(width, height)
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=1000)
        self._option = mujoco.MjvOption()
        self._option.geomgroup[0], self._option.geomgroup[1] = 0, 1  # robosuite: collision shapes, what is seen
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED

    def draw(self, model: Any, data: Any) -> dict[str, Image]:
        """Pictures (height, width, 3) of the current state by camera.

        Raises RuntimeError when nothing could be read back, about which MuJoCo is silent.
        """
        self._gl.make_current()
        return {camera.name: self._draw(model, data, camera) for camera in self._cameras}

    def _draw(self, model: Any, data: Any, camera: CameraSpec) -> Image:
        name = CAMERAS[camera.name]
        self._camera.fixedcamid = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA.value, name)
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(model, data, self._option, None, self._camera, everything, self._scene)
        rectangle = mujoco.MjrRect(0, 0, camera.width, camera.height)
        mujoco.mjr_render(rectangle, self._scene, self._context)
        pixels = np.zeros((camera.height, camera.width, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, rectangle, self._context)
        if not pixels.any():  # nothing was written: no scene is black all over
            raise RuntimeError("OpenGL gave no picture: another renderer in this process has broken this one.")
        # The one place where pictures are turned. OpenGL's rows run from the bottom up.
        return np.ascontiguousarray(pixels[::-1, ::-1] if HALF_TURN else pixels)

    def close(self) -> None:
        self._gl.make_current()
        self._context.free()
        self._gl.free()
