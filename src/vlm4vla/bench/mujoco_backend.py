"""Which OpenGL draws: decided before mujoco is imported, as mujoco and PyOpenGL choose their libraries on import."""

import os
import subprocess
import sys
from pathlib import Path

_DEVICES = Path("/dev")
_PROBE = "import mujoco; c = mujoco.GLContext(16, 16); c.make_current(); c.free()"
_PROBE_S = 60.0


def choose() -> str:
    """MUJOCO_GL if the user set it, EGL where an NVIDIA device draws with it, else software rendering with OSMesa.

    A device alone is not enough: containers made for computing have one without the driver's graphics part.
    """
    backend = os.environ.get("MUJOCO_GL", "")
    if not backend:
        backend = "egl" if any(_DEVICES.glob("nvidia[0-9]*")) and _egl_works() else "osmesa"
        os.environ["MUJOCO_GL"] = backend
    if backend in ("egl", "osmesa"):
        os.environ["PYOPENGL_PLATFORM"] = backend
    return backend


def _egl_works() -> bool:
    """Whether mujoco gets a context from EGL. In a process of its own: a failed try would bind this one to EGL."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _PROBE],
            env=os.environ | {"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "egl"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
