"""A loop that does something else than its settings say leaves facts that the audit holds against it."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic_run import train_config, train_on_two_processes

from vlm4vla import provenance, records
from vlm4vla.records import RunRecord
from vlm4vla.schemas import TrainConfig
from vlm4vla.study.audit_facts import TRAINED
from vlm4vla.train import checkpoint, loop, run, schedule
from vlm4vla.types import UserError

OPTIMIZER = {"lr": 5e-4, "warmup_steps": 2, "clip_norm": 1e-3, "schedule": "cosine", "weight_decay": 0.01}


def configured(store: Path, out: Path, **changes: Any) -> TrainConfig:
    return train_config(store, out, **{"steps": 5, "optimizer": OPTIMIZER, "batch": 4, "precision": "bf16", **changes})


def faults(config: TrainConfig, record: RunRecord) -> set[str]:
    """Facts that are not what the audit expects of the settings."""
    told = {name: fact.expected(config) for name, fact in TRAINED.items() if fact.expected is not None}
    return {name for name, value in told.items() if record.facts[name] != value}


def cut_off_after(step: int, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run to the checkpoint of that step, and no further."""
    save = checkpoint.save

    def stop(*arguments: Any) -> None:
        save(*arguments)
        if arguments[3] == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", stop)
        run.train(config)


def test_a_run_that_was_cut_off_has_the_facts_of_a_whole_one(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = configured(store, tmp_path / "whole"), configured(store, tmp_path / "parts")
    one = run.train(whole)
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "source_state", lambda: ("c1", True))
        cut_off_after(2, parts, monkeypatch)
        patch.setattr(provenance, "source_state", lambda: ("c2", False))
        cut_off_after(4, parts, monkeypatch)
        two = run.train(parts)
    assert not faults(whole, one) and not faults(parts, two)
    own = {"commits", "resumed_from_step", "peak_memory_gib"}
    assert {k: v for k, v in one.facts.items() if k not in own} == {k: v for k, v in two.facts.items() if k not in own}
    assert two.facts["commits"] == ["c1 with uncommitted changes", "c2"] and two.facts["resumed_from_step"] == 4


def test_steps_that_a_resumed_run_skips_are_missed(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(store, tmp_path / "run")
    cut_off_after(2, config, monkeypatch)
    restore = checkpoint.restore

    def later(*arguments: Any) -> Any:
        step, did = restore(*arguments)
        return step + 1, did

    monkeypatch.setattr(checkpoint, "restore", later)
    record = run.train(config)
    assert faults(config, record) == {"samples_seen", "checkpoint_step"} and record.facts["samples_seen"] == 4 * 4


def test_clipping_that_does_nothing_is_seen(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is asked to clip: what counts is the gradient that the optimizer meets."""
    config = configured(store, tmp_path / "run")
    monkeypatch.setattr(loop.nn.utils, "clip_grad_norm_", lambda parameters, limit: torch.tensor(1.0))
    record = run.train(config)
    assert faults(config, record) == {"clip_norm"} and record.facts["clip_norm"] is None


def test_rates_decay_and_type_are_those_of_the_steps(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(store, tmp_path / "run")
    set_rates = schedule.set_rates

    def doubled(optimizer: torch.optim.Optimizer, *arguments: Any) -> float:
        rate = set_rates(optimizer, *arguments)
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = 1e-3, 0.0
        return rate

    monkeypatch.setattr(schedule, "set_rates", doubled)
    monkeypatch.setattr(loop.torch, "autocast", lambda *_, **__: nullcontext())
    record = run.train(config)
    assert faults(config, record) == {"learning_rate", "warmup_steps", "schedule", "weight_decay", "precision"}
    found = [record.facts[name] for name in ("learning_rate", "schedule", "weight_decay", "precision")]
    assert found == [1e-3, "constant", [0.0], "fp32"]


def test_a_value_that_changed_on_the_way_is_told_with_all_its_values(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(store, tmp_path / "run", batch=4)
    batches = loop._batches

    def cut(*arguments: Any) -> Any:
        for place, (count, batch) in enumerate(batches(*arguments)):
            yield count - (place == 3), batch

    monkeypatch.setattr(loop, "_batches", cut)
    record = run.train(config)
    assert faults(config, record) == {"batch", "samples_seen"} and record.facts["batch"] == [4, 3]


def test_samples_are_those_of_all_processes(store: Path, tmp_path: Path) -> None:
    config = configured(store, tmp_path / "two", steps=2, precision="fp32")
    train_on_two_processes(config, tmp_path / "two.yaml")
    record = records.read_one(config.out / "run.json", RunRecord)
    assert not faults(config, record) and record.facts["samples_seen"] == 2 * 4
    assert record.hardware["processes"] == 2


def test_a_checkpoint_without_counts_is_refused(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(store, tmp_path / "run")
    cut_off_after(2, config, monkeypatch)
    state = torch.load(config.out / "state.pt", weights_only=True)
    del state["did"]
    torch.save(state, config.out / "state.pt")
    with pytest.raises(UserError, match="did not note what its steps did"):
        run.train(config)
