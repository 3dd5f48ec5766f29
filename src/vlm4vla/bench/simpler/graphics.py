"""Which Vulkan driver draws: Mesa's lavapipe on the CPU, so that pictures do not depend on the machine's GPU.

Import this before sapien: the driver is chosen for the process here. Where ``prepare.py`` has put a private Mesa into
the environment that one draws, else the system's. The dynamic linker reads its search path when a process starts, so
the private libraries are loaded here by their full paths; what asks for them by name later gets these.
"""

import ctypes
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

from vlm4vla.bench.install import link_folder
from vlm4vla.bench.simpler.prepare import PRIVATE
from vlm4vla.types import RunFailed, refuse

_DRIVER = "libvulkan_lvp.so"
_NEWER = ("libdrm.so.2",)  # the system may have one too, which is too old
_SYSTEM = (Path("/usr/share/vulkan/icd.d"), Path("/etc/vulkan/icd.d"))
_PROBE_S = 120.0
# In a process of its own: a driver that does not fit may end the process it is loaded into.
_PROBE = """
import sys
sys.path.insert(0, sys.argv[1])
import vlm4vla.bench.simpler.graphics
import sapien
summary = sapien.render.get_device_summary()
sapien.Scene([sapien.physx.PhysxCpuSystem(), sapien.render.RenderSystem(sapien.Device("cpu"))])
print("driver:", next(line for line in summary.splitlines() if "llvmpipe" in line))
"""


def _choose() -> str:
    """Set ``VK_ICD_FILENAMES`` for this process, unless the user did; returns which driver file it names."""
    given = os.environ.get("VK_ICD_FILENAMES", "")
    private = Path(sys.prefix) / PRIVATE
    own = private / "lvp_icd.json"
    if given not in ("", str(own)):
        return given
    libraries = next((file.parent for file in sorted(private.glob(f"usr/lib/*/{_DRIVER}"))), None)
    if libraries is None:
        files = ":".join(str(file) for folder in _SYSTEM for file in sorted(folder.glob("lvp_icd*.json")))
        if files:
            os.environ["VK_ICD_FILENAMES"] = files
        return files
    described = json.loads(next((private / "usr/share/vulkan/icd.d").glob("lvp_icd*.json")).read_text())
    described["ICD"]["library_path"] = str(libraries / _DRIVER)
    text = json.dumps(described)
    if not own.is_file() or own.read_text() != text:  # the first time, or after the environment was moved
        partial = own.with_name(f".{os.getpid()}.part")
        partial.write_text(text)
        partial.replace(own)
    os.environ["VK_ICD_FILENAMES"] = str(own)
    for name in (*_NEWER, _DRIVER):
        _load(libraries, name)
    return str(own)


def _load(libraries: Path, name: str) -> None:
    """Load a private library, and before it those that it needs and the system does not have."""
    if not (libraries / name).exists():
        return
    for _ in range(50):
        try:
            ctypes.CDLL(str(libraries / name), mode=ctypes.RTLD_GLOBAL)
            return
        except OSError as error:
            missing = re.match(r"(\S+): cannot open shared object", str(error))
            if missing is None or missing[1] == name or not (libraries / missing[1]).exists():
                raise RunFailed(f"The private Vulkan driver {libraries / name} does not load: {error}") from error
            _load(libraries, missing[1])


CHOSEN = _choose()


@cache
def driver() -> str:
    """How the driver names itself; refuses a machine on which nothing can be drawn."""
    words = [sys.executable, "-I", "-c", _PROBE, str(link_folder())]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PROBE_S, check=False
        )
        found = re.search(r"driver: *(?:GPU: *)?(.*)", done.stdout) if done.returncode == 0 else None
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    except subprocess.TimeoutExpired:
        found, last = None, f"no answer within {_PROBE_S:g} s"
    if found is None:
        raise refuse(
            f"SAPIEN cannot draw: no Vulkan driver for the CPU works here (driver file: {CHOSEN or 'none'}; {last})",
            possible="Mesa's lavapipe 24.3 or later, of the package mesa-vulkan-drivers, which brings lvp_icd.json and "
            f"{_DRIVER} (Debian 12's own is too old, its bookworm-backports have one that works)",
            todo=f"On Debian or Ubuntu remove {sys.prefix} and run `vlm4vla bench install simpler`, which fetches one "
            "for itself; elsewhere install that package, or name a driver file in VK_ICD_FILENAMES.",
        )
    return found[1].strip()
