"""Each benchmark's simulator lives in an environment of its own: ``$VLM4VLA_HOME/envs/NAME``. Standard library only.

The pins of simulators contradict each other and the main environment's. The environment gets the benchmark's
``requirements.txt`` and a symlink to the running ``vlm4vla`` package (PYTHONPATH would leak the main numpy into it).
A stamp with a hash of the requirements is written last, so a half-made environment is never taken for a whole one.
A benchmark's folder may also have ``apt.txt`` (Debian packages) and ``python.txt`` (Python versions its wheels exist
for, such as ``3.11 3.12``).
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vlm4vla import registry
from vlm4vla.types import UserError, refuse

Log = Callable[[str], None]

_PACKAGE = Path(__file__).resolve().parents[1]
_SMOKE = "import sys; from vlm4vla.registry import find; print(find('bench', sys.argv[1]).Benchmark().versions())"


def home() -> Path:
    """Where environments are kept: $VLM4VLA_HOME, or vlm4vla in the user's cache folder."""
    chosen = os.environ.get("VLM4VLA_HOME", "")
    if chosen:
        return Path(chosen).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if cache else Path.home() / ".cache") / "vlm4vla"


def is_installed(name: str) -> bool:
    """Whether the environment is there, whole, and made from the requirements as they are now."""
    stamp = _env(name) / "stamp.json"
    if not stamp.is_file() or not _python(name).exists():
        return False
    try:
        found = json.loads(stamp.read_text())
    except json.JSONDecodeError:
        return False
    return bool(found == _stamp(name))


def python_of(name: str) -> Path:
    """The interpreter of the benchmark's environment; refuses one that is not installed (or no longer as it should be).

    Points the environment at the running package first, if that has moved.
    """
    if not is_installed(name):
        raise refuse(
            f"The simulator of {name!r} is not installed in {_env(name)}, or its requirements have changed",
            possible=[n for n in registry.names("bench") if is_installed(n)],
            todo=f"Run `vlm4vla bench install {name}`.",
        )
    _link(name)
    return _python(name)


def install(name: str, log: Log) -> None:
    """Make or renew the environment; instant when it is as it should be. ``log`` gets one line per stage.

    Raises UserError when a Debian package, a fitting Python or the network is missing.
    """
    folder = folder_of(name)
    _env(name).parent.mkdir(parents=True, exist_ok=True)
    with _locked(_env(name).with_suffix(".lock")):
        if is_installed(name):
            _link(name)
            log(f"{name}: already installed in {_env(name)}")
            return
        _debian(folder, log)
        base = _interpreter(folder)
        env = _env(name)
        if env.exists():
            log(f"{name}: removing the old or unfinished environment {env}")
            shutil.rmtree(env)
        log(f"{name}: making {env} with {base}")
        _run([base, "-m", "venv", str(env)], "The virtual environment cannot be made", "Install Python's venv module.")
        log(f"{name}: installing {folder / 'requirements.txt'} with pip (a minute or two)")
        pip = [str(_python(name)), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
        pip += ["-r", str(folder / "requirements.txt")]
        _run(
            pip,
            "pip cannot install the benchmark's requirements",
            "Check the network, then run it again.",
        )
        _link(name)
        smoke = [str(_python(name)), "-I", "-c", _SMOKE, name]
        versions = _run(smoke, "The simulator does not start in its new environment", "Mend that, run it again.")
        log(f"{name}: {versions.strip()}")
        _write_stamp(name)
        log(f"{name}: installed")


def _write_stamp(name: str) -> None:
    stamp = _env(name) / "stamp.json"
    partial = stamp.with_suffix(".part")
    with partial.open("w") as f:
        json.dump(_stamp(name), f)
        f.flush()
        os.fsync(f.fileno())
    partial.replace(stamp)


def folder_of(name: str) -> Path:
    """The benchmark's folder, of this package or of another distribution."""
    path = registry.find("bench", name).__file__
    assert path is not None
    folder = Path(path).resolve().parent
    assert (folder / "requirements.txt").is_file(), f"{folder} has no requirements.txt"
    return folder


def _env(name: str) -> Path:
    return home() / "envs" / name


def _python(name: str) -> Path:
    return _env(name) / "bin" / "python"


def _stamp(name: str) -> dict[str, str]:
    return {"requirements": hashlib.sha256((folder_of(name) / "requirements.txt").read_bytes()).hexdigest()}


def _link(name: str) -> None:
    """Symlink the running package into the environment's site-packages, atomically; no-op when it is right."""
    (site,) = (_env(name) / "lib").glob("python3*/site-packages")
    link = site / "vlm4vla"
    if link.is_symlink() and link.readlink() == _PACKAGE:
        return
    partial = site / f".vlm4vla.{os.getpid()}.part"
    partial.unlink(missing_ok=True)
    partial.symlink_to(_PACKAGE, target_is_directory=True)
    partial.replace(link)


def _interpreter(folder: Path) -> str:
    """The running Python if the benchmark accepts its version, else another one on the PATH that it accepts."""
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    constraint = folder / "python.txt"
    accepted = constraint.read_text().split() if constraint.is_file() else [running]
    if running in accepted:
        return sys.executable
    for version in accepted:
        found = shutil.which(f"python{version}")
        if found is not None:
            return found
    raise refuse(
        f"The simulator in {folder.name!r} has no packages for Python {running}",
        possible=[f"python{version}" for version in accepted],
        todo="Put one of these on the PATH and run the same command again.",
    )


def _debian(folder: Path, log: Log) -> None:
    """Install missing Debian packages when allowed to; otherwise say which, and let the smoke test decide."""
    listed = folder / "apt.txt"
    wanted = listed.read_text().split() if listed.is_file() else []
    missing = [package for package in wanted if not _has_package(package)]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        log(f"Missing system packages: {' '.join(missing)}. As root: apt-get install {' '.join(missing)}")
        return
    log(f"apt-get install {' '.join(missing)}")
    todo = f"Install them by hand: apt-get install {' '.join(missing)}."
    _run(["apt-get", "update", "-qq"], "The list of Debian packages cannot be read", todo)
    words = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    _run(words, "Debian packages cannot be installed", todo)


def _has_package(package: str) -> bool:
    if shutil.which("dpkg-query") is None:
        return False
    words = ["dpkg-query", "-W", "-f=${Status}", package]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() == "install ok installed"


def _run(words: list[str], problem: str, todo: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise UserError(f"{problem}: `{' '.join(words)}` ended with {done.returncode}:\n{last}\n{todo}")
    return done.stdout


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One installer at a time; the lock goes with the process."""
    with path.open("w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield
