"""The benchmark's own environment for the tests of this folder, with the published files."""

from pathlib import Path

import pytest

from vlm4vla.bench import assets, install
from vlm4vla.types import UserError

SHARED = Path(__file__).parents[2].parent / "shared/assets"


def calvin_python() -> Path:
    """Interpreter of the environment, installed first where it is absent; skips where the published files are."""
    try:
        assets.folder("calvin")
    except UserError:
        if not (SHARED / "calvin").is_dir():
            pytest.skip(f"{SHARED / 'calvin'}, the published files, is missing")
        assets.provide("calvin", SHARED / "calvin", print)
    install.install("calvin", print)
    return install.python_of("calvin")
