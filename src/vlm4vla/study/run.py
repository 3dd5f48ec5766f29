"""``vlm4vla study run``: demonstrations, store, every arm's training and evaluation, comparison, report. Resumable.

Each stage is one command of its own process (memory is freed, a crash is contained, and the same command can be run
by hand); every stage goes on where a kill stopped it, and a finished one costs nothing.
"""

import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from vlm4vla import config as configs
from vlm4vla import records, registry
from vlm4vla.rollout import demos, jobs
from vlm4vla.schemas import StudyConfig
from vlm4vla.study import audit, cells, chains, conclude, execute, plan, state, tuning
from vlm4vla.study.execute import RunCells, Say
from vlm4vla.study.state import Failure
from vlm4vla.types import Benchmark, RunFailed, Split, refuse, step_limit_of

if TYPE_CHECKING:
    from vlm4vla.rollout.runner import Pool


class Study:
    """A study in its folder. ``say`` is told what happens, a sentence at a time."""

    def __init__(self, config: StudyConfig, out: Path, say: Say, jobs: int | None = None, command: str = "") -> None:
        """``jobs``: cells at a time. ``command`` is what the report prints as the way to make it again."""
        self.config, self.out, self.say = config, out.resolve(), say
        self.jobs = jobs or execute.default_jobs(config.train.threads)
        self.run_cells: RunCells = execute.run_cells  # `--on ray` puts another in its place
        self.command = command or f"vlm4vla study run {out / 'study.yaml'} --out {out}"
        self.bench: Benchmark = registry.find("bench", config.bench).Benchmark()
        self.identity = configs.digest({"study": configs.to_dict(config), "benchmark": self.bench.id})

    def finished(self) -> bool:
        """Whether the study ran to its report with exactly these settings."""
        return self._done.is_file() and json.loads(self._done.read_text()) == {"identity": self.identity}

    def run(self) -> None:
        """Run what is missing, in order. A part that fails stops no other; RunFailed names all of them at the end."""
        self.check()
        if self.finished():
            return
        with records.locked(self.out):
            self._run()

    def _run(self) -> None:
        self._done.unlink(missing_ok=True)  # also that of another study in this folder, whose report is about to go
        records.write_atomic(self.out / "study.yaml", configs.to_yaml(self.config))
        self._must("install", ["bench", "install", self.config.bench])
        guess = self._estimate()
        failures = self._pretexts()
        self._demos(self.config)
        failures += self._stores(self.config) + self._references()
        failures += self._cells("tuning", [trial.cell for trial in cells.trials(self.config, self.out)])
        found = cells.cells(self.config, self.out, tuning.factors(self.config, self.out))
        failures += self._cells("arms", found)
        if failures:
            told = "\n".join(map(str, failures))
            raise RunFailed(
                f"{len(failures)} parts of the study failed. Mend the cause and run the same command again: what is "
                f"finished is kept, the rest is tried once more.\n{told}"
            )
        self.say("[report]")
        made = {
            "command": self.command,
            "wall_s": json.loads(self._file("wall").read_text()),
            "estimate_s": None if guess is None else guess["total_s"],
        }
        conclude.conclude(self.config, self.out, found, cells.references(self.config, self.out), made)
        records.write_atomic(self._done, json.dumps({"identity": self.identity}) + "\n")

    def _pretexts(self) -> list[Failure]:
        """The VLMs that arms start from instead of published ones; one that fails stops the arms that need it alone."""
        first = cells.pretext(self.config)
        if first is None:
            return []
        self._demos(first)
        failures, found = self._stores(first), cells.pretexts(self.config, self.out)
        failures += self._cells("pretext", found)
        for cell in found:
            if state.finished(cell) and not cell.vlm.is_dir():
                words = ["export", str(cell.train.policy_at(cell.train.steps)), "--out", str(cell.vlm)]
                failures += self._stage("pretext", words, f"VLM of {cell.name}")
        return failures

    def _demos(self, config: StudyConfig) -> None:
        demos = cells.demos(config, self.out)
        if demos is not None:
            self._must("demos", execute.with_config(["bench", "demos"], demos, demos.out))

    def _cells(self, stage: str, found: list[cells.Cell]) -> list[Failure]:
        """Train and evaluate these, where their frame store (its manifest is written last) and their VLM are whole."""
        ready = [
            cell
            for cell in found
            if all((s.store / "manifest.json").is_file() for s in cell.train.data.sources)
            and (cell.start is None or cell.start.is_dir())
        ]
        if not ready:
            return []
        self.say(f"[{stage}] {len(ready)} policies, {self.jobs} at a time; each is trained, then evaluated")
        began = time.monotonic()
        failures = self.run_cells(ready, self.jobs, self.say)
        self._add_time(stage, time.monotonic() - began)
        return failures

    def _stores(self, config: StudyConfig) -> list[Failure]:
        """One frame store for every picture size; one that cannot be built stops the cells that need it alone."""
        failures: list[Failure] = []
        for size in sorted({cells.recipe(config, arm).policy.backbone.view for arm in config.arms}):
            failures += self._stage("store", cells.store_words(config, self.out, size), f"store of {size} pixels")
        return failures

    def _references(self) -> list[Failure]:
        failures: list[Failure] = []
        for reference in cells.references(self.config, self.out):
            if not state.evaluated(reference):
                words = execute.with_config(["eval"], reference, reference.out)
                failures += self._stage("references", words, reference.arm)
        return failures

    def check(self) -> None:
        """Everything that can be wrong with a study is said before anything runs."""
        jobs.chosen_tasks(self.config.tasks, self.bench)
        self._check_chains()
        if self.config.pretext is not None:
            jobs.chosen_tasks(self.config.pretext.tasks, self.bench)
        cameras = [camera.name for camera in self.bench.cameras]
        for arm in self.config.arms:
            for camera in cells.recipe(self.config, arm).policy.cameras:
                if camera not in cameras:
                    todo = f"Mend policy.cameras of arm {arm!r}."
                    raise refuse(f"{self.bench.id} has no camera {camera!r}", given=camera, possible=cameras, todo=todo)
        cells.cells(self.config, self.out)  # refuses settings of a cell that do not go together
        others = [arm for arm, settings in self.config.arms.items() if settings.reported]
        if others:
            raise refuse(
                f"The settings of {', '.join(others)} were reported by others",
                possible="arms whose settings are all overrides of train",
                todo="Audit the study with `vlm4vla study audit`; to run it, take `reported` out of its arms.",
            )
        report = audit.audit(self.config, {})
        if not report["ok"]:
            raise refuse(
                f"The arms differ in {', '.join(report['faults'])}, which the factor does not name",
                possible=f"may_differ: {list(self.config.may_differ)}",
                todo="Make the arms equal there, name the key in may_differ (and in the factor), or give the reason in "
                "waived.",
            )

    def _check_chains(self) -> None:
        """What the statistics would refuse when all has run, and demonstrations that cannot be recorded."""
        chained = [task for task in self.config.tasks if task in getattr(self.bench, "chains", ())]
        if chained:
            chains.refuse_mixture(chained, [task for task in self.config.tasks if task not in chained])
            controls = any(arm.controls for arm in self.config.arms.values())
            count = self.config.eval.control_episodes if controls else self.config.eval.episodes
            self._check_initial_states(chained[0], "eval", count, "eval.episodes (and eval.control_episodes)")
            if self.config.select is not None:
                rule = self.config.select
                self._check_initial_states(chained[0], rule.on, rule.episodes, "select.episodes")
        made = cells.demos(self.config, self.out)
        if made is not None:
            demos.recordable(made.tasks, self.bench)

    def _check_initial_states(self, chain: str, split: Split, count: int, setting: str) -> None:
        starts = self.bench.episodes(split, chain, count)
        if len({chains.of_start(self.bench, start)["initial_state"] for start in starts}) < 2:
            raise refuse(
                f"The first {count} {split} starts of {chain!r} begin in one initial state",
                possible="starts in two initial states or more: intervals are about other states",
                todo=f"Raise {setting}.",
            )

    def _estimate(self) -> dict[str, Any] | None:
        """The study's cost; null where it cannot be measured, which stops nothing: its cells will say why."""
        file = self._file("estimate")
        if not file.is_file():
            study = self.out / "study.yaml"
            words = execute.command(["study", "estimate", str(study), "--jobs", str(self.jobs), "--json"])
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                self.say("The study's cost could not be estimated; the message stands above.")
                return None
            records.write_atomic(file, done.stdout)
        guess: dict[str, Any] = json.loads(file.read_text())
        stages = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in guess["stages"].items())
        self.say(f"Estimate for this machine: {guess['total_s'] / 60:.0f} minutes ({stages}).")
        return guess

    def _must(self, stage: str, words: list[str]) -> None:
        """A stage without which nothing else can run."""
        for failure in self._stage(stage, words, f"Stage {stage!r}"):
            raise RunFailed(
                f"{failure}. Mend the cause and run the same study command again: finished stages are kept."
            )

    def _stage(self, stage: str, words: list[str], name: str) -> list[Failure]:
        """Run one command; its wall time is added to the stage's (what a kill cut off is not counted)."""
        began = time.monotonic()
        self.say(f"[{stage}] vlm4vla {' '.join(_short(word, self.out) for word in words)}")
        done = subprocess.run(execute.command(words), stdout=subprocess.DEVNULL, check=False)
        self._add_time(stage, time.monotonic() - began)
        if done.returncode:
            return [Failure(name, f"ended with status {done.returncode}; its own message stands above")]
        return []

    @property
    def _done(self) -> Path:
        """Says which study's report lies in the folder, and that it is whole."""
        return self.out / "finished.json"

    def _file(self, name: str) -> Path:
        """A file that belongs to these settings alone: a folder may hold several studies that share cells."""
        return self.out / f"{name}-{self.identity}.json"

    def _add_time(self, stage: str, seconds: float) -> None:
        file = self._file("wall")
        times: dict[str, float] = json.loads(file.read_text()) if file.is_file() else {}
        times[stage] = round(seconds + times.get(stage, 0.0), 1)
        records.write_atomic(file, json.dumps(times, indent=1) + "\n")


def estimate(config: StudyConfig, jobs: int) -> dict[str, Any]:
    """The plan's cost, with every arm's recipe and the simulator tried for a moment (imports torch).

    Demonstrations and evaluations are tried on their own tasks, the former with the noise that they are recorded with.
    """
    from vlm4vla.rollout.pool import WorkerPool
    from vlm4vla.train import probe

    benchmark = registry.find("bench", config.bench).Benchmark()
    made = cells.demos(config, Path("runs"))
    with TemporaryDirectory() as folder, WorkerPool(config.bench, 1, Path(folder) / "log") as pool:
        first = (made.tasks if made else config.tasks)[:1]
        _tried(pool, benchmark, first, 0.0, 0)  # pays for the start of the simulator, and is not counted
        demos = _tried(pool, benchmark, made.tasks[:3], made.noise, made.after_success) if made else []
        plays = _tried(pool, benchmark, config.tasks[:3], 0.0, 0)
    probes: dict[str, dict[str, Any]] = {}
    for arm in config.arms:
        recipe = cells.begun(config, cells.recipe(config, arm))
        probes[arm] = probe.measure(recipe, benchmark.action_spec, benchmark.state_names, config.eval.batch)
    unknown = [
        f"the length of {what}: the scripted expert failed where it was tried, and the step limit is taken"
        for what, found in (("demonstrations", demos), ("evaluations", plays))
        if found and not any(one.success for one in found)
    ]
    tried = [*demos, *plays]
    measured = plan.Measured(
        frame_s=sum(one.seconds for one in tried) / sum(one.steps for one in tried),
        demo_steps=_steps(demos) if demos else 0.0,
        solved_steps=_steps(plays),
        step_limit=max(step_limit_of(benchmark, task) for task in config.tasks),
        unknown=tuple(unknown),
    )
    found = plan.estimate(config, probes, measured, jobs)
    lengths = {"demo_steps": measured.demo_steps, "solved_steps": measured.solved_steps}
    return found | {"frame_s": round(measured.frame_s, 4), **lengths, "probes": probes}


@dataclass(frozen=True)
class _Try:
    """One episode of the scripted expert; ``limit``: the steps that a failed one may take."""

    success: bool
    steps: int
    limit: int
    seconds: float


def _tried(pool: "Pool", bench: Benchmark, tasks: Sequence[str], noise: float, after_success: int) -> list[_Try]:
    """The first dev start of each task, with all pictures."""
    found: list[_Try] = []
    for task in tasks:
        episode = bench.episodes("dev", task, 1)[0].to_dict()
        job = {"kind": "demo", "id": task, "episode": episode, "noise": noise}
        job |= {"after_success": after_success, "pictures": True}
        began = time.monotonic()
        for _, result in pool.run([job]):
            if result["kind"] == "failure":
                raise RunFailed(f"The simulator cannot be tried: {result['error']}")
            steps, seconds = len(result["actions"]), time.monotonic() - began
            found.append(_Try(result["success"], steps, step_limit_of(bench, task), seconds))
    return found


def _steps(found: Sequence[_Try]) -> float:
    """Mean length of those that succeeded; of all limits where none did."""
    good = [one.steps for one in found if one.success] or [one.limit for one in found]
    return sum(good) / len(good)


def _short(word: str, out: Path) -> str:
    return os.path.relpath(word) if word.startswith(str(out)) else word
