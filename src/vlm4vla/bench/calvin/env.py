"""The CALVIN benchmark, ABC to D, and its start lists. Needs numpy only; the simulator loads in ``make``.

Whatever a score depends on is fixed by ``id``: change any of it and the id changes (protocol.py). README.md gives the
reasons, the sources and the measurements.
"""

import hashlib
import os
import platform
import re
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vlm4vla.bench import assets, common
from vlm4vla.bench.calvin import language, oracle, protocol, scenes, sequences, starts
from vlm4vla.bench.calvin.language import sentences
from vlm4vla.bench.calvin.protocol import ID
from vlm4vla.bench.calvin.starts import CHAIN, CHAINS, SINGLE
from vlm4vla.bench.common import constants, needs_simulator
from vlm4vla.types import (
    SPLITS,
    ActionSpec,
    CameraMove,
    CameraSpec,
    Dimension,
    Env,
    EpisodeSpec,
    Expert,
    Split,
    Vector,
    refuse,
)

VARIANT = "VLM4VLA_CALVIN_ENV"
"""Name of the variable that chooses between the two versions of the original environment in use."""
CURRENT, PINNED = "797142c", "1431a46"
_DATA = "calvin_env/data"
_UNUSED = ("panda_digit.urdf", "digit.STL")  # of another robot; not in every copy of the assets


class Benchmark:
    """Chains of five tasks in scene D, and single tasks in all scenes; see :class:`vlm4vla.types.Benchmark`."""

    action_spec = ActionSpec(
        dimensions=(
            *(Dimension(f"d{axis}", "0.02 m", "delta", "world", -1.0, 1.0) for axis in "xyz"),
            *(Dimension(f"deuler_{axis}", "0.05 rad", "delta", "world", -1.0, 1.0) for axis in "xyz"),
            Dimension("gripper", "+1 open, -1 close", "gripper", "gripper", -1.0, 1.0),
        ),
        rotation="euler_xyz",
        control_hz=float(protocol.CONTROL_HZ),
    )
    cameras = (
        CameraSpec(protocol.STATIC, protocol.STATIC_PICTURE, protocol.STATIC_PICTURE),
        CameraSpec(protocol.GRIPPER, protocol.GRIPPER_PICTURE, protocol.GRIPPER_PICTURE),
    )
    # The static camera sees 10 degrees from 4 m away: 2 degrees would be a fifth of its picture.
    camera_moves: ClassVar[dict[str, CameraMove]] = {
        protocol.STATIC: CameraMove(metres=0.03, degrees=0.5),
        protocol.GRIPPER: CameraMove(metres=0.01, degrees=2.0),
    }
    state_names = (
        *(f"tcp_{axis}_m" for axis in "xyz"),
        *(f"tcp_euler_{axis}_rad" for axis in "xyz"),
        "gripper_width_m",
        *(f"joint_{i}_rad" for i in range(7)),
        "gripper_action",
    )
    step_limit = protocol.SUBTASKS * protocol.SUBTASK_STEPS
    success_rule = protocol.SUCCESS_RULE
    step_limits: ClassVar[dict[str, int]] = dict.fromkeys(CHAINS, step_limit) | dict.fromkeys(
        SINGLE, protocol.SUBTASK_STEPS
    )
    data_format = "calvin"
    chains = CHAINS
    published: ClassVar[dict[str, int]] = {CHAIN: sequences.COUNT}

    def __init__(self) -> None:
        chosen = os.environ.get(VARIANT, CURRENT)
        if chosen not in (CURRENT, PINNED):
            todo = f"Set {VARIANT} to one of these commits of calvin_env, or do not set it."
            raise refuse(f"Unknown version {chosen!r}", given=chosen, possible=[CURRENT, PINNED], todo=todo)
        self._forgets_led = chosen == PINNED
        self.id = f"{ID}+env-{PINNED}" if self._forgets_led else ID

    def tasks(self) -> tuple[str, ...]:
        """The chain, which the published number is about, and the 34 single tasks."""
        return (*SINGLE[:1], *CHAINS, *SINGLE[1:])

    def instruction(self, task: str) -> str:
        """The sentence of the official validation file; for the chain, that of no task in particular."""
        if _known(task) in CHAINS:
            return "solve five tasks in a row"
        return sentences()[task]

    def paraphrase(self, task: str) -> str:
        """Another official sentence for a single task, for the control of that name: see ``language.other_words``."""
        if _known(task) in CHAINS:
            raise refuse(
                f"{task!r} is several tasks in a row, each with a sentence of its own",
                given=task,
                possible=SINGLE,
                todo="Ask for the paraphrase of one of these.",
            )
        return language.other_words()[task]

    def episodes(self, split: Split, task: str, count: int) -> tuple[EpisodeSpec, ...]:
        """The first ``count`` starts of a split; a longer list begins with the shorter one. 1000 chains at most.

        Those of the quick chain keep their index in the whole list. Train starts are told one of the official
        training paraphrases, the others the sentence of the evaluation.
        """
        if split not in SPLITS:
            raise refuse(f"Unknown split {split!r}", given=split, possible=SPLITS, todo="Use one of these.")
        if _known(task) not in CHAINS:
            told = language.paraphrases()[task] if split == "train" else (self.instruction(task),)
            seeds = [start_seed(split, task, i) for i in range(count)]
            return tuple(
                EpisodeSpec(self.id, split, task, i, seed, told[seed % len(told)]) for i, seed in enumerate(seeds)
            )
        first = sentences()
        wanted = range(min(count, sequences.COUNT)) if task == CHAIN else _quick(split)[:count]
        return tuple(
            EpisodeSpec(self.id, split, task, i, start_seed(split, CHAIN, i), first[sequences.sequence(split, i)[1][0]])
            for i in wanted
        )

    def describe(self, episode: EpisodeSpec) -> dict[str, Any]:
        """Tasks, scene and state of a start; a chain also has the number of its initial state (0 to 191).

        ``prelude``: the task of lifting that the script plays from that state before the episode begins, or null. In
        the few starts where it fails another state is drawn, in the same scene; only the simulator knows of that.
        """
        start = starts.of(episode)
        chain = episode.task in CHAINS
        return {
            "subtasks": list(start.tasks),
            "initial_state": sequences.state_number(episode.split, episode.index) if chain else None,
            "scene": start.scene,
            "prelude": start.prelude,
            "robot_obs": start.robot_obs.tolist(),
            "scene_obs": start.scene_obs.tolist(),
        }

    def make(self, task: str) -> Env:
        """A live environment. Close it before the next one is made in this process.

        Raises UserError where the simulator or its assets are missing.
        """
        _known(task)
        with needs_simulator("calvin", ID):
            from vlm4vla.bench.calvin.sim import TableEnv
        data = assets.folder("calvin") / _DATA
        return TableEnv(task, data, self.action_spec, self.cameras, sentences(), self._forgets_led)

    def expert(self, env: Env) -> Expert:
        """The scripts, bound to ``env`` (made by ``make``)."""
        with needs_simulator("calvin", ID):
            from vlm4vla.bench.calvin.expert import ScriptedExpert
            from vlm4vla.bench.calvin.sim import TableEnv
        assert isinstance(env, TableEnv)
        return ScriptedExpert(env)

    def do_nothing(self) -> Vector:
        """No motion, gripper open (as it is at every start, but where a block is in the hand: that one falls)."""
        return np.array([0, 0, 0, 0, 0, 0, 1], np.float32)

    def versions(self) -> dict[str, str]:
        """Versions of simulator, renderer and assets. Raises UserError where they are not installed."""
        with needs_simulator("calvin", ID):
            import pybullet  # noqa: F401

            from vlm4vla.bench.calvin import backend
        found = {name: version(name) for name in ("pybullet", "numpy")}
        found["python"] = platform.python_version()
        found["renderer"], driver = backend.chosen()
        if driver:
            found["gl_renderer"] = driver
        found["calvin_env"] = PINNED if self._forgets_led else CURRENT
        found["assets"] = _assets_digest()
        return found


def _quick(split: Split) -> list[int]:
    """Indices of the sequences that begin in the first initial states: all of each, since they share its luck."""
    return [i for i in range(sequences.COUNT) if sequences.state_number(split, i) < protocol.QUICK_STATES]


def start_seed(split: Split, task: str, index: int) -> int:
    """Seed of a start (see ``bench.common``); the eval chains are the published list, by index."""
    return common.start_seed(protocol.SEED_ENTROPY, split, task, index)


def decides_scores() -> dict[str, Any]:
    """Everything that a score depends on, as plain data; ``protocol.DIGEST`` is the digest of it."""
    here = Path(__file__).parent
    listed = [(split, task, i) for split in SPLITS for task in Benchmark().tasks() for i in (0, 1)]
    draws = {task: 2 if task in starts.HELD_FROM else 1 for task in Benchmark().tasks()}
    first = [EpisodeSpec(ID, split, task, i, start_seed(split, task, i), "") for split, task, i in listed]
    return {
        "id": ID,
        "constants": constants(protocol),
        "action_spec": Benchmark.action_spec.to_dict(),
        "cameras": [asdict(camera) for camera in Benchmark.cameras],
        "step_limits": Benchmark.step_limits,
        "success_rule": Benchmark.success_rule,
        "state_names": Benchmark.state_names,
        "do_nothing": Benchmark().do_nothing().tolist(),
        "rules": {
            n: getattr(oracle, n) for n in ("ROTATION", "TILT", "DRIFT", "PUSH", "SLIDE", "DRAW", "LIFT", "STILL")
        },
        "tasks": sequences.TASKS,
        "scenes": [asdict(scenes.BY_NAME[name]) for name in scenes.SCENES],
        "sequences": hashlib.sha256((here / "sequences.txt").read_bytes()).hexdigest(),
        "held_from": starts.HELD_FROM,
        "first_scenes": [
            starts.of(episode, draw).scene_obs.round(9).tolist()
            for episode in first
            for draw in range(draws[episode.task])
        ],
        "first_preludes": [starts.of(episode).prelude for episode in first],
        "first_seeds": [episode.seed for episode in first],
        "pins": (here / "requirements.txt").read_text().split(),
    }


@cache
def _assets_digest() -> str:
    """Over names and bytes of everything that scenes, robot and sentences are read from; refuses missing meshes."""
    folder = assets.folder("calvin")
    _check_meshes(folder)
    digest = hashlib.sha256()
    for path in sorted(
        [*(folder / _DATA).rglob("*"), *(folder / name for name in (language.EVALUATION, language.TRAINING))]
    ):
        if path.is_file() and path.suffix.lower() not in (".sldprt", ".sldasm") and path.name not in _UNUSED:
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _check_meshes(folder: Path) -> None:
    """Bullet loads a body whose mesh is missing without it, with a line in the log: other physics, other pictures."""
    for urdf in sorted((folder / _DATA).rglob("*.urdf")):
        for name in re.findall(r'filename="(?:package://)?([^"]+)"', urdf.read_text()):
            if not (urdf.parent / name).is_file() and urdf.name not in _UNUSED:
                raise refuse(
                    f"The assets of 'calvin' are incomplete: {urdf.relative_to(folder)} names {name}, which is missing",
                    possible="the official files, all of them",
                    todo="Restore the file, or run `vlm4vla bench install calvin --assets FOLDER` with a whole folder.",
                )


def _known(task: str) -> str:
    possible = Benchmark().tasks()
    if task not in possible:
        raise refuse(f"Unknown task {task!r} of {ID}", given=task, possible=possible, todo="Use one of these.")
    return task
