"""What only a GPU can show: the tiny preset acts as on the CPU, and a run trains there in bf16."""

from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_run import SyntheticReader, train_config

from vlm4vla import registry
from vlm4vla.backbones import conformance
from vlm4vla.policy import Policy
from vlm4vla.train import run
from vlm4vla.types import Observation

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")]


def test_actions_agree_with_the_cpu(store: Path, tmp_path: Path) -> None:
    run.train(train_config(store, tmp_path / "run", steps=2))
    policy = Policy.from_pretrained(tmp_path / "run" / "policy")
    episode = SyntheticReader().episode(0)
    seen = [Observation({"front": episode.images["front"][i]}, episode.instruction) for i in range(4)]
    on_cpu = policy.act(seen, tokens=40)
    on_gpu = policy.to("cuda").act(seen, tokens=40)
    np.testing.assert_allclose(on_gpu[..., :3], on_cpu[..., :3], atol=1e-3)


@pytest.mark.parametrize("family", registry.names("backbones"))
def test_tiny_presets_agree_with_the_cpu(family: str) -> None:
    backbone = conformance.tiny(family)
    batch = conformance.batch_of(backbone, conformance.pictures(2), ["open it", "close the drawer"])
    query = conformance.query(backbone)
    on_cpu = backbone.readout(batch, query).detach()
    on_gpu = backbone.cuda().readout({k: v.cuda() for k, v in batch.items()}, query.cuda()).detach().cpu()
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-3, rtol=1e-3)


def test_a_run_trains_in_bf16(store: Path, tmp_path: Path) -> None:
    record = run.train(train_config(store, tmp_path / "run", steps=4, precision="bf16"))
    assert record.hardware["device"].startswith("cuda")
    assert record.hardware["gpu"] == torch.cuda.get_device_name()
