"""A study on chains of subtasks, without torch or a simulator: other demonstrations, one unit from rows to report."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_stages import Stages

from vlm4vla import config as configs
from vlm4vla import records, registry
from vlm4vla.bench.metaworld import env
from vlm4vla.records import Comparison, EpisodeRow, Estimate
from vlm4vla.schemas import StudyConfig
from vlm4vla.study import cells, execute
from vlm4vla.study import run as study_run
from vlm4vla.study.run import Study
from vlm4vla.types import EpisodeSpec, UserError

FILE = Path(__file__).parents[2] / "studies" / "quickstart.yaml"
CHAINS = ["--tasks", "[drawer-open]", "--demos.tasks", "[drawer-close, window-open]", "--eval.episodes", "30"]
CHAINS += ["--eval.control_episodes", "12", "--equivalence", "0.5"]
STATES = 6


class Benchmark(env.Benchmark):
    """As if ``drawer-open`` were chains of five subtasks from six initial states."""

    chains = ("drawer-open",)

    def describe(self, episode: EpisodeSpec) -> dict[str, Any]:
        return {"initial_state": episode.index % STATES, "subtasks": list("abcde")}


class Played(Stages):
    """Rows of chains, as they were written before they held their initial states."""

    def _eval(self, settings: dict[str, Any], out: Path) -> None:
        super()._eval(settings, out)
        level = {"do-nothing": 0.0, "expert": 6.0}.get(settings["arm"], 2.5 if "trained" in settings["arm"] else 1.5)
        rows = []
        for row in records.read_all(out / "rows.jsonl", EpisodeRow):
            luck = (
                np.random.default_rng([row.episode, settings["seed"]]).normal(0, 0.7) + row.episode % STATES / 4 - 0.6
            )
            length = int(np.clip(round((level + luck) * (level > 0)), 0, 5)) if row.control is None else 0
            rows.append(row.model_copy(update={"completed": length, "success": length == 5}))
        records.write_all(out / "rows.jsonl", rows)


@pytest.fixture(autouse=True)
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    fake, find = Played(), registry.find
    module = SimpleNamespace(Benchmark=Benchmark)
    monkeypatch.setattr(registry, "find", lambda room, name: module if room == "bench" else find(room, name))
    for one in (execute, study_run):
        monkeypatch.setattr(one.subprocess, "run", fake.run)
    return fake


def study(*words: str) -> StudyConfig:
    return configs.load(StudyConfig, FILE, [*CHAINS, *words])


def test_one_training_run_per_arm(tmp_path: Path) -> None:
    config = study()
    Study(config, tmp_path, lambda _: None, jobs=1).run()
    found = records.read_all(tmp_path / "estimates.jsonl", Estimate)
    means = {(e.arm, e.control): e for e in found if e.task is None}
    floor, expert = means["do-nothing", None], means["expert", None]
    assert {e.measure for e in means.values()} == {"completed"} and {e.longest for e in found} == {5}
    assert (floor.rate, expert.rate, expert.successes) == (0, 5, 30)
    (trained,) = (e for e in means.values() if e.arm == "trained" and e.control is None)
    rates = [e.rate for e in found if (e.arm, e.control, e.in_a_row is None) == ("trained", None, False)]
    assert len(rates) == 5 and trained.rate == pytest.approx(sum(rates)) and 1.5 < trained.rate < 3.5
    compared = records.read_all(tmp_path / "comparisons.jsonl", Comparison)
    assert {(c.measure, c.longest) for c in compared} == {("completed", 5)}
    assert all(f"over {STATES} initial states" in c.interval_method for c in compared)
    page, text = ((tmp_path / "report" / name).read_text() for name in ("index.html", "report.md"))
    for told in (page, text):
        assert f"solved {trained.rate:.2f} of 5 subtasks in a row on average over 30 chains" in told
        assert "Subtasks in a row, average" in told and "Success rate, %" not in told and " points" not in told


def test_recipes_are_told_in_subtasks(tmp_path: Path) -> None:
    Study(study("--seeds", "[0, 1, 2]"), tmp_path, lambda _: None, jobs=1).run()
    means = [e for e in records.read_all(tmp_path / "estimates.jsonl", Estimate) if e.estimand == "E3"]
    means = [e for e in means if e.task is None]
    assert [e.measure for e in means] == ["completed"] * 2 and all(0 <= e.low < e.rate < e.high <= 5 for e in means)
    assert all(f"{STATES} initial states added" in e.method for e in means)
    (pair,) = (c for c in records.read_all(tmp_path / "comparisons.jsonl", Comparison) if c.estimand == "E3")
    assert (pair.measure, pair.longest, pair.equivalence) == ("completed", 5, 0.5)
    assert pair.difference == pytest.approx(means[0].rate - means[1].rate) and 0.5 < pair.difference < 1.5
    text = (tmp_path / "report" / "report.md").read_text()
    assert f"trained 3 times, solves {means[0].rate:.2f} of 5 subtasks in a row on average" in text


def test_demonstrations_are_of_single_tasks() -> None:
    made = cells.demos(study(), Path("out"))
    assert made is not None and made.tasks == ("drawer-close", "window-open")
    plain = configs.load(StudyConfig, FILE, ["--tasks", "[drawer-close, window-open]"])
    same = cells.demos(plain, Path("out"))
    assert same is not None and same.out == made.out  # what is recorded names the folder, not why


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--tasks", "[drawer-open, drawer-close]"], r"Chains \(drawer-open\) stand beside other tasks: drawer-close"),
        (["--demos.tasks", "[]"], "chains, of which no demonstrations are recorded"),
        (["--demos.tasks", "[drawer-open]"], "'drawer-open' is a chain of subtasks"),
        (["--demos.tasks", "[drawer-opne]"], "Unknown task 'drawer-opne'"),
        (["--eval.episodes", "1", "--eval.control_episodes", "1"], "begin in one initial state"),
        (
            ["--select", "{'on': dev, episodes: 1}"],
            "The first 1 dev starts of 'drawer-open' begin in one initial state",
        ),
    ],
)
def test_what_could_not_be_told_in_the_end_is_refused_first(tmp_path: Path, words: list[str], why: str) -> None:
    with pytest.raises(UserError, match=why):
        Study(study(*words), tmp_path, lambda _: None, jobs=1).run()
    assert not list(tmp_path.iterdir())
