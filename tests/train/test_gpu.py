"""What only a GPU can show: the tiny preset acts as on the CPU, and a run trains there in bf16."""

from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_run import SyntheticReader, train_config

from vlm4vla.policy import Policy
from vlm4vla.train import run
from vlm4vla.types import Observation

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")]


def test_actions_agree_with_the_cpu(store: Path, tmp_path: Path) -> None:
    run.train(train_config(store, tmp_path / "run", steps=2))
    policy = Policy.load(tmp_path / "run" / "policy")
    episode = SyntheticReader().episode(0)
    seen = [Observation({"front": episode.images["front"][i]}, episode.instruction) for i in range(4)]
    on_cpu = policy.act(seen, tokens=40)
    on_gpu = policy.to("cuda").act(seen, tokens=40)
    np.testing.assert_allclose(on_gpu[..., :3], on_cpu[..., :3], atol=1e-3)


def test_a_run_trains_in_bf16(store: Path, tmp_path: Path) -> None:
    record = run.train(train_config(store, tmp_path / "run", steps=4, precision="bf16"))
    assert record.hardware["device"].startswith("cuda")
