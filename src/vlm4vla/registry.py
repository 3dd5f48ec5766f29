"""``find(room, name)``: the name is the path. The folder of a room is the list of what it holds; nobody edits a table.

A room is a sub-package (``backbones``, ``heads``, ``bench``, ``data.readers``, ``data.writers``). An inhabitant is a
module of it (``heads/regression.py``) or, for benchmarks, a folder with an ``env.py``. Other distributions add theirs
through entry points of the group ``vlm4vla.<room>``, each naming a module.
"""

import importlib
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from vlm4vla.types import refuse

_ROOT = Path(__file__).parent
_NOT_INHABITANTS = {"__init__", "answers", "base", "conformance", "families", "loading", "processor"}


def names(room: str) -> list[str]:
    """Sorted names that ``find`` accepts for a room, those of other distributions included."""
    folder = _ROOT.joinpath(*room.split("."))
    if not folder.is_dir():
        raise AssertionError(f"no room {room!r}")
    modules = {f.stem for f in folder.glob("*.py") if f.stem not in _NOT_INHABITANTS and not f.stem.startswith("_")}
    if room == "bench":
        modules = {f.parent.name for f in folder.glob("*/env.py")}
    return sorted(modules | {e.name for e in entry_points(group=f"vlm4vla.{room}")})


def find(room: str, name: str) -> ModuleType:
    """Import the module behind ``name``; a four-part error when there is none."""
    if name not in names(room):
        raise refuse(
            f"Unknown name {name!r} in {room!r}",
            given=name,
            possible=names(room),
            todo=f"Use one of these, or add src/vlm4vla/{room.replace('.', '/')}/{name}; ARCHITECTURE.md says how.",
        )
    for entry in entry_points(group=f"vlm4vla.{room}"):
        if entry.name == name:
            module = entry.load()
            assert isinstance(module, ModuleType), f"entry point {name} of vlm4vla.{room} must name a module"
            return module
    return importlib.import_module(f"vlm4vla.{room}.{name}" + (".env" if room == "bench" else ""))
