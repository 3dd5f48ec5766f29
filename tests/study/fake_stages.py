"""Stands in for the processes of a study: writes what the verbs would leave, without torch or a simulator."""

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlm4vla import records
from vlm4vla.records import EpisodeRow, RunRecord
from vlm4vla.study import execute, plan
from vlm4vla.study import run as study_run

MEASURED = plan.Measured(frame_s=0.025, demo_steps=80, solved_steps=80, step_limit=200)
"""What a simulator might take."""
Rate = Callable[[dict[str, Any], str, int], bool]
"""Whether the policy of an evaluation's settings solves episode number ``int`` of a task."""


def _record(kind: str, settings: dict[str, Any], policy: str, **facts: object) -> RunRecord:
    return RunRecord.model_validate(
        {
            "run": f"{kind}-{settings['out'][-60:]}", "kind": kind, "config": settings, "config_hash": "x",
            "commit": "c", "dirty": False,
            "packages": {"torch": "2", "transformers": "5", "vlm4vla": "0"}, "hardware": {"cpu": "a"},
            "seed": settings.get("seed"), "inputs": {"store": "s", "policy": policy}, "started": "2026-11-20T05:20:00Z",
            "finished": "2026-11-20T05:21:00Z", "wall_s": 60.0, "facts": {"checkpoint_commit": None, **facts},
        }
    )  # fmt: skip


class Stages:
    """``run`` replaces ``subprocess.run`` of the study. ``calls``: (verb, name of the output folder) in order.

    ``broken``: texts; a verb whose output folder contains one of them fails with the sentence "no luck".
    """

    def __init__(self, solves: Rate = lambda settings, task, episode: True) -> None:
        self.solves = solves
        self.calls: list[tuple[str, str]] = []
        self.evaluated: list[dict[str, Any]] = []
        self.broken: list[str] = []

    def installed(self, monkeypatch: pytest.MonkeyPatch) -> "Stages":
        """From now on to the end of the test, in place of every process that a study starts."""
        for module in (execute, study_run):
            monkeypatch.setattr(module.subprocess, "run", self.run)
        return self

    def count(self, verb: str) -> int:
        return sum(found == verb for found, _ in self.calls)

    def run(self, words: Sequence[str], **more: Any) -> subprocess.CompletedProcess[str]:
        verb = words[words.index("--parent") + 2 :]
        name = " ".join(verb[:2]) if verb[0] in ("bench", "data", "study") else verb[0]
        settings = yaml.safe_load(Path(verb[-1]).read_text()) if str(verb[-1]).endswith(".yaml") else {}
        if name == "data build":
            settings = {"out": verb[verb.index("--out") + 1]}
        if name == "export":
            settings = {"out": verb[verb.index("--out") + 1]}
        where = settings.get("out", "")
        self.calls.append((name, where))
        if any(text in where for text in self.broken):
            more["stderr"].write(b"loading\nvlm4vla: no luck\nbye\n") if more.get("stderr") else None
            return subprocess.CompletedProcess(words, 1)
        if name == "study estimate":
            return subprocess.CompletedProcess(words, 0, '{"total_s": 60.0, "stages": {"arms": 60.0}}')
        made = {"data build": self._store, "train": self._train, "eval": self._eval, "export": self._export}
        if name in made:
            made[name](settings, Path(where))
        return subprocess.CompletedProcess(words, 0)

    def _store(self, _settings: dict[str, Any], out: Path) -> None:
        records.write_atomic(out / "manifest.json", "{}")

    def _export(self, _settings: dict[str, Any], out: Path) -> None:
        records.write_atomic(out / "config.json", "{}")

    def _train(self, settings: dict[str, Any], out: Path) -> None:
        kept = {str(step): f"{out.parent.name}@{step}" for step in settings.get("keep", [])}
        record = _record("train", settings, f"{out.parent.name}@{settings['steps']}", kept=kept)
        records.write_atomic(out / "metrics.jsonl", json.dumps({"step": settings["steps"]}) + "\n")
        records.write_one(out / "run.json", record)

    def _eval(self, settings: dict[str, Any], out: Path) -> None:
        self.evaluated.append(settings)
        rows = [
            EpisodeRow(
                run=str(out)[-60:], arm=settings["arm"], control=control, benchmark="metaworld-v1", task=task,
                episode=i, seed=i, success=self.solves(settings, task, i), steps=5, first_success_step=None,
                failure=None, video=None, wall_s=0.1,
            )
            for control in settings["controls"]
            for task in settings["tasks"]
            for i in range(settings["episodes"] if control is None else settings["control_episodes"])
        ]  # fmt: skip
        records.write_all(out / "rows.jsonl", rows)
        records.write_one(
            out / "run.json", _record("eval", settings, self._digest(settings["policy"]), **self._facts(settings))
        )

    @staticmethod
    def _facts(settings: dict[str, Any]) -> dict[str, Any]:
        return {key: settings[key] for key in ("execute", "selection", "evaluation") if key in settings}

    @staticmethod
    def _digest(policy: str) -> str:
        if policy.startswith("builtin:"):
            return policy
        folder = Path(policy)
        train = folder.parent if folder.name == "policy" else folder.parents[1]
        record = records.read_one(train / "run.json", RunRecord)
        if folder.name == "policy":
            return record.inputs["policy"]
        return str(record.facts["kept"][folder.name.removeprefix("step-")])
