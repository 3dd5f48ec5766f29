"""The simulator's packages, imported without a question, a download, or a file of theirs outside our folders.

Importing this raises UserError where the assets are missing, RunFailed where mujoco is not the pinned version.
"""

import hashlib
import importlib
import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from vlm4vla.bench import assets
from vlm4vla.bench.libero import render  # noqa: F401 (sets the OpenGL backend before mujoco loads)
from vlm4vla.types import RunFailed

import mujoco  # isort: skip

_BENCH = "libero"
_HERE = Path(__file__).parent


def _must_be_pinned() -> None:
    """Another mujoco runs and throws things about without an error (3.4 and later), or draws other pictures."""
    (pinned,) = re.findall(r"^mujoco==(.+)$", (_HERE / "requirements.txt").read_text(), re.MULTILINE)
    if mujoco.__version__ != pinned:
        raise RunFailed(
            f"This is mujoco {mujoco.__version__}, and LIBERO is evaluated under {pinned}: from 3.4 on its objects fly "
            "off at the start, without an error, and pictures differ from 3.3.3 on. Run `vlm4vla bench install "
            "libero`, which brings the right one."
        )


def _folder_of(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {package!r}")
    return Path(found.submodule_search_locations[0])


def _answer_its_question() -> None:
    """LIBERO's first import asks on the terminal for a folder unless it finds its configuration: give it an empty one.

    Nothing here reads that file: the paths below are taken from the package.
    """
    folder = Path(sys.prefix) / "libero-config"
    folder.mkdir(exist_ok=True)
    file = folder / "config.yaml"
    if not file.is_file():
        partial = folder / f".{os.getpid()}.part"
        partial.write_text("{}\n")
        partial.replace(file)
    os.environ["LIBERO_CONFIG_PATH"] = str(folder)


def _quiet_robosuite() -> None:
    """robosuite logs to /tmp/robosuite.log, which a second user of the machine cannot open, and that stops its import.

    Its settings module is loaded first, changed, and found by robosuite when it wants it.
    """
    name = "robosuite.macros"
    found = importlib.util.spec_from_file_location(name, _folder_of("robosuite") / "macros.py")
    assert found is not None and found.loader is not None
    macros: Any = importlib.util.module_from_spec(found)
    found.loader.exec_module(macros)
    macros.FILE_LOGGING_LEVEL, macros.CONSOLE_LOGGING_LEVEL = None, "ERROR"
    sys.modules[name] = macros


_must_be_pinned()
if "robosuite" not in sys.modules:
    _quiet_robosuite()
_answer_its_question()
_libero: Any = importlib.import_module("libero.libero")
_libero._assets_path_cache = str(assets.folder(_BENCH) / "assets")
_wrapper: Any = importlib.import_module("libero.libero.envs.env_wrapper")
ControlEnv: Any = _wrapper.ControlEnv
RandomizationError: type[Exception] = _wrapper.RandomizationError
"""Raised by a reset in which something found no free place."""
FOLDER = Path(_libero.__file__).parent
"""The package's own data: ``bddl_files/SUITE/NAME.bddl`` and ``init_files/SUITE/NAME.pruned_init``."""


def describe_assets() -> str:
    """Whether the files that are known to be hard to come by are the originals, by their git hashes."""
    plan = json.loads((_HERE / "assets.json").read_text())
    known: dict[str, str] = plan["git_ids_of_often_replaced_files"]
    folder = assets.folder(_BENCH)
    replaced = [path for path, git_id in known.items() if _git_id(folder / path) != git_id]
    if not replaced:
        return "original"
    return f"{len(replaced)} visual stand-ins: not comparable with published results"


def _git_id(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
