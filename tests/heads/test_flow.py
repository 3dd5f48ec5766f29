"""The flow head: both modes of a choice, masks, rows that depend on their own seed alone, size, settings."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from vlm4vla import config as configs
from vlm4vla import registry
from vlm4vla.head_settings import FlowHeadConfig, HeadConfig
from vlm4vla.heads import flow, regression
from vlm4vla.schemas import PolicyConfig
from vlm4vla.types import ActionSpec, Dimension, UserError

ARM = [Dimension(n, "m", "delta", "world", -1, 1) for n in ("dx", "dy", "dz")]
SPEC = ActionSpec((*ARM, Dimension("gripper", "", "gripper", "gripper", -1, 1)), "none", 20)
SMALL = FlowHeadConfig(name="flow", width=64, depth=2, attention_heads=2, euler_steps=10)
PAPERS = {"Kosmos-2": (2048, 1.66e9), "Qwen3-VL-2B": (2048, 2.1e9), "PaliGemma": (2048, 2.9e9), "7B": (3584, 8.3e9)}


def head(width: int = 32, chunk: int = 4, queries: int = 1, spec: ActionSpec = SPEC) -> flow.Head:
    torch.manual_seed(0)
    return flow.Head(SMALL, width, queries, chunk, spec)


def seeds(first: int, count: int) -> Tensor:
    return torch.arange(first, first + count)


def fork(count: int, generator: torch.Generator) -> Tensor:
    """Chunks (B, 4, 4) that go left and close, or right and open, as chance will have it: the readout does not say."""
    side = torch.randint(0, 2, (count,), generator=generator) * 2.0 - 1
    chunk = torch.zeros(count, 4, 4)
    chunk[..., 0] = 0.7 * side[:, None]
    chunk[..., 3] = side[:, None]
    return chunk


def test_it_goes_left_or_right_where_regression_goes_between() -> None:
    torch.manual_seed(0)
    readout, mask = torch.randn(1, 1, 32), torch.ones(64, 4, dtype=torch.bool)
    chosen: dict[str, Tensor] = {}
    heads = {"flow": (head(), 200), "regression": (regression.Head(HeadConfig(), 32, 1, 4, SPEC), 25)}
    for name, (made, steps) in heads.items():
        optimizer = torch.optim.AdamW(made.parameters(), lr=2e-3)
        generator, losses = torch.Generator().manual_seed(1), []
        for step in range(steps):
            optimizer.zero_grad()
            loss = made.loss(readout.expand(64, 1, 32), fork(64, generator), mask, seeds(64 * step, 64)).loss
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert np.mean(losses[-10:]) < (0.5 if name == "flow" else 1.0) * losses[0]
        chosen[name] = made.eval().sample(readout.expand(200, 1, 32), range(200))
    assert float(chosen["regression"][..., 0].abs().max()) < 0.25, "the mean of both ways is neither"
    across = chosen["flow"][..., 0]
    right = across.mean(1) > 0
    assert 60 <= int(right.sum()) <= 140, "both ways are taken about equally often"
    assert float((across.abs() - 0.7).abs().mean()) < 0.1, "whole chunks go one way"
    assert float((chosen["flow"][..., 3] == torch.where(right, 1.0, -1.0)[:, None]).float().mean()) > 0.95
    assert float(chosen["flow"][..., 1].abs().mean()) < 0.1


def test_loss_is_the_squared_error_of_the_velocity() -> None:
    """Against numbers drawn and combined here, at the one time that a Beta at its edge leaves."""
    h = flow.Head(SMALL.model_copy(update={"time_beta": (1e-9, 1e9)}), 32, 1, 4, SPEC)  # time = 0.999 for all
    readout, actions = torch.randn(2, 1, 32), torch.rand(2, 4, 4) * 2 - 1
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    noise = np.stack([np.random.default_rng(s).standard_normal((4, 4)) for s in (5, 6)])
    noise_BHA = torch.from_numpy(noise.astype(np.float32))
    goal = actions.clone()
    goal[..., 3] = torch.sign(actions[..., 3])
    alone = torch.eye(4, dtype=torch.bool) | mask[:, None]
    at = torch.full((2,), 0.999)
    found = h(0.001 * noise_BHA + 0.999 * goal, at, h.condition(readout), alone)
    error = ((found - (goal - noise_BHA)) ** 2)[mask]
    out = h.loss(readout, actions, mask, seeds(5, 2))
    torch.testing.assert_close(out.loss, error.mean(), rtol=1e-4, atol=0.0)
    assert set(out.parts) == {"arm_loss", "gripper_loss"}
    torch.testing.assert_close(0.75 * out.parts["arm_loss"] + 0.25 * out.parts["gripper_loss"], error.mean().detach())


def test_times_lie_between_noise_and_the_end_and_more_near_the_noise() -> None:
    _, time = head()._draw(range(4000), with_time=True, device=torch.device("cpu"))
    assert float(time.min()) >= 0 and float(time.max()) <= 0.999
    assert abs(float(time.mean()) - 0.999 * 0.4) < 0.01  # of 1 - Beta(1.5, 1): 1 - 0.6


def test_masked_steps_do_not_matter() -> None:
    h = head()
    readout, actions, mask = torch.randn(3, 1, 32), torch.zeros(3, 4, 4), torch.ones(3, 4, dtype=torch.bool)
    mask[:, 2:] = False
    changed = actions.clone()
    changed[:, 2:] = 1.0
    first, second = (h.loss(readout, a, mask, seeds(0, 3)).loss for a in (actions, changed))
    assert float(first.detach()) == float(second.detach())
    assert float(h.loss(readout, changed, torch.ones_like(mask), seeds(0, 3)).loss.detach()) != float(first.detach())


def test_a_sample_without_a_valid_step_spoils_no_gradient() -> None:
    h, mask = head(), torch.tensor([[True] * 4, [False] * 4])
    h.loss(torch.randn(2, 1, 32), torch.zeros(2, 4, 4), mask, seeds(0, 2)).loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in h.parameters())


def test_the_readout_learns_from_the_first_step_on() -> None:
    readout = torch.randn(2, 3, 32, requires_grad=True)
    h = head(queries=3)
    h.loss(readout, torch.zeros(2, 4, 4), torch.ones(2, 4, dtype=torch.bool), seeds(0, 2)).loss.backward()
    assert readout.grad is not None and bool((readout.grad.abs().sum(-1) > 0).all())
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in h.parameters())


def test_a_row_depends_on_its_readout_and_its_seed_alone() -> None:
    h = head().eval()
    readout = torch.randn(6, 1, 32)
    torch.manual_seed(1)
    together = h.sample(readout, [7, 8, 2**63 - 1, 0, 7, 8])
    torch.manual_seed(2)  # nothing is drawn from torch's own stream
    for row, seed in enumerate([7, 8, 2**63 - 1, 0]):
        mates = torch.cat([readout[row : row + 1], torch.randn(5, 1, 32)])
        assert torch.equal(h.sample(mates, [seed, 1, 2, 3, 4, 5])[0], together[row])
    assert not torch.equal(h.sample(readout, [9, 8, 2**63 - 1, 0, 7, 8])[0], together[0])


def test_samples_are_inside_the_limits_and_grippers_binary() -> None:
    chunk = head().sample(torch.randn(5, 1, 32) * 50, range(5))
    assert chunk.shape == (5, 4, 4) and chunk.dtype == torch.float32 and float(chunk.abs().max()) <= 1
    assert set(chunk[..., 3].unique().tolist()) <= {-1.0, 1.0}
    assert head(spec=ActionSpec(tuple(ARM), "none", 20)).sample(torch.randn(2, 1, 32), [0, 1]).shape == (2, 4, 3)


@pytest.mark.parametrize(("width", "parameters"), PAPERS.values(), ids=PAPERS)
def test_it_adds_less_than_a_hundredth_of_the_papers_vlms(width: int, parameters: float) -> None:
    spec = ActionSpec((*(Dimension(str(i), "", "delta", "", -1, 1) for i in range(7)),), "none", 5)
    with torch.device("meta"):
        made = flow.Head(FlowHeadConfig(name="flow"), width, queries=1, chunk=10, spec=spec)
    count = sum(p.numel() for p in made.parameters())
    assert count == 7_370_759 + 258 * width and count < 0.01 * parameters


def test_settings_of_another_head_are_refused() -> None:
    base = {"backbone": {"family": "a", "checkpoint": "b", "init": "scratch"}, "chunk": 4, "cameras": ["front"]}

    def read(section: dict[str, object]) -> PolicyConfig:
        return configs.validate(PolicyConfig, base | {"head": section}, "here")

    assert registry.find("heads", read({"name": "flow"}).head.name) is flow
    with pytest.raises(UserError, match=r"Unknown setting 'head.gripper_weight' in here.*euler_steps.*"):
        read({"name": "flow", "gripper_weight": 0.1})
    with pytest.raises(UserError, match=r"Unknown setting 'head.euler_steps'.*gripper_weight, huber_delta, name"):
        read({"name": "regression", "euler_steps": 3})
    with pytest.raises(UserError, match="In here: width 30 is not a multiple of attention_heads, 4"):
        read({"name": "flow", "width": 30})
    with pytest.raises(UserError, match=r"'head\.euler_steps' in here is 0"):
        read({"name": "flow", "euler_steps": 0})


def test_the_regression_heads_settings_are_what_they_were() -> None:
    """Folders of cells and policies are named after them: a setting more would train everything again."""
    base = {"backbone": {"family": "a", "checkpoint": "b", "init": "scratch"}, "chunk": 4, "cameras": ["front"]}
    plain = configs.to_dict(configs.validate(PolicyConfig, base, "here"))
    assert json.dumps(plain["head"]) == '{"name": "regression", "gripper_weight": 0.01, "huber_delta": 1.0}'
