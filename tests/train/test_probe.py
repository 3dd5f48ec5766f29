"""The short measurement behind a study's estimate."""

from pathlib import Path

import numpy as np

from vlm4vla import config
from vlm4vla.schemas import StudyConfig
from vlm4vla.study import cells
from vlm4vla.train import probe
from vlm4vla.types import ActionSpec, Dimension


def test_a_benchmark_whose_actions_have_no_limits_can_be_measured(tmp_path):
    """BridgeData's actions have none, so nothing may be normalised by limits."""
    spec = ActionSpec(
        (
            Dimension("dx", "m", "delta", "robot base", -np.inf, np.inf),
            Dimension("gripper", "", "gripper", "gripper", -1, 1),
        ),
        "none",
        5.0,
    )
    file = Path(__file__).parents[2] / "studies/quickstart.yaml"
    study = config.load(StudyConfig, file, ["--train.batch", "2", "--train.policy.cameras", "[front]"])
    found = probe.measure(cells.recipe(study, "frozen"), spec, (), 1)
    assert found["seconds_per_step"] > 0 and found["seconds_per_inference"] > 0
