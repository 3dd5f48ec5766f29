"""What an evaluation is summed up to, from written rows and a benchmark that only tells of its starts."""

import types

import pytest

from vlm4vla import records, registry
from vlm4vla.records import EpisodeRow, RunRecord
from vlm4vla.study.summary import sentences, summary
from vlm4vla.types import EpisodeSpec, UserError

LENGTHS = [3, 2, 0, 1, 3, 0]  # of chains of three; two chains share an initial state
SUBTASKS = ["open", "push", "close"]


class Benchmark:
    id = "chains-v1"

    def episodes(self, split, task, count):
        assert split == "dev"
        return tuple(EpisodeSpec(self.id, split, task, i, i, "do it") for i in range(count))

    def describe(self, episode):
        turned = SUBTASKS if episode.index % 2 == 0 else SUBTASKS[::-1]
        return {"initial_state": episode.index // 2, "subtasks": turned}


def row(task, episode, success, completed=None, **changes):
    values = {"run": "r", "arm": "policy", "control": None, "benchmark": Benchmark.id, "task": task}
    values |= {"episode": episode, "seed": episode, "success": success, "steps": 9, "first_success_step": None}
    return EpisodeRow(**values | {"failure": None, "video": None, "wall_s": 1.0, "completed": completed} | changes)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    find = registry.find
    module = types.SimpleNamespace(Benchmark=Benchmark)
    monkeypatch.setattr(registry, "find", lambda room, name: module if room == "bench" else find(room, name))
    run = RunRecord(
        run="r",
        kind="eval",
        config={"bench": "chains", "split": "dev"},
        config_hash="0",
        commit=None,
        dirty=None,
        packages={},
        hardware={},
        seed=0,
        started="2026-01-01",
    )
    records.write_one(tmp_path / "run.json", run)
    return tmp_path


def test_chains_are_counted_by_hand(folder):
    rows = [row("chain", i, length == 3, length) for i, length in enumerate(LENGTHS)]
    records.write_all(folder / "rows.jsonl", rows)
    found = {line["what"]: line for line in summary(folder) if line["task"] == "chain"}
    assert found["in a row: average"]["value"] == pytest.approx(9 / 6)
    assert [found[f"in a row: {k}"]["value"] for k in (1, 2, 3)] == pytest.approx([4 / 6, 3 / 6, 2 / 6])
    assert "over 3 initial states" in found["in a row: average"]["method"]
    # solved and tried, chain by chain: forwards 3, 0, 3; backwards 2, 1, 0
    tried = {"open": (2, 4), "push": (3, 4), "close": (4, 5)}
    for name, (solved, n) in tried.items():
        line = found[f"subtask: {name}"]
        assert (line["n"], line["value"]) == (n, pytest.approx(solved / n)), name
    assert "success" not in found  # three in a row are one, with the interval over states
    assert any("in a row: average: 1.50 (" in text for text in sentences(summary(folder)))


def test_single_tasks_have_rates_and_a_mean(folder):
    rows = [row("a", i, i < 3) for i in range(4)] + [row("b", i, False) for i in range(4)]
    records.write_all(folder / "rows.jsonl", rows)
    found = {line["task"]: line for line in summary(folder)}
    assert [found[task]["value"] for task in ("a", "b", None)] == [0.75, 0.0, 0.375]
    told = sentences(summary(folder))
    assert len(told) == 3 and told[2].startswith("policy  mean over tasks  success: 37.5 %")


def test_controls_stay_apart(folder):
    rows = [row("chain", i, False, i % 2, control=control) for control in (None, "image-blank") for i in range(4)]
    records.write_all(folder / "rows.jsonl", rows)
    averages = [line for line in summary(folder) if line["what"] == "in a row: average"]
    assert [line["n"] for line in averages] == [4, 4] and len({line["row"] for line in averages}) == 2


def test_mistakes_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="holds no evaluation"):
        summary(tmp_path / "nowhere")
    records.write_all(folder / "rows.jsonl", [row("chain", i, False, 1, benchmark="chains-v0") for i in range(3)])
    with pytest.raises(UserError, match="rows are of chains-v0, and the benchmark here is chains-v1"):
        summary(folder)
