"""``vlm4vla doctor``: what this machine has, what is missing, and what to do about each gap.

Each line is a finding: ``ok`` (nothing to do), ``note`` (works, could be better) or ``gap`` (something will not work).
Libraries are probed by loading them, not by asking a package manager.
"""

import ctypes
import ctypes.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from vlm4vla import provenance, registry
from vlm4vla.bench import assets, install
from vlm4vla.types import UserError

_LIST = (
    "import json; from importlib.metadata import distributions; "
    "print(json.dumps({d.name: d.version for d in distributions()}))"
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``todo`` is empty where there is nothing to do."""

    what: str
    status: Literal["ok", "note", "gap"]
    found: str
    todo: str = ""


def examine() -> dict[str, Any]:
    """All findings as plain data; ``ok`` is false when there is a gap."""
    findings = [_python(), _torch(), _torchvision(), _gpu(), *_graphics(), _disk(), _memory(), _browser(), *_benches()]
    gaps = [f for f in findings if f.status == "gap"]
    return {"ok": not gaps, "findings": [asdict(f) for f in findings], "hardware": provenance.hardware()}


def words(report: dict[str, Any]) -> str:
    """The findings as aligned lines, each gap followed by what to do."""
    width = max(len(f["what"]) for f in report["findings"])
    lines: list[str] = []
    for f in report["findings"]:
        lines.append(f"{f['status']:4}  {f['what']:{width}}  {f['found']}")
        if f["todo"]:
            lines.append(f"{'':4}  {'':{width}}  -> {f['todo']}")
    return "\n".join(lines)


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("Python", "ok", found)
    return Finding("Python", "gap", found, "use Python 3.11, 3.12 or 3.13: the simulators' wheels end there")


def _torch() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("torch", "gap", f"not importable: {error}", "pip install -c constraints.txt torch")
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    flags = torch.backends.cpu.get_cpu_capability()
    return Finding("torch", "ok", f"{torch.__version__}, {build}, {flags}, {torch.get_num_threads()} threads")


def _torchvision() -> Finding:
    """PyPI's torchvision beside a CPU torch makes every VLM class fail to import (facts: operator nms missing)."""
    try:
        found = version("torchvision")
    except PackageNotFoundError:
        return Finding("torchvision", "ok", "absent (not needed)")
    probe = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, check=False)
    if probe.returncode == 0:
        return Finding("torchvision", "ok", f"{found} (not needed)")
    return Finding(
        "torchvision", "gap", f"{found} does not import", "pip uninstall torchvision: it breaks transformers"
    )


def _gpu() -> Finding:
    try:
        import torch
    except (ImportError, OSError):
        return Finding("GPU", "gap", "unknown without torch", "mend torch first")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("GPU", "ok", ", ".join(names))
    driver = shutil.which("nvidia-smi")
    if driver:
        return Finding(
            "GPU", "note", "a driver is there, but this torch does not use it", "install a CUDA build of torch"
        )
    return Finding("GPU", "note", "none: tiny presets run, full-size VLMs will not train here")


def _graphics() -> list[Finding]:
    table = (
        ("OSMesa", "OSMesa", "libosmesa6", "software rendering of MuJoCo"),
        ("EGL", "EGL", "libegl1 libegl-mesa0", "GPU rendering of MuJoCo and PyBullet"),
        ("GL", "GL", "libgl1", "MuJoCo"),
        ("Vulkan", "vulkan", "libvulkan1", "SAPIEN, unless its `bench install` has fetched a driver"),
    )
    out: list[Finding] = []
    for what, library, package, use in table:
        name = ctypes.util.find_library(library)
        try:
            ctypes.CDLL(name or f"lib{library}.so")
            out.append(Finding(what, "ok", f"{name} ({use})"))
        except OSError:
            out.append(Finding(what, "note", f"library not found; needed for {use}", f"apt-get install {package}"))
    chosen = os.environ.get("MUJOCO_GL")
    out.append(Finding("MUJOCO_GL", "ok", chosen or "not set: chosen per machine"))
    return out


def _disk() -> Finding:
    home = install.home()
    there = next(p for p in (home, *home.parents) if p.exists())
    free = shutil.disk_usage(there).free / 2**30
    found = f"{free:.0f} GiB free for {home}"
    if free < 5:
        return Finding("disk", "gap", found, "free some space, or set VLM4VLA_HOME to a folder with 5 GiB")
    return Finding("disk", "ok", found)


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    if total < 6:
        return Finding("memory", "gap", f"{total:.1f} GiB", "the quickstart needs up to 6 GiB")
    return Finding("memory", "ok", f"{total:.1f} GiB")


def _browser() -> Finding:
    found = shutil.which("chromium")
    if found:
        return Finding("Chromium", "ok", found)
    return Finding("Chromium", "note", "absent; only the report's browser tests need it", "apt-get install chromium")


def _benches() -> list[Finding]:
    out: list[Finding] = []
    for name in registry.names("bench"):
        if not install.is_installed(name):
            todo = f"vlm4vla bench install {name}"
            out.append(Finding(f"bench {name}", "note", "not installed", todo))
            continue
        listed = subprocess.run(
            [str(install.python_of(name)), "-I", "-c", _LIST], capture_output=True, text=True, check=False
        )
        packages: dict[str, str] = json.loads(listed.stdout) if listed.returncode == 0 else {}
        pins = _pins(name)
        found = {p: packages.get(p, "absent") for p in pins}
        wrong = [f"{p} {found[p]} instead of {v}" for p, v in pins.items() if found[p].split("+")[0] != v]
        if wrong:
            out.append(Finding(f"bench {name}", "gap", "; ".join(wrong), f"vlm4vla bench install {name}"))
        elif lacks := _lacks(name):
            out.append(Finding(f"bench {name}", "gap", "installed, but it will not start", lacks))
        else:
            out.append(Finding(f"bench {name}", "ok", ", ".join(f"{p} {v}" for p, v in list(pins.items())[:3])))
    return out


def _lacks(name: str) -> str:
    """What an installed benchmark lacks besides its packages, as a sentence; "" if nothing."""
    try:
        if assets.needs_any(name):
            assets.folder(name)
        return install.missing(name)
    except UserError as error:
        return str(error)


def _pins(name: str) -> dict[str, str]:
    text = (install.folder_of(name) / "requirements.txt").read_text()
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    return dict(line.split("==", 1) for line in lines if "==" in line)
