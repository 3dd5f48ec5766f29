from pathlib import Path

import pytest
from hypothesis import settings

from vlm4vla.bench import install

# A slow machine is no finding, and what fails here must fail everywhere.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


LONG = ("test_end_to_end.py", "test_libero_sim.py", "test_calvin_sim.py", "test_simpler_sim.py", "test_on_ray.py")
"""Files that take minutes. They go first, or a process would still be at one when the others have nothing left."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session")
def metaworld_env() -> Path:
    """Python interpreter of the metaworld benchmark's environment, installed first where it is absent."""
    install.install("metaworld", print)
    return install.python_of("metaworld")
