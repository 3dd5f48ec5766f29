"""A deterministic policy that needs no model, and what the tests of this folder share."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vlm4vla.schemas import EvalConfig
from vlm4vla.types import ActionSpec, CameraSpec, Dimension, EpisodeSpec, Observation, refuse

LONG = 60.0  # seconds; nothing takes as long, however loaded the machine
ARM = tuple(Dimension(name, "m", "delta", "base", -1.0, 1.0) for name in ("x", "y", "z"))
SPEC = ActionSpec((*ARM, Dimension("gripper", "1", "gripper", "hand", -1.0, 1.0)), "none", 10.0)


class FakePolicy:
    """Its answer is a function of the observation alone: mean colour of the first picture, state, instruction."""

    action_spec = SPEC
    chunk = 3
    cameras: tuple[str, ...] = ("front",)
    image_size = 16
    state_names: tuple[str, ...] = ()
    noisy = False
    digest = "fake0123"
    about: Mapping[str, Any] = {"center_crop": 0.9, "checkpoint_step": 7}

    def __init__(self) -> None:
        self.gate = threading.Event()  # closed (cleared), every batch but the warming one waits until it opens
        self.gate.set()
        self.entered = threading.Semaphore(0)  # one for each batch that began
        self.batches: list[list[Observation]] = []
        self.tokens: list[int | None] = []
        self.threads: set[str] = set()

    def act(self, observations: Sequence[Observation], tokens: int | None, precision: str = "fp32") -> np.ndarray:
        self.batches.append(list(observations))
        self.tokens.append(tokens)
        self.threads.add(threading.current_thread().name)
        if len(self.batches) > 1:
            self.entered.release()
            assert self.gate.wait(LONG)
        if any(o.instruction == "crash" for o in observations):
            raise RuntimeError("weights on fire")
        if any(o.instruction == "refuse" for o in observations):
            raise refuse("This instruction is refused", todo="Say something else.")
        return np.stack([answer(o) for o in observations])

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside the block no batch comes to its end."""
        self.gate.clear()
        try:
            yield
        finally:
            self.gate.set()

    def count_tokens(self, instruction: str) -> int:
        return 10 + len(instruction.split())


def answer(observation: Observation) -> np.ndarray:
    colour = next(iter(observation.images.values())).reshape(-1, 3).mean(0) / 255
    extra = 0.0 if observation.state is None else float(observation.state.sum())
    first = np.array([*colour[:2], (len(observation.instruction) + extra) / 100, 1.0])
    return (first * np.array([1.0, 0.5, 0.25])[:, None]).astype(np.float32)


def picture(seed: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def request(seed: int = 0, prompt: str = "open the drawer") -> dict[str, object]:
    return {"observation/image": picture(seed), "prompt": prompt}


def expected(seed: int = 0, prompt: str = "open the drawer") -> np.ndarray:
    return answer(Observation({"front": picture(seed)}, prompt))


TASKS = ("drawer-close", "drawer-open", "push")


class FakeBench:
    id = "fake/v1"
    action_spec = SPEC
    cameras = (CameraSpec("front", 16, 16),)
    state_names: tuple[str, ...] = ()
    step_limit = 30
    success_rule = "by decree"

    def tasks(self) -> tuple[str, ...]:
        return TASKS

    def instruction(self, task: str) -> str:
        return f"please {task.replace('-', ' ')}"

    def episodes(self, split: str, task: str, count: int) -> tuple[EpisodeSpec, ...]:
        first = 100 * TASKS.index(task)
        return tuple(
            EpisodeSpec("fake/v1", "eval", task, i, first + i, self.instruction(task)) for i in range(min(count, 9))
        )


def configured(out: Path, **changes: Any) -> EvalConfig:
    values: dict[str, Any] = {"policy": "folder", "bench": "fake", "tasks": TASKS, "episodes": 4, "execute": 2}
    return EvalConfig(**(values | {"arm": "a", "out": out, "batch": 2} | changes))
