"""``vlm4vla study run``: demonstrations, store, every arm's training and evaluation, comparison, report. Resumable.

Each stage is one command of its own process (memory is freed, a crash is contained, and the same command can be run
by hand); every stage goes on where a kill stopped it, and a finished one costs nothing.
"""

import json
import os
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vlm4vla import config as configs
from vlm4vla import records, registry
from vlm4vla.records import EpisodeRow, RunRecord
from vlm4vla.report.build import build
from vlm4vla.report.sentences import row_name
from vlm4vla.rollout import jobs
from vlm4vla.schemas import EvalConfig, StudyConfig
from vlm4vla.study import audit, cells, compare, execute, plan, recipes
from vlm4vla.study.execute import Say
from vlm4vla.types import Benchmark, RunFailed, refuse, step_limit_of

Key = tuple[str, str | None]
"""Which rows: an arm and a control (None: the arm itself)."""


class Study:
    """A study in its folder. ``say`` is told what happens, a sentence at a time."""

    def __init__(self, config: StudyConfig, out: Path, say: Say, jobs: int | None = None, command: str = "") -> None:
        """``jobs``: cells at a time. ``command`` is what the report prints as the way to make it again."""
        self.config, self.out, self.say = config, out.resolve(), say
        self.jobs = jobs or execute.default_jobs(config.train.threads)
        self.command = command or f"vlm4vla study run {out / 'study.yaml'} --out {out}"
        self.bench: Benchmark = registry.find("bench", config.bench).Benchmark()
        self.identity = configs.digest({"study": configs.to_dict(config), "benchmark": self.bench.id})

    def finished(self) -> bool:
        """Whether the study ran to its report with exactly these settings."""
        file = self.out / "finished.json"
        return file.is_file() and json.loads(file.read_text()) == {"identity": self.identity}

    def run(self) -> None:
        """Run what is missing, in order; raises the stage's error in words when one fails."""
        self._check()
        if self.finished():
            return
        with records.locked(self.out):
            self._run()

    def _run(self) -> None:
        records.write_atomic(self.out / "study.yaml", configs.to_yaml(self.config))
        self._stage("install", ["bench", "install", self.config.bench])
        guess = self._estimate()
        demos = cells.demos(self.config, self.out)
        self._stage("demos", execute.with_config(["bench", "demos"], demos, demos.out))
        for size in sorted({cell.train.policy.backbone.view for cell in cells.cells(self.config, self.out)}):
            store = cells.store_folder(self.config, self.out, size)
            words = ["data", "build", str(demos.out), "--format", str(demos.format), "--out", str(store)]
            self._stage("store", [*words, "--image-size", str(size), "--encoding", self.config.encoding])
        for reference in cells.references(self.config, self.out):
            self._stage("references", execute.with_config(["eval"], reference, reference.out))
        found = cells.cells(self.config, self.out)
        self.say(f"[arms] {len(found)} policies, {self.jobs} at a time; each is trained, then evaluated")
        began = time.monotonic()
        execute.run_cells(found, self.jobs, self.say)
        self._add_time("arms", time.monotonic() - began)
        self._conclude(guess)

    def rows(self) -> list[EpisodeRow]:
        """All rows of the study's evaluations."""
        return [row for e in self._evals() for row in records.read_all(e.out / "rows.jsonl", EpisodeRow)]

    def _check(self) -> None:
        """Everything that can be wrong with a study is said before anything runs."""
        jobs.chosen_tasks(self.config.tasks, self.bench)
        cameras = [camera.name for camera in self.bench.cameras]
        for arm in self.config.arms:
            for camera in cells.recipe(self.config, arm).policy.cameras:
                if camera not in cameras:
                    todo = f"Mend policy.cameras of arm {arm!r}."
                    raise refuse(f"{self.bench.id} has no camera {camera!r}", given=camera, possible=cameras, todo=todo)
        report = audit.audit(self.config, {})
        if not report["ok"]:
            raise refuse(
                f"The arms differ in {', '.join(report['faults'])}, which the factor does not name",
                possible=f"may_differ: {list(self.config.may_differ)}",
                todo="Make the arms equal there, or add the key to may_differ and say why in the factor.",
            )

    def _estimate(self) -> dict[str, Any]:
        file = self._file("estimate")
        if not file.is_file():
            study = self.out / "study.yaml"
            words = execute.command(["study", "estimate", str(study), "--jobs", str(self.jobs), "--json"])
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                raise RunFailed("The study's cost could not be estimated; the message stands above.")
            records.write_atomic(file, done.stdout)
        guess = json.loads(file.read_text())
        stages = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in guess["stages"].items())
        self.say(f"Estimate for this machine: {guess['total_s'] / 60:.0f} minutes ({stages}).")
        return dict(guess)

    def _stage(self, name: str, words: list[str]) -> None:
        """Run one command; its wall time is added to the stage's (what a kill cut off is not counted)."""
        began = time.monotonic()
        self.say(f"[{name}] vlm4vla {' '.join(_short(word, self.out) for word in words)}")
        done = subprocess.run(execute.command(words), stdout=subprocess.DEVNULL, check=False)
        self._add_time(name, time.monotonic() - began)
        if done.returncode:
            raise RunFailed(
                f"Stage {name!r} ended with status {done.returncode}; its own message stands above. Mend the cause and "
                "run the same study command again: finished stages are kept."
            )

    def _file(self, name: str) -> Path:
        """A file that belongs to these settings alone: a folder may hold several studies that share cells."""
        return self.out / f"{name}-{self.identity}.json"

    def _add_time(self, stage: str, seconds: float) -> None:
        file = self._file("wall")
        times: dict[str, float] = json.loads(file.read_text()) if file.is_file() else {}
        times[stage] = round(seconds + times.get(stage, 0.0), 1)
        records.write_atomic(file, json.dumps(times, indent=1) + "\n")

    def _evals(self) -> list[EvalConfig]:
        own = [cell.eval for cell in cells.cells(self.config, self.out)]
        return [*cells.references(self.config, self.out), *own]

    def _conclude(self, guess: dict[str, Any]) -> None:
        rows = self.rows()
        found = cells.cells(self.config, self.out)
        runs = {cell.eval.arm: records.read_one(cell.train.out / "run.json", RunRecord) for cell in found}
        means, differences = self._recipes(rows)
        records.write_all(self.out / "estimates.jsonl", [*means, *compare.estimates(rows)])
        records.write_all(self.out / "comparisons.jsonl", [*differences, *self._comparisons(rows)])
        records.write_atomic(self.out / "audit.json", json.dumps(audit.audit(self.config, runs), indent=1) + "\n")
        records.write_atomic(self.out / "study.json", json.dumps(self._summary(guess), indent=1) + "\n")
        self.say("[report]")
        build(self.out, self.out / "report")
        records.write_atomic(self.out / "finished.json", json.dumps({"identity": self.identity}) + "\n")

    def _recipes(self, rows: list[EpisodeRow]) -> tuple[list[records.Estimate], list[records.Comparison]]:
        """What holds for the arms when they are trained again; nothing can be said of one training run each."""
        if len(self.config.seeds) < 2:
            return [], []
        of_arm: dict[str, list[list[EpisodeRow]]] = {}
        for cell in cells.cells(self.config, self.out):
            own = [row for row in rows if row.arm == cell.eval.arm and row.control is None]
            of_arm.setdefault(cell.arm, []).append(own)
        return recipes.conclude(of_arm, equivalence=self.config.equivalence, variances=self.config.variances)

    def _comparisons(self, rows: list[EpisodeRow]) -> list[records.Comparison]:
        """First arm against every other, each arm against its controls and the floor; Holm over the whole family.

        With several seeds arms are compared as recipes, and no checkpoint of one with a checkpoint of another.
        """
        found = cells.cells(self.config, self.out)
        pairs: list[tuple[Key, Key]] = []
        if len(self.config.seeds) == 1:
            first, *others = found
            pairs += [((first.eval.arm, None), (other.eval.arm, None)) for other in others]
        for cell in found:
            name = cell.eval.arm
            pairs += [((name, None), (name, control)) for control in self.config.arms[cell.arm].controls]
            pairs += [((name, None), (floor, None)) for floor in self.config.references if floor == "do-nothing"]
        by_key: dict[Key, list[EpisodeRow]] = {}
        for row in rows:
            by_key.setdefault((row.arm, row.control), []).append(row)
        compared = [compare.compare(by_key[a], by_key[b], row_name(*a), row_name(*b)) for a, b in pairs]
        return compare.adjusted(compared)

    def _summary(self, guess: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": self.config.name,
            "title": self.config.title,
            "caveat": self.config.caveat,
            "factor": self.config.factor,
            "benchmark": self.bench.id,
            "tasks": list(self.config.tasks),
            "instructions": {task: self.bench.instruction(task) for task in self.config.tasks},
            "arms": [
                {
                    "name": cell.eval.arm,
                    "label": self._label(cell),
                    "recipe": cell.arm,
                    "recipe_label": self.config.arms[cell.arm].label,
                    "run": os.path.relpath(cell.train.out, self.out),
                    "eval": os.path.relpath(cell.eval.out, self.out),
                }
                for cell in cells.cells(self.config, self.out)
            ],
            "references": [
                {"name": e.arm, "label": e.arm.replace("-", " "), "eval": os.path.relpath(e.out, self.out)}
                for e in cells.references(self.config, self.out)
            ],
            "command": self.command,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "wall_s": json.loads(self._file("wall").read_text()),
            "estimate_s": guess["total_s"],
        }

    def _label(self, cell: cells.Cell) -> str:
        label = self.config.arms[cell.arm].label
        return label if len(self.config.seeds) == 1 else f"{label}, seed {cell.seed}"


def estimate(config: StudyConfig, jobs: int) -> dict[str, Any]:
    """The plan's cost, with every arm's recipe and the simulator tried for a moment (imports torch)."""
    from vlm4vla.rollout.pool import WorkerPool
    from vlm4vla.train import probe

    benchmark = registry.find("bench", config.bench).Benchmark()
    frames, seconds = [], []
    with TemporaryDirectory() as folder, WorkerPool(config.bench, 1, Path(folder) / "log") as pool:
        for task in config.tasks[:3]:  # the first job also pays for the start of the simulator
            episode = benchmark.episodes("dev", task, 1)[0].to_dict()
            job = {"kind": "demo", "id": task, "episode": episode, "noise": config.demos.noise}
            job |= {"after_success": 4, "pictures": True}
            began = time.monotonic()
            for _, result in pool.run([job]):
                if result["kind"] == "failure":
                    raise RunFailed(f"The simulator cannot be tried: {result['error']}")
                frames.append(len(result["actions"]))
            seconds.append(time.monotonic() - began)
    probes: dict[str, dict[str, Any]] = {}
    for arm in config.arms:
        recipe = cells.recipe(config, arm)
        probes[arm] = probe.measure(recipe, benchmark.action_spec, benchmark.state_names, config.eval.batch)
    frame_s = sum(seconds[1:]) / sum(frames[1:]) if len(frames) > 1 else seconds[0] / frames[0]
    steps = sum(frames) / len(frames)
    longest = max(step_limit_of(benchmark, task) for task in config.tasks)
    found = plan.estimate(config, probes, frame_s, steps, longest, jobs)
    return found | {"frame_s": round(frame_s, 4), "demo_steps": steps, "probes": probes}


def _short(word: str, out: Path) -> str:
    return os.path.relpath(word) if word.startswith(str(out)) else word
