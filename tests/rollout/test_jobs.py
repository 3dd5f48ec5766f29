from pathlib import Path
from typing import get_args

import pytest
from rollout_fakes import FakeBench, configured

from vlm4vla.rollout import jobs
from vlm4vla.rollout.names import CONTROLS
from vlm4vla.schemas import Control
from vlm4vla.types import UserError


def test_the_other_picture_of_the_last_episode_is_the_first_ones(tmp_path: Path) -> None:
    todo = jobs.build(configured(tmp_path, controls=("image-other",), tasks=("push",)), FakeBench(), "ws://x")  # type: ignore[arg-type]
    assert [(j["episode"]["index"], j["other"]["index"]) for j in todo] == [(0, 1), (1, 2), (2, 3), (3, 0)]
    with pytest.raises(UserError, match="image-other was asked for with 1 episode"):
        jobs.build(configured(tmp_path, controls=("image-other",), episodes=1), FakeBench(), "ws://x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tasks", "pairs"),
    [
        (("drawer-open", "drawer-close"), {"drawer-open": "drawer-close", "drawer-close": "drawer-open"}),
        (("a", "b", "c"), {"a": "b", "b": "c", "c": "a"}),
        (
            ("button-press", "button-press-wall", "reach"),
            {"button-press": "button-press-wall", "reach": "button-press"},
        ),
        (("door-open", "doorbell"), {"door-open": "doorbell"}),
    ],
)
def test_swap_pairs(tasks: tuple[str, ...], pairs: dict[str, str]) -> None:
    got = jobs.swap_pairs(tasks)
    assert set(got) == set(tasks) and got.items() >= pairs.items()
    assert all(a != b for a, b in got.items())


def test_controls_have_the_same_names_everywhere() -> None:
    assert get_args(Control) == CONTROLS


def test_fewer_starts_than_asked_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"10 eval episodes of 'push' were asked for, fake/v1 has 9\. Possible: 1 to 9"):
        jobs.build(configured(tmp_path, episodes=10, tasks=("push",)), FakeBench(), "ws://x")  # type: ignore[arg-type]


def test_controls_without_a_partner_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"control_episodes is 5, but only 4 .*Possible: 1 to 4"):
        jobs.build(configured(tmp_path, controls=(None, "image-blank"), control_episodes=5), FakeBench(), "ws://x")  # type: ignore[arg-type]
    no_control = configured(tmp_path, control_episodes=5)
    assert len(jobs.build(no_control, FakeBench(), "ws://x")) == 12  # type: ignore[arg-type]


def test_one_task_has_no_partner() -> None:
    with pytest.raises(UserError, match="two or more tasks"):
        jobs.swap_pairs(["reach"])
