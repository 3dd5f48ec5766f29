"""Where a run's numbers come from: the source's commit, the packages' versions, the machine."""

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def source_state() -> tuple[str | None, bool | None]:
    """Git commit of the running source and whether it has uncommitted changes; (None, None) for an installed wheel."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return commit, bool(_git(here, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def source(commit: str | None, dirty: bool | None) -> str:
    """One text of :func:`source_state`: two runs with one text ran one code, as far as that is known."""
    if commit is None:
        return "not from a checkout"
    return f"{commit} with uncommitted changes" if dirty else commit


def package_versions(names: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def hardware() -> dict[str, Any]:
    """CPU model, usable cores, memory in GiB, Python and platform (no host name: records are published)."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        model = next((x.split(":", 1)[1].strip() for x in info.read_text().splitlines() if "model name" in x), model)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def device(found: "torch.device") -> dict[str, str]:
    """``device``, where a model computes, and the name of the ``gpu`` if it is one: further entries of ``hardware``."""
    import torch

    on_gpu = found.type == "cuda"
    return {"device": str(found)} | ({"gpu": torch.cuda.get_device_name(found)} if on_gpu else {})


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
