"""Pictures of a MuJoCo scene without a window. Chooses the OpenGL backend before mujoco is imported.

MuJoCo's own ``Renderer`` is bound to one model for life, and other simulators make a context at every reset and leave
the freeing of the old one to garbage collection, which may happen in the context of the new one. A context costs 0.25
s; this one draws any model of the same task, and is closed by hand. For simulators' environments only.
"""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from vlm4vla.bench import common, mujoco_backend
from vlm4vla.types import CameraShift, Image, refuse

BACKEND = mujoco_backend.choose()


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
    """Draws fixed cameras of one task's models. At most one may live in a process: see the benchmarks' sim.py."""

    def __init__(self, model: Any, height: int, width: int, multisamples: int, flags_off: Sequence[str] = ()) -> None:
        """``model`` decides the buffers (but not the multisampling) and which meshes and textures are uploaded.

        ``height`` and ``width`` are those of the largest picture; ``flags_off`` names of ``mjtRndFlag``.
        """
        model.vis.quality.offsamples = multisamples
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        self._gl = _context(width, height)
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=1000)
        for name in flags_off:
            self._scene.flags[getattr(mujoco.mjtRndFlag, name)] = 0
        self.option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED

    def draw(
        self, model: Any, data: Any, camera: str, height: int, width: int, shift: CameraShift | None = None
    ) -> Image:
        """Picture (height, width, 3) of the current state, its rows from the bottom up, as OpenGL has them.

        ``shift`` moves the camera for this picture alone, from where its body has carried it.
        Raises RuntimeError when nothing could be read back. MuJoCo says nothing then and leaves the array as it was:
        its own Renderer returns leftovers of earlier pictures (mirrored ones, other tasks').
        """
        self._gl.make_current()
        self._camera.fixedcamid = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA.value, camera)
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        with _shifted(data, self._camera.fixedcamid, shift):
            mujoco.mjv_updateScene(model, data, self.option, None, self._camera, everything, self._scene)
        rectangle = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(rectangle, self._scene, self._context)
        pixels = np.zeros((height, width, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, rectangle, self._context)
        if not pixels.any():  # nothing was written: no scene is black all over
            raise RuntimeError("OpenGL gave no picture: another renderer in this process has broken this one.")
        return pixels

    def close(self) -> None:
        self._gl.make_current()
        self._context.free()
        self._gl.free()


@contextmanager
def _shifted(data: Any, camera: int, shift: CameraShift | None) -> Iterator[None]:
    """Inside the block the camera stands where ``shift`` puts it.

    Its computed place is changed, not the model: that would be seen only after bodies are brought up to date, which
    changes what the solver starts from. The physics never reads this place.
    """
    if shift is None:
        yield
        return
    place, axes = data.cam_xpos[camera].copy(), data.cam_xmat[camera].copy()
    there, turned = common.moved(place, axes.reshape(3, 3), shift)
    data.cam_xpos[camera], data.cam_xmat[camera] = there, turned.ravel()
    try:
        yield
    finally:
        data.cam_xpos[camera], data.cam_xmat[camera] = place, axes
