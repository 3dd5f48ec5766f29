from pathlib import Path

import pytest

from vlm4vla.bench import install


@pytest.fixture(scope="session")
def metaworld_env() -> Path:
    """Python interpreter of the metaworld benchmark's environment, installed first where it is absent."""
    install.install("metaworld", print)
    return install.python_of("metaworld")
