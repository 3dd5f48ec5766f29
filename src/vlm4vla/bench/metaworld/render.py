"""Pictures of a MuJoCo scene without a window. Chooses the OpenGL backend before mujoco is imported.

MuJoCo's own ``Renderer`` is bound to one model for life; here every reset brings a fresh copy of the model, and making
an OpenGL context costs 0.25 s, so this one draws any model of the same task.
"""

import importlib
from typing import Any

import numpy as np

from vlm4vla.bench.metaworld import backend
from vlm4vla.bench.metaworld.protocol import MULTISAMPLES, RENDER_FLAGS_OFF
from vlm4vla.types import Image, refuse

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
    """Draws one fixed camera of one task's models. At most one may live in a process (see sim.py)."""

    def __init__(self, model: Any, camera: str, height: int, width: int) -> None:
        """``model`` decides the buffers (but not the multisampling) and which meshes are uploaded."""
        model.vis.quality.offsamples = MULTISAMPLES
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        self._gl = _context(width, height)
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=1000)
        for name in RENDER_FLAGS_OFF:
            self._scene.flags[getattr(mujoco.mjtRndFlag, name)] = 0
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        self._rectangle = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)

    def draw(self, model: Any, data: Any) -> Image:
        """Picture (height, width, 3) of the current state, turned by 180 degrees (the camera hangs upside down).

        Raises RuntimeError when nothing could be read back. MuJoCo says nothing then and leaves the array as it was:
        its own Renderer returns leftovers of earlier pictures (mirrored ones, other tasks'), this one a frozen picture.
        """
        self._gl.make_current()
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(model, data, self._option, None, self._camera, everything, self._scene)
        mujoco.mjr_render(self._rectangle, self._scene, self._context)
        self._pixels.fill(0)
        mujoco.mjr_readPixels(self._pixels, None, self._rectangle, self._context)
        if not self._pixels.any():  # nothing was written: no scene is black all over
            raise RuntimeError("OpenGL gave no picture: another renderer in this process has broken this one.")
        # OpenGL rows run from the bottom up, which is half of the turn; mirroring the columns is the other half.
        return np.ascontiguousarray(self._pixels[:, ::-1])

    def close(self) -> None:
        self._gl.make_current()
        self._context.free()
        self._gl.free()
