"""Which renderer draws: EGL (GPU or Mesa's software) where it works, else Bullet's TinyRenderer."""

import importlib.util
import os
import re
import subprocess
import sys
from functools import cache

from vlm4vla.types import refuse

SETTING = "VLM4VLA_CALVIN_RENDERER"
EGL, TINY = "egl", "tiny"
PLUGIN = "_eglRendererPlugin"
_PROBE_S = 120.0
# In a process of its own: on a machine without OpenGL the plugin ends the process it is loaded into.
_PROBE = f"""
import pybullet as p, sys
client = p.connect(p.DIRECT)
loaded = p.loadPlugin(sys.argv[1], "{PLUGIN}", physicsClientId=client)
p.getCameraImage(8, 8, physicsClientId=client) if loaded >= 0 else None
sys.stdout.flush()
sys.exit(0 if loaded >= 0 else 1)
"""


def plugin_path() -> str | None:
    """The file of pybullet's EGL plugin, as its wheel brings it."""
    found = importlib.util.find_spec("eglRenderer")
    return found.origin if found else None


@cache
def chosen() -> tuple[str, str]:
    """Name of the renderer, and how the OpenGL driver names itself ("" with TinyRenderer).

    ``VLM4VLA_CALVIN_RENDERER`` decides if it is set; refuses ``egl`` where it does not work.
    """
    wanted = os.environ.get(SETTING, "")
    if wanted not in ("", EGL, TINY):
        todo = f"Set {SETTING} to one of these, or do not set it."
        raise refuse(f"Unknown renderer {wanted!r}", given=wanted, possible=[EGL, TINY], todo=todo)
    driver = None if wanted == TINY else _probe()
    if driver is not None:
        return EGL, driver
    if wanted == EGL:
        raise refuse(
            "pybullet's EGL plugin does not start",
            possible="a graphics driver with EGL, or Mesa's software renderer",
            todo=f"apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri, or set {SETTING}={TINY} (another look).",
        )
    return TINY, ""


def _probe() -> str | None:
    """The driver's name where EGL works, else null. The plugin tells it on stdout."""
    plugin = plugin_path()
    if plugin is None:
        return None
    words = [sys.executable, "-I", "-c", _PROBE, plugin]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode != 0:
        return None
    found = [re.search(rf"{name}=(.*)", done.stdout) for name in ("GL_RENDERER", "GL_VERSION")]
    return ", ".join(match[1].strip() for match in found if match)
