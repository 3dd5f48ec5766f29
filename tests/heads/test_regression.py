"""The paper's head: shapes, initialisation, loss against numbers worked by hand, masking, and that it can learn."""

import math

import torch

from vlm4vla.head_settings import HeadConfig
from vlm4vla.heads.regression import Head
from vlm4vla.types import ActionSpec, Dimension

ARM = [Dimension(n, "m", "delta", "world", -1, 1) for n in ("dx", "dy", "dz")]
SEEDS = torch.zeros(4, dtype=torch.int64)  # nothing is drawn
SPEC = ActionSpec((*ARM, Dimension("gripper", "", "gripper", "gripper", -1, 1)), "none", 20)


def head(**changes: float) -> Head:
    torch.manual_seed(0)
    return Head(HeadConfig(**changes), width=32, queries=1, chunk=4, spec=SPEC)


def test_layers_are_the_papers() -> None:
    widths = [(m.in_features, m.out_features) for m in head().modules() if isinstance(m, torch.nn.Linear)]
    arm, gripper = 4 * 3, 4 * 1
    branch = [(1024, 1024), (1024, 512), (512, 256)]
    assert widths == [(32, 16), (16, 1024), *branch, (256, arm), *branch, (256, gripper)]
    assert all(not m.bias.any() for m in head().modules() if isinstance(m, torch.nn.Linear))


def test_loss_is_huber_plus_a_hundredth_of_bce() -> None:
    h = head()
    readout, actions = torch.randn(2, 1, 32), torch.rand(2, 4, 4) * 2 - 1
    actions[..., 3] = torch.sign(actions[..., 3])
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    out = h.loss(readout, actions, mask, SEEDS)
    arm, gripper = h(readout)
    error = (arm - actions[..., :3])[mask]
    huber = torch.where(error.abs() < 1, 0.5 * error**2, error.abs() - 0.5).mean()
    logits, opened = gripper[..., 0][mask], actions[..., 3][mask] > 0
    bce = -torch.where(opened, torch.sigmoid(logits), 1 - torch.sigmoid(logits)).log().mean()
    assert math.isclose(float(out.loss.detach()), float((huber + 0.01 * bce).detach()), rel_tol=1e-5)


def test_masked_steps_do_not_matter() -> None:
    h = head()
    readout, actions, mask = torch.randn(3, 1, 32), torch.zeros(3, 4, 4), torch.ones(3, 4, dtype=torch.bool)
    mask[:, 2:] = False
    changed = actions.clone()
    changed[:, 2:] = 1.0
    assert float(h.loss(readout, actions, mask, SEEDS).loss) == float(h.loss(readout, changed, mask, SEEDS).loss)


def test_samples_are_inside_the_limits_and_grippers_binary() -> None:
    chunk = head().sample(torch.randn(5, 1, 32) * 50, [0] * 5)
    assert chunk.shape == (5, 4, 4) and float(chunk.abs().max()) <= 1
    assert set(chunk[..., 3].unique().tolist()) <= {-1.0, 1.0}


def test_overfits_one_batch() -> None:
    h = head(gripper_weight=1.0)
    readout, actions = torch.randn(4, 1, 32), torch.rand(4, 4, 4) * 1.6 - 0.8
    actions[..., 3] = torch.sign(actions[..., 3])
    mask = torch.ones(4, 4, dtype=torch.bool)
    optimizer = torch.optim.AdamW(h.parameters(), lr=3e-3)
    first = float(h.loss(readout, actions, mask, SEEDS).loss.detach())
    for _ in range(60):
        optimizer.zero_grad()
        h.loss(readout, actions, mask, SEEDS).loss.backward()
        optimizer.step()
    assert float(h.loss(readout, actions, mask, SEEDS).loss.detach()) < first / 10
    assert torch.equal(h.sample(readout, [0] * 4)[..., 3], actions[..., 3])
