"""Which files tasks need beside those that every installation has. Standard library only: both environments ask."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm4vla.bench import assets
from vlm4vla.bench.libero.tasks import SUITE_OF
from vlm4vla.types import refuse

_BENCH = "libero"
_SUITE = "libero_90"
_THINGS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "assets.json").read_text())["only_libero_90"]


def models(task: str) -> tuple[str, ...]:
    """The model files that ``task`` needs and ``required`` of ``assets.json`` does not list. Its scene decides."""
    if SUITE_OF[task] != _SUITE:
        return ()
    (scene,) = re.findall(r"^\w+?SCENE\d+", task)
    return tuple(thing["model"] for thing in _THINGS.values() if scene in thing["scenes"])


def must_have_assets(tasks: Sequence[str]) -> None:
    """Refuse tasks with things whose files are not there, all of them at once."""
    wanted = dict.fromkeys(model for task in tasks for model in models(task))
    if not wanted:
        return
    folder = assets.folder(_BENCH)
    missing = {model: gone for model in wanted if (gone := _missing(folder, model))}
    if missing:
        files = [file for gone in missing.values() for file in gone]
        lacking = [task for task in tasks if not missing.keys().isdisjoint(models(task))]
        others = [task for task in tasks if task not in lacking]
        raise refuse(
            f"{folder} does not hold {', '.join(files)}, needed by {', '.join(lacking)}",
            possible=others or "the assets of LIBERO's own repository, which are whole",
            todo=f"Add the files (`vlm4vla bench install {_BENCH} --assets FOLDER` sets a folder), or leave tasks out "
            f"({len(lacking)} of {len(tasks)}): name others with --tasks.",
        )


def must_be_whole(task: str) -> None:
    """Refuse when a file that ``task`` needs, or that every installation has, is not there any more."""
    assets.folder(_BENCH)
    must_have_assets((task,))


def _missing(folder: Path, model: str) -> list[str]:
    """Files of a thing that are not there, relative to ``folder``: its model, or meshes and textures that it names."""
    file = folder / model
    if not file.is_file():
        return [model]
    parts = re.findall(r'file="([^"]+)"', file.read_text())
    paths = [os.path.normpath(Path(model).parent / part) for part in parts]
    return [path for path in dict.fromkeys(paths) if not (folder / path).is_file()]
