from pathlib import Path

import pytest
from rollout_fakes import FakeBench, configured

from vlm4vla.rollout import jobs
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


def test_one_task_has_no_partner() -> None:
    with pytest.raises(UserError, match="two or more tasks"):
        jobs.swap_pairs(["reach"])
