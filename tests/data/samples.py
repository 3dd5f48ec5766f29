"""Where the recorded robot data is that some tests read."""

from pathlib import Path

import pytest


def robot_data(name: str) -> Path:
    """A folder of ``shared/assets/robot_data`` beside the checkout; the test is skipped where it is absent."""
    folder = Path(__file__).parents[2].parent / "shared/assets/robot_data" / name
    if not folder.is_dir():
        pytest.skip(f"the recorded data {name!r} is not in shared/assets/robot_data beside the checkout")
    return folder
