from pathlib import Path

import pytest
from hypothesis import settings

from vlm4vla.bench import install

# A slow machine is no finding, and what fails here must fail everywhere.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def metaworld_env() -> Path:
    """Python interpreter of the metaworld benchmark's environment, installed first where it is absent."""
    install.install("metaworld", print)
    return install.python_of("metaworld")
