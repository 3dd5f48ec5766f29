"""Recordings of an original simulator, replayed in ours: ``vlm4vla bench replay``. Standard library only.

A benchmark that can do it has a ``replay.py`` with ``replay(path) -> dict`` (keys ``file``, ``ok``, ``text`` and what
it compared), which runs in the benchmark's own environment.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm4vla.bench.install import folder_of, link_folder, python_of
from vlm4vla.types import RunFailed, UserError, refuse

_REFUSED = 3
# The answer goes into a file: simulators print.
_SCRIPT = """
import importlib, json, sys
link, name, answer, refused, *files = sys.argv[1:]
sys.path.insert(0, link)
from vlm4vla.registry import find
from vlm4vla.types import UserError
module = importlib.import_module(find("bench", name).__package__ + ".replay")
try:
    found, status = [module.replay(file) for file in files], 0
except UserError as error:
    found, status = str(error), int(refused)
with open(answer, "w") as f:
    json.dump(found, f)
sys.exit(status)
"""


def replay(name: str, files: Sequence[Path]) -> list[dict[str, Any]]:
    """Replay each recording; UserError where the benchmark cannot, or a file is not a recording."""
    if not (folder_of(name) / "replay.py").is_file():
        raise refuse(f"{name!r} has no recordings to replay", todo="Choose a benchmark that has a replay.py.")
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise refuse(f"There is no file {missing[0]}", todo="Give recordings.")
    python = python_of(name)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        words = [str(python), "-I", "-c", _SCRIPT, str(link_folder()), name, str(answer), str(_REFUSED)]
        words += [str(file.absolute()) for file in files]
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=os.environ
        )
        if done.returncode not in (0, _REFUSED) or not answer.is_file():
            last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
            raise RunFailed(f"The simulator of {name!r} ended with {done.returncode} during a replay:\n{last}")
        found = json.loads(answer.read_text())
    if done.returncode == _REFUSED:
        raise UserError(found)
    replayed: list[dict[str, Any]] = found
    return replayed
