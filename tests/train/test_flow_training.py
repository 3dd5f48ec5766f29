"""A policy that draws: the same training whatever the processes and stops, the same rows whoever they are beside."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from synthetic_run import SPEC, SyntheticReader, train_config, train_on_two_processes

from vlm4vla.data.normalize import Normalizer
from vlm4vla.policy import Facts, Policy
from vlm4vla.rollout.server import PolicyServer
from vlm4vla.rollout.wire import PolicyClient
from vlm4vla.schemas import NormalizerConfig, TrainConfig
from vlm4vla.train import checkpoint, run
from vlm4vla.types import Observation

HEAD = {"name": "flow", "width": 32, "depth": 1, "attention_heads": 2, "euler_steps": 4}


def flow_config(store: Path, out: Path, **changes: object) -> TrainConfig:
    settings = train_config(store, out, **changes).model_dump()
    settings["policy"]["head"] = HEAD
    return TrainConfig.model_validate(settings)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "policy" / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    wa, wb = weights(a), weights(b)
    return wa.keys() == wb.keys() and all(torch.equal(wa[k], wb[k]) for k in wa)


def test_a_run_that_stops_goes_on_bit_exactly(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = tmp_path / "whole" / "train", tmp_path / "parts" / "train"
    run.train(flow_config(store, whole, steps=6))
    save = checkpoint.save

    def save_and_stop(*arguments: object) -> None:
        save(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", save_and_stop)
        run.train(flow_config(store, parts, steps=6))
    torch.manual_seed(99)  # nothing follows from what was drawn before
    assert run.train(flow_config(store, parts, steps=6)).facts["resumed_from_step"] == 2
    assert same(whole, parts)
    other = tmp_path / "other" / "train"
    run.train(flow_config(store, other, steps=6, seed=1))
    assert not same(whole, other)


def test_two_processes_draw_as_one(store: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one" / "train", tmp_path / "two" / "train"
    run.train(flow_config(store, one, steps=3))
    train_on_two_processes(flow_config(store, two, steps=3), tmp_path / "two.yaml")
    a, b = weights(one), weights(two)
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-4, rtol=1e-3)


def made() -> Policy:
    config = flow_config(Path("s"), Path("o")).policy
    normalizer = Normalizer.fit(SPEC, None, NormalizerConfig(kind="limits"))
    return Policy.create(config, Facts(SPEC, normalizer, ("x", "y"), (0.5, 0.5), (0.2, 0.2), {}), seed=3).eval()


def observations(*noises: int) -> list[Observation]:
    episode = SyntheticReader().episode(1)
    return [Observation({"front": episode.images["front"][i]}, "push", None, n) for i, n in enumerate(noises)]


def test_the_saved_policy_acts_as_the_one_that_was_saved(tmp_path: Path) -> None:
    policy = made()
    policy.save_pretrained(tmp_path / "policy")
    again, seen = Policy.from_pretrained(tmp_path / "policy"), observations(5, 2**63 - 1, 0)
    assert again.noisy and again.config.head == policy.config.head
    assert np.array_equal(again.act(seen, tokens=40), policy.act(seen, tokens=40))
    assert "Head: `flow`" in (tmp_path / "policy" / "README.md").read_text()


def test_a_row_is_its_observations_alone() -> None:
    policy, seen = made(), observations(1, 2, 3, 4)
    together = policy.act(seen, tokens=40)
    for i in range(4):
        assert np.array_equal(policy.act([seen[i], seen[0], seen[0], seen[0]], tokens=40)[0], together[i])
    again = [Observation(o.images, o.instruction, None, o.noise + 10) for o in seen]
    assert not np.array_equal(policy.act(again, tokens=40), together)


def test_a_server_answers_alike_in_any_company() -> None:
    policy = made()
    requests = [
        {"observation/image": o.images["front"], "prompt": o.instruction, "vlm4vla/noise": o.noise}
        for o in observations(1, 2, 3)
    ]
    with PolicyServer(policy, batch=2, tokens=None) as server, PolicyClient(server.uri, 60.0) as client:
        answers = [client.infer(request)["actions"] for request in requests]
        with PolicyClient(server.uri, 60.0) as other:
            backwards = [other.infer(request)["actions"] for request in reversed(requests)]
            plain = {key: value for key, value in requests[0].items() if key != "vlm4vla/noise"}
            twice = [client.infer(plain)["actions"], other.infer(plain)["actions"]]
    assert all(np.array_equal(a, b) for a, b in zip(answers, reversed(backwards), strict=True))
    assert np.array_equal(*twice), "without noise the answer follows from the picture"
