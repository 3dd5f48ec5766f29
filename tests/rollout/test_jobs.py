from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from rollout_fakes import FakeBench, configured

from vlm4vla.rollout import jobs, runner
from vlm4vla.rollout.names import CONTROLS
from vlm4vla.schemas import Control
from vlm4vla.types import EpisodeSpec, UserError


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


@pytest.mark.parametrize("control", ["camera-moved", "instruction-paraphrased"])
def test_a_benchmark_from_outside_is_refused_before_anything_runs(control: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{control} was asked for, but fake/v1 has no .*Leave the control out"):
        jobs.build(configured(tmp_path, controls=(None, control)), FakeBench(), "ws://x")  # type: ignore[arg-type]


class Chains(FakeBench):
    """Its task "push" is a chain of the other two."""

    chains = ("push",)

    def paraphrase(self, task: str) -> str:
        assert task not in self.chains
        return f"would you be so kind as to {task}"

    def episodes(self, split: str, task: str, count: int) -> tuple[EpisodeSpec, ...]:
        begins = self.instruction("drawer-open" if task == "push" else task)
        return tuple(replace(start, instruction=begins) for start in super().episodes(split, task, count))


def test_all_that_is_told_is_known_before_the_run(tmp_path: Path) -> None:
    """The server pads to the longest of these: a later task of a chain, and a paraphrase, may be longer."""
    bench = Chains()
    pushes = configured(tmp_path, tasks=("push",))
    every = jobs.build(pushes, bench, "ws://x")  # type: ignore[arg-type]
    assert {job["instruction"] for job in every} == {"please drawer open"}
    assert jobs.sentences(every, bench) == {"please drawer open", "please drawer close"}  # type: ignore[arg-type]
    others = jobs.build(pushes.model_copy(update={"controls": ("instruction-paraphrased",)}), bench, "ws://x")  # type: ignore[arg-type]
    kind = {"would you be so kind as to drawer-open", "would you be so kind as to drawer-close"}
    assert jobs.sentences(others, bench) == kind  # type: ignore[arg-type]
    single = configured(tmp_path, tasks=("drawer-open",), controls=(None, "instruction-paraphrased"))
    told = jobs.build(single, bench, "ws://x")  # type: ignore[arg-type]
    assert jobs.sentences(told, bench) == {"please drawer open", "would you be so kind as to drawer-open"}  # type: ignore[arg-type]


def test_what_the_controls_did_is_recorded(tmp_path: Path) -> None:
    config = configured(tmp_path, controls=(None, "image-shuffled", "instruction-paraphrased"), tasks=("drawer-open",))
    bench = Chains()
    facts = runner._perturbations(config, bench, jobs.build(config, bench, "ws://x"))  # type: ignore[arg-type]
    assert facts["shuffle_grid"] == 8 and facts["camera_moves"] is None
    assert facts["instruction_paraphrases"] == {"drawer-open": "would you be so kind as to drawer-open"}
    plain = configured(tmp_path, tasks=("push",))
    assert set(runner._perturbations(plain, bench, jobs.build(plain, bench, "ws://x")).values()) == {None}  # type: ignore[arg-type]
