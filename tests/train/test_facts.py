"""What a training run records for the audit is what it did, and what its settings let expect."""

from pathlib import Path

import pytest
from synthetic_run import train_config

from vlm4vla.data.mixture import Mixture
from vlm4vla.data.order import Order
from vlm4vla.policy import Policy
from vlm4vla.study.audit_facts import TRAINED
from vlm4vla.study.audit_settings import NATIVE
from vlm4vla.train import facts, run
from vlm4vla.train.did import Did


def test_a_run_records_what_its_settings_let_expect(store: Path, tmp_path: Path) -> None:
    optimizer = {"lr": 3e-4, "warmup_steps": 5, "clip_norm": 0.0, "weight_decay": 0.01}
    data = {"store": store, "augment": {"crop": 0.81}}
    config = train_config(
        store, tmp_path / "run", steps=2, optimizer=optimizer, data=data, freeze=["vision"], precision="bf16"
    )
    found = run.train(config).facts
    expected = {name: told.expected(config) for name, told in TRAINED.items() if told.expected is not None}
    assert {name: found[name] for name in expected} == expected
    assert set(TRAINED) <= set(found) and {*NATIVE} - {"parameters", "trainable"} <= set(found)
    assert found["learning_rate"] == pytest.approx(3e-4 * 2 / 5)  # the warm-up was cut short
    assert (found["warmup_steps"], found["clip_norm"], found["center_crop"]) == (2, None, 0.81)
    policy = Policy.from_pretrained(config.out / "policy")
    assert policy.about == {
        "center_crop": 0.81, "normalizer": {"kind": "limits", "clip": 1.0}, "chunk": 4, "checkpoint_step": 2,
    }  # fmt: skip


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen3_vl_moe", "kosmos2"])
def test_operations_are_those_of_the_layers(store: Path, tmp_path: Path, family: str) -> None:
    """Whichever kernel computes the attention; the weights of a layer are used once per token, in two operations."""

    def counted(attention: str) -> tuple[int, Policy, int]:
        backbone = {"family": family, "checkpoint": "preset:tiny", "init": "scratch", "attention": attention}
        policy = {"backbone": backbone | {"image_size": 96}, "chunk": 4, "cameras": ["front"]}
        config = train_config(store, tmp_path / "run", policy=policy | {"normalizer": {"kind": "limits"}})
        mixture = Mixture.open(config.data.sources)
        _, made = run.objective_of(config, mixture)
        found = facts.of_run(config, made, mixture, run._samples(config, mixture), Did(rates=[1e-4]))
        return found["flops_per_sample"], made, found["tokens_per_sample"]

    eager, policy, tokens = counted("eager")
    assert counted("sdpa")[0] == eager
    text = policy.backbone.model_config.get_text_config()
    used = getattr(text, "num_experts_per_tok", 1) / getattr(text, "num_experts", 1)
    language = 0.0
    for name, p in policy.backbone.model.named_parameters():
        if policy.backbone.family.group_of(name) == "language" and p.ndim > 1:
            language += p.numel() * (used if ".experts." in name else 1)
    every = sum(p.numel() for p in policy.parameters()) * max(tokens, 50)  # patches of a picture
    assert 2 * language * tokens < eager < 2 * every


def test_another_order_of_samples_has_another_name() -> None:
    def digest(seed: int, length: int = 9000, seen: int = 20_000) -> str:
        return facts.order_digest(Order.of_one(length, seed), seen)

    assert digest(0) == digest(0)
    assert len({digest(0), digest(1), digest(0, length=9001), digest(0, seen=30_000), digest(0, seen=40)}) == 5
