"""Files that a simulator needs and no package brings: scenes, meshes, recorded starts. Standard library only.

A benchmark that needs some has an ``assets.json``: ``required`` (paths that must be there) and ``official`` (where the
authors publish them: git repository, commit, the paths to take, the folder that these are relative to (``from``; none:
the repository's root) and the folder they go into). The setting is one link,
``$VLM4VLA_HOME/assets/NAME``: to a folder that the user names, or to what was fetched from the official source.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlm4vla import registry
from vlm4vla.bench.install import home
from vlm4vla.types import UserError, refuse

Log = Callable[[str], None]


def folder(name: str) -> Path:
    """The benchmark's asset folder; refuses one that is not set, gone, or incomplete."""
    link = _link(name)
    if not link.is_dir():
        raise refuse(
            f"The assets of {name!r} are not set" + (f": {link} leads nowhere" if link.is_symlink() else ""),
            possible="a folder that has them, or a download from the authors' repositories",
            todo=f"Run `vlm4vla bench install {name} --assets FOLDER`, or without --assets to download them.",
        )
    _check(name, link)
    return link.resolve()


def needs_any(name: str) -> bool:
    return _plan(name) is not None


def provide(name: str, given: Path | None, log: Log) -> None:
    """Set the assets to ``given``, keep those that are set, or fetch the official ones; nothing without a plan."""
    if not needs_any(name):
        if given is not None:
            raise refuse(f"{name!r} needs no assets", possible="no --assets", todo="Leave the option out.")
        return
    if given is not None:
        _check(name, given)
        _set(name, given.resolve())
        log(f"{name}: assets from {given.resolve()}")
    elif _link(name).is_dir():
        _check(name, _link(name))
        log(f"{name}: assets from {_link(name).resolve()}")
    else:
        _set(name, _fetch(name, log))


def _fetch(name: str, log: Log) -> Path:
    """Take the official files into a folder beside the link; a part that fails leaves nothing behind."""
    final = home() / "assets" / f".{name}-official"
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    plan = _plan(name)
    assert plan is not None
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=f".{name}-") as work:
        whole = Path(work) / "whole"
        for number, source in enumerate(plan["official"]):
            log(f"{name}: fetching {', '.join(source['paths'])} of {source['git']} at {source['commit'][:12]}")
            clone, root = Path(work) / str(number), source.get("from", ".")
            wanted = [(Path(root) / path).as_posix() for path in source["paths"]]
            _git(["init", "--quiet", str(clone)], source)
            _git(["-C", str(clone), "remote", "add", "origin", source["git"]], source)
            _git(["-C", str(clone), "sparse-checkout", "set", "--no-cone", *wanted], source)
            depth = ["--quiet", "--depth", "1", "--filter=blob:none", "origin", source["commit"]]
            _git(["-C", str(clone), "fetch", *depth], source)
            _git(["-C", str(clone), "checkout", "--quiet", "FETCH_HEAD"], source)
            for path in source["paths"]:
                target = whole / source["into"] / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(clone / root / path, target)
        _check(name, whole)
        whole.rename(final)
    return final


def _git(words: list[str], source: dict[str, Any]) -> None:
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"The assets cannot be fetched from {source['git']}: {last}. "
            "Check the network, or fetch them on another machine and give the folder with --assets."
        )


def _check(name: str, found: Path) -> None:
    plan = _plan(name)
    assert plan is not None
    missing = [path for path in plan["required"] if not (found / path).exists()]
    if missing:
        raise refuse(
            f"{found} does not hold the assets of {name!r}: {missing[0]} is missing"
            + (f", and {len(missing) - 1} more" if len(missing) > 1 else ""),
            possible="a folder with " + ", ".join(plan["required"][:4]) + (" ..." if len(plan["required"]) > 4 else ""),
            todo="Give the folder that holds all of them.",
        )


def _set(name: str, target: Path) -> None:
    link = _link(name)
    link.parent.mkdir(parents=True, exist_ok=True)
    partial = link.with_name(f".{name}.{os.getpid()}.part")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target, target_is_directory=True)
    partial.replace(link)


def _link(name: str) -> Path:
    return home() / "assets" / name


def _plan(name: str) -> dict[str, Any] | None:
    path = registry.find("bench", name).__file__
    assert path is not None
    file = Path(path).parent / "assets.json"
    plan: dict[str, Any] | None = json.loads(file.read_text()) if file.is_file() else None
    return plan
