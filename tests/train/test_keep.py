"""Policies of intermediate steps: those of a run that ends there, kept through a kill."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from synthetic_run import train_config

from vlm4vla.policy import Policy
from vlm4vla.train import loop, run
from vlm4vla.types import UserError


def same(a: Path, b: Path) -> bool:
    one, other = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_kept_policy_is_that_of_a_run_which_ends_there(store: Path, tmp_path: Path) -> None:
    config = train_config(store, tmp_path / "long", keep=[3, 4])
    record = run.train(config)
    short = train_config(store, tmp_path / "short", steps=4)
    run.train(short)
    assert same(config.policy_at(4), short.policy_at(4)) and not same(config.policy_at(4), config.policy_at(6))
    for step in (3, 4):
        policy = Policy.from_pretrained(config.policy_at(step))
        assert policy.digest == record.facts["kept"][str(step)] != record.inputs["policy"]
        assert policy.facts.provenance["steps"] == step and policy.facts.provenance["of_steps"] == 6
    assert Policy.from_pretrained(config.policy_at(6)).facts.provenance["steps"] == 6


def test_keeping_changes_no_weight_and_a_kill_loses_none(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, killed = train_config(store, tmp_path / "plain"), train_config(store, tmp_path / "killed", keep=[4])
    run.train(plain)

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # after the policy of step 4 is kept, before its checkpoint is stored
        stored = loop.checkpoint.save
        patch.setattr(loop.checkpoint, "save", lambda *a: cut_off() if a[3] == 4 else stored(*a))
        with pytest.raises(KeyboardInterrupt):
            run.train(killed)
    (killed.policy_at(4) / "model.safetensors").unlink()  # whatever state it was left in, it is written again
    record = run.train(killed)
    assert record.facts["resumed_from_step"] == 2
    assert same(plain.policy_at(6), killed.policy_at(6))
    digest = json.loads((killed.policy_at(4) / "policy.json").read_text())["digest"]
    assert Policy.from_pretrained(killed.policy_at(4)).digest == digest == record.facts["kept"]["4"]


def test_other_steps_to_keep_are_another_run(store: Path, tmp_path: Path) -> None:
    run.train(train_config(store, tmp_path / "run", keep=[2]))
    with pytest.raises(UserError, match="finished run with other settings"):
        run.train(train_config(store, tmp_path / "run", keep=[2, 4]))


@pytest.mark.parametrize("keep", [[6], [7], [4, 2], [2, 2], [0]])
def test_steps_that_cannot_be_kept_are_refused(keep: list[int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep"):
        train_config(tmp_path, tmp_path, keep=keep)
