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


@pytest.fixture(autouse=True)
def _on_the_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit-exactness and golden numbers are promises for the CPU: hide a GPU, except from the tests marked ``gpu``."""
    if "gpu" not in request.keywords:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
