"""The synthetic study folder that the report's tests share."""

from pathlib import Path

import pytest
from synthetic_study import make_study


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("study"))
