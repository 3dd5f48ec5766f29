"""Every family: a sharded folder of transformers becomes a policy, learns a step, is saved and reloads bit-equal."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vlm4vla import anatomy, registry
from vlm4vla.backbones import conformance, loading
from vlm4vla.policy import Policy
from vlm4vla.types import Observation

CASES = [(name, preset) for name in registry.names("backbones") for preset in conformance.tiny_presets(name)]


@pytest.mark.parametrize(("family", "preset"), CASES, ids=["-".join(case) for case in CASES])
def test_a_folder_becomes_a_policy_that_learns_and_reloads(family: str, preset: str, tmp_path: Path) -> None:
    source = conformance.tiny(family, preset)
    source.model.save_pretrained(tmp_path / "vlm", max_shard_size="2MB")
    source.processor.tokenizer.save_pretrained(tmp_path / "vlm")
    assert len(list((tmp_path / "vlm").glob("*.safetensors"))) > 1
    config = source.config.model_copy(update={"checkpoint": str(tmp_path / "vlm"), "init": "pretrained"})
    policy = Policy(*anatomy.parts(config, 4, loading.load(config, 1, seed=9))).train()

    size = policy.image_size
    seen = [Observation({"front": image}, "open it", None) for image in conformance.pictures(2, size)]
    batch = policy.preparer.collate([policy.preparer.prepare(o.images, o.instruction, None) for o in seen])
    generator = torch.Generator().manual_seed(3)
    batch["actions"] = torch.rand(2, 4, policy.action_spec.size, generator=generator) * 2 - 1
    batch["mask"] = torch.ones(2, 4, dtype=torch.bool)
    batch["noise"] = torch.zeros(2, dtype=torch.int64)
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-3)
    torch.manual_seed(0)  # Kosmos-2 drops out in training
    policy(batch)[0].backward()
    optimizer.step()
    moved = {name for name, p in policy.named_parameters() if not torch.equal(p, before[name])}
    for group, parameters in policy.backbone.groups().items():
        names = {n for n, p in policy.named_parameters() if any(p is q for q in parameters)}
        assert names & moved, f"group {group} did not learn"
    assert "query_QD" in moved

    policy.eval().save_pretrained(tmp_path / "policy")
    again = Policy.from_pretrained(tmp_path / "policy")
    assert np.array_equal(again.act(seen, tokens=60), policy.act(seen, tokens=60))
    assert again.digest == policy.digest

    policy.save_vlm(tmp_path / "tuned")  # another training run can start from it
    start = config.model_copy(update={"checkpoint": str(tmp_path / "tuned")})
    handed = loading.load(start, 1, seed=1).model.state_dict()
    own = policy.backbone.model.state_dict()
    assert handed.keys() == own.keys() and all(torch.equal(handed[name], own[name]) for name in own)
