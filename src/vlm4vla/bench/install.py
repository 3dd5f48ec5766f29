"""Each benchmark's simulator lives in an environment of its own: ``$VLM4VLA_HOME/envs/NAME``. Standard library only.

The pins of simulators contradict each other and the main environment's. The environment gets the benchmark's
``requirements.txt`` and nothing of ours: whoever starts a process in it puts ``link_folder()`` first on its path (our
whole site-packages would leak the main numpy into it). So checkouts that share an environment do not share code.
A stamp with a hash of the requirements is written last, so a half-made environment is never taken for a whole one;
another one says that pip is through, so that a failed smoke test does not cost the downloads.
A benchmark's folder may also have ``apt.txt`` (Debian packages), ``python.txt`` (Python versions its wheels exist
for, such as ``3.11 3.12``) and ``requirements-no-deps.txt`` (packages whose own requirements are not followed, because
they are wrong or enormous; it counts as a part of the requirements). What else it needs once the packages are there,
``prepare(python, log)`` in its ``prepare.py`` brings (standard library only, run in the main environment), and
``missing(python)`` there says what the system lacks.

Tools that are no benchmarks get their environments in the same way: their folders are in ``TOOLS``, and
``imports.txt`` there names the modules that must load.
"""

import errno
import fcntl
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from vlm4vla import registry
from vlm4vla.types import UserError, refuse

Log = Callable[[str], None]

_PACKAGE = Path(__file__).resolve().parents[1]
TOOLS = _PACKAGE / "study" / "environments"
_ANSWER = "smoke test: "  # what stands after it is ours; simulators print too
_REFUSED = 3
_SMOKE = """
import sys
sys.path.insert(0, sys.argv[1])
from vlm4vla.registry import find
from vlm4vla.types import UserError
try:
    answer, status = find("bench", sys.argv[2]).Benchmark().versions(), 0
except UserError as error:
    answer, status = error, int(sys.argv[3])
print(sys.argv[4] + str(answer))
sys.exit(status)
"""
_LOADS = """
import importlib, importlib.metadata, sys
for name in sys.argv[2:]:
    importlib.import_module(name)
print(sys.argv[1] + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in sys.argv[2:]))
"""
_PIP_DONE, _WHOLE = "pip.json", "stamp.json"
_NO_DEPS = "requirements-no-deps.txt"
_UNUSABLE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your disk quota is used up",
    errno.EROFS: "it is read-only",
    errno.EACCES: "you may not write or start programs there",
    errno.EPERM: "you may not write or start programs there",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EEXIST: "a part of the path is a file",
}


def home() -> Path:
    """Where environments are kept: $VLM4VLA_HOME, or vlm4vla in the user's cache folder."""
    chosen = os.environ.get("VLM4VLA_HOME", "")
    if chosen:
        return Path(chosen).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if cache else Path.home() / ".cache") / "vlm4vla"


def is_installed(name: str) -> bool:
    """Whether the environment is there, whole, and made from the requirements as they are now."""
    return _stamped(name, _WHOLE) and _python(name).exists()


def python_of(name: str) -> Path:
    """The interpreter of the benchmark's environment; refuses one that is not installed (or no longer as it should be).

    It has no ``vlm4vla``: see ``link_folder``.
    """
    if not is_installed(name):
        raise refuse(
            f"The simulator of {name!r} is not installed in {_env(name)}, or its requirements have changed",
            possible=[n for n in registry.names("bench") if is_installed(n)],
            todo=f"Run `vlm4vla bench install {name}`.",
        )
    return _python(name)


def missing(name: str) -> str:
    """A sentence on what an installed benchmark lacks of the system, "" if nothing is known to be missing."""
    more = _preparation(name)
    return "" if more is None else str(more.missing(python_of(name)))


def link_folder() -> Path:
    """A folder whose one entry leads to the running ``vlm4vla`` package, to be put on a simulator's ``sys.path``.

    Each package path has its own, so a study keeps its code whatever other checkouts do. Made if it is absent.
    """
    name = hashlib.sha1(str(_PACKAGE).encode(), usedforsecurity=False).hexdigest()
    link = home() / "links" / name / "vlm4vla"
    if link.is_symlink() and link.readlink() == _PACKAGE:
        return link.parent
    with _usable_home():
        link.parent.mkdir(parents=True, exist_ok=True)
        partial = link.with_name(f".{os.getpid()}.part")
        partial.unlink(missing_ok=True)
        partial.symlink_to(_PACKAGE, target_is_directory=True)
        partial.replace(link)
    return link.parent


def install(name: str, log: Log) -> None:
    """Make or renew the environment; instant when it is as it should be. ``log`` gets one line per stage.

    Raises UserError when a Debian package, a fitting Python, the network or room on the disk is missing.
    """
    if is_installed(name):
        log(f"{name}: already installed in {_env(name)}")
        return
    with _usable_home():
        _env(name).parent.mkdir(parents=True, exist_ok=True)
        with _locked(_env(name).with_suffix(".lock"), log) as lock:
            if is_installed(name):  # by whoever held the lock
                log(f"{name}: already installed in {_env(name)}")
                return
            _debian(folder_of(name), log)
            if _stamped(name, _PIP_DONE) and _python(name).exists():
                log(f"{name}: going on with {_env(name)}, where pip is through")
            else:
                _fill(name, lock, log)
            if (more := _preparation(name)) is not None:
                more.prepare(_python(name), log)
            log(f"{name}: {_smoke_test(name, lock)}")
            _write_stamp(name, _WHOLE)
            log(f"{name}: installed")


def _fill(name: str, lock: int, log: Log) -> None:
    """A new virtual environment with the benchmark's requirements."""
    env, requirements = _env(name), folder_of(name) / "requirements.txt"
    base = _interpreter(folder_of(name))
    if env.exists():
        log(f"{name}: removing the old or unfinished environment {env}")
        shutil.rmtree(env)
    log(f"{name}: making {env} with {base}")
    make = [base, "-m", "venv", str(env)]
    _run(make, lock, "The virtual environment cannot be made", "Install Python's venv module.")
    log(f"{name}: installing {requirements} with pip (a minute or two)")
    pip = [str(_python(name)), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    bare = folder_of(name) / _NO_DEPS
    for words in [["-r", str(requirements)], *([["--no-deps", "-r", str(bare)]] if bare.is_file() else [])]:
        problem = "pip cannot install the benchmark's requirements"
        _run(pip + words, lock, problem, "Check the network, then run it again.")
    _write_stamp(name, _PIP_DONE)


def _preparation(name: str) -> ModuleType | None:
    if not (folder_of(name) / "prepare.py").is_file():
        return None
    return importlib.import_module(f"{registry.find('bench', name).__package__}.prepare")


def _smoke_test(name: str, lock: int) -> str:
    """Versions of the simulator as it starts in its environment; what it refuses is refused here in its own words."""
    words = [str(_python(name)), "-I", "-c", _SMOKE, str(link_folder()), name, str(_REFUSED), _ANSWER]
    modules = folder_of(name) / "imports.txt"
    if modules.is_file():
        words = [str(_python(name)), "-I", "-c", _LOADS, _ANSWER, *modules.read_text().split()]
    done = _call(words, lock)
    answer = done.stdout.rpartition(_ANSWER)[2].strip()
    if done.returncode == _REFUSED and answer:
        raise UserError(answer)
    todo = f"Mend that, run it again. If that does not help, delete {_env(name)} first."
    what = "What was installed does not load" if modules.is_file() else "The simulator does not start"
    _check(done, f"{what} in its new environment", todo)
    return answer


def _stamped(name: str, stamp: str) -> bool:
    try:
        found = json.loads((_env(name) / stamp).read_text())
    except (OSError, json.JSONDecodeError):
        return False
    return bool(found == _stamp(name))


def _write_stamp(name: str, stamp: str) -> None:
    path = _env(name) / stamp
    partial = path.with_suffix(".part")
    with partial.open("w") as f:
        json.dump(_stamp(name), f)
        f.flush()
        os.fsync(f.fileno())
    partial.replace(path)


def folder_of(name: str) -> Path:
    """The benchmark's folder, of this package or of another distribution; or a tool's."""
    if (TOOLS / name / "requirements.txt").is_file():
        return TOOLS / name
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
    files = [folder_of(name) / "requirements.txt", folder_of(name) / _NO_DEPS]
    return {file.stem: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


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
    install_words = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    for words in (["apt-get", "update", "-qq"], install_words):
        done = _call(words, None)  # without the lock: a daemon that a package starts would keep it
        if done.returncode != 0:
            log(f"{_told(words, done)}\nGoing on without; to install them by hand: apt-get install {' '.join(missing)}")
            return


def _has_package(package: str) -> bool:
    if shutil.which("dpkg-query") is None:
        return False
    words = ["dpkg-query", "-W", "-f=${Status}", package]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() == "install ok installed"


def _run(words: list[str], lock: int, problem: str, todo: str) -> None:
    _check(_call(words, lock), problem, todo)


def _call(words: list[str], lock: int | None) -> subprocess.CompletedProcess[str]:
    """Run a command that nobody can answer. It keeps ``lock``, so that what outlives us still keeps others out."""
    return subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        pass_fds=() if lock is None else (lock,),
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
    )


def _check(done: subprocess.CompletedProcess[str], problem: str, todo: str) -> None:
    if done.returncode == 0:
        return
    for full in (errno.ENOSPC, errno.EDQUOT):
        if os.strerror(full) in done.stdout + done.stderr:
            raise _unusable(full)
    raise UserError(f"{problem}: {_told(done.args, done)}\n{todo}")


def _told(words: list[str], done: subprocess.CompletedProcess[str]) -> str:
    last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
    return f"`{' '.join(words)}` ended with {done.returncode}:\n{last}"


@contextmanager
def _usable_home() -> Iterator[None]:
    """A sentence for a home that cannot be written to."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNUSABLE:
            raise
        raise _unusable(error.errno) from error


def _unusable(number: int) -> UserError:
    return refuse(
        f"Simulators cannot be kept in {home()}: {_UNUSABLE[number]}",
        possible="a folder with 2 GB of free space that you may write to",
        todo="Free some space or set VLM4VLA_HOME to such a folder, and run the same command again.",
    )


@contextmanager
def _locked(path: Path, log: Log) -> Iterator[int]:
    """One installer at a time, as long as it or a child that was given the yielded descriptor lives."""
    with path.open("w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log(f"Waiting for another installer, which holds {path}")
            fcntl.flock(f, fcntl.LOCK_EX)
        yield f.fileno()
