"""Before the simulator starts for the first time: a Vulkan driver where the system has none. Standard library only.

Runs in the main environment, called by ``vlm4vla bench install``. Debian packages are fetched with apt's own download
(which compares them with the signed package lists) and unpacked into the benchmark's environment; nothing is installed
on the system, and no rights are needed. Debian 12's own Mesa 22.3.6 is too old, so its backports are asked too.
"""

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from vlm4vla.bench import install
from vlm4vla.types import UserError

Log = Callable[[str], None]

PRIVATE = "mesa"
"""Folder in the benchmark's environment with unpacked Debian packages."""
_PACKAGE = "mesa-vulkan-drivers"
_ASK = """
import sys
sys.path.insert(0, sys.argv[1])
from vlm4vla.bench.simpler import graphics
from vlm4vla.types import UserError
try:
    graphics.driver()
except UserError as error:
    print(error)
"""
_TOO_OLD = ("bookworm",)  # Debian releases whose own Mesa does not do
_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def prepare(python: Path, log: Log) -> None:
    """Give the environment of ``python`` a driver unless one works; a failure is told, and the smoke test decides."""
    target = python.parents[1] / PRIVATE
    if not missing(python):
        return
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        log("No Vulkan driver works here, and without apt-get none can be fetched.")
        return
    log(f"No Vulkan driver works here: fetching {_PACKAGE} and what it needs into {target}")
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".mesa-") as work:
            whole = _fetch(Path(work))
            shutil.rmtree(target, ignore_errors=True)
            whole.rename(target)
    except (UserError, OSError) as error:
        log(f"That failed: {error}")


def missing(python: Path) -> str:
    """Why nothing can be drawn in the environment of ``python``, and what to do; "" if it can."""
    words = [str(python), "-I", "-c", _ASK, str(install.link_folder())]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return done.stdout.strip() if done.returncode == 0 else f"the driver's probe ended with {done.returncode}: {last}"


def _fetch(work: Path) -> Path:
    """Download the packages that are missing here, and unpack them; returns the folder."""
    for folder in ("lists/partial", "cache/archives/partial", "sources"):
        (work / folder).mkdir(parents=True)
    for file in Path("/etc/apt/sources.list.d").glob("*"):
        if file.suffix in (".list", ".sources"):
            shutil.copy(file, work / "sources")
    apt = [
        "apt-get",
        *("-o", f"Dir::State::lists={work / 'lists'}"),
        *("-o", f"Dir::Cache={work / 'cache'}"),
        *("-o", f"Dir::Etc::sourceparts={work / 'sources'}"),
        *("-o", "Debug::NoLocking=1"),
        *("-o", "APT::Sandbox::User="),  # its own user may not write here
    ]
    _run([*apt, "update"])
    newer = _backports(apt, work / "sources")
    if newer:
        _run([*apt, "update"])
    _run([*apt, "install", "-y", "--no-install-recommends", "--download-only", *newer, _PACKAGE])
    whole = work / "whole"
    whole.mkdir()
    for package in sorted((work / "cache/archives").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(whole)])
    return whole


def _backports(apt: list[str], sources: Path) -> list[str]:
    """Where this Debian's own Mesa is too old: add its backports, from the mirror in use; returns apt's option."""
    system = platform.freedesktop_os_release()
    codename = system.get("VERSION_CODENAME", "")
    if system["ID"] != "debian" or codename not in _TOO_OLD:
        return []
    listed = _run([*apt, "indextargets", "--format", "$(CODENAME) $(SITE) $(ORIGIN)", "Identifier: Packages"])
    found = [line.split(maxsplit=2) for line in listed.splitlines()]  # others publish for this release too
    mirrors = [words[1] for words in found if words[0] == codename and words[2:] == ["Debian"]]
    if not mirrors:
        raise UserError(f"apt knows no mirror of {codename}")
    signed = f"[signed-by={_KEYS}] " if _KEYS.is_file() else ""
    (sources / "vlm4vla.list").write_text(f"deb {signed}{mirrors[0]} {codename}-backports main\n")
    return ["-t", f"{codename}-backports"]


def _run(words: list[str]) -> str:
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"`{' '.join(words[:1] + words[-1:])}` ended with {done.returncode}: {last}")
    return done.stdout
