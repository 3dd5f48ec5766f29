"""The synthetic store, built once."""

from pathlib import Path

import pytest
from synthetic_run import SyntheticReader

from vlm4vla.data import build


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("store") / "store"
    build.build(SyntheticReader(), out, image_size=96, encoding="png")
    return out
