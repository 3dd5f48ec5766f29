"""The name of a data set's content: what readers answer to ``digest()``."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_WHOLE = 2**30  # bytes: up to here a data set is read whole, in seconds


def digest(root: Path, settings: Any, index: Iterable[Path], data: Iterable[Path]) -> str:
    """SHA-256 (hex) over settings (plain JSON data), the contents of ``index`` files and the ``data`` files.

    Data files count with their contents up to 1 GiB in all; beyond that with names and sizes only, so that a change
    of a large file that keeps its size is not seen.
    """
    whole = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    files = sorted(data)
    small = sum(f.stat().st_size for f in files) <= _WHOLE
    for file, contents in [*((f, True) for f in sorted(index)), *((f, small) for f in files)]:
        name = file.relative_to(root).as_posix()  # links stay: in a Hugging Face cache every file is one
        if contents:
            with file.open("rb") as f:
                said = hashlib.file_digest(f, "sha256").hexdigest()
        else:
            said = str(file.stat().st_size)
        whole.update(f"{name} {said}\n".encode())
    return whole.hexdigest()
