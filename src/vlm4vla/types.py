"""The words the whole house shares: numpy and the standard library only, importable in every simulator's environment.

Shape legend (suffix of a name, or of a jaxtyping annotation):
B batch, T tokens, Q action queries, D model width, H horizon (steps of an action chunk), A action dimensions,
S proprioceptive state dimensions, N frames of an episode; images are (height, width, 3) uint8 RGB.
"""

import difflib
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Vector = npt.NDArray[np.float32]
Split = Literal["train", "dev", "eval"]
SPLITS: tuple[Split, ...] = ("train", "dev", "eval")


class UserError(ValueError):
    """A user's mistake, told in four parts: what was given, what is possible, the nearest guess, what to do."""


class RunFailed(RuntimeError):
    """Something other than the user's input failed (a simulator, a worker, a stage); the message says what to do."""


class StartFailed(RunFailed):
    """This one start cannot be put in place, and would not be the next time; other starts may well be."""


def refuse(
    problem: str, *, given: object = None, possible: Iterable[object] | str | None = None, todo: str
) -> UserError:
    """Build (not raise) the four-part error of the house.

    ``problem`` is a sentence; ``possible`` is a list of accepted values (then the nearest guess is found among them)
    or a sentence that describes them; ``todo`` says what to do next.
    """
    parts = [problem.rstrip(".") + "."]
    if possible is not None:
        if isinstance(possible, str):
            parts.append(f"Possible: {possible.rstrip('.')}.")
        else:
            names = [str(name) for name in possible]
            parts.append(f"Possible: {', '.join(names) if names else '(nothing)'}.")
            guess = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
            if guess:
                parts.append(f"Did you mean {guess[0]!r}?")
    parts.append(todo)
    return UserError(" ".join(parts))


@dataclass(frozen=True)
class Dimension:
    """One number of an action: its name, unit, frame, whether it is a delta or absolute, and its limits."""

    name: str
    unit: str
    kind: Literal["delta", "absolute", "gripper"]
    frame: str
    low: float
    high: float


@dataclass(frozen=True)
class ActionSpec:
    """What the numbers of an action mean. A dataset and a benchmark each declare one; see :meth:`differences`.

    A gripper dimension has the sense of the house: +1 opens, -1 closes; datasets and simulators with another sense
    convert once, at their own border. ``rotation`` names the convention of the rotation dimensions ("none" if none).
    """

    dimensions: tuple[Dimension, ...]
    rotation: Literal["none", "euler_xyz", "axis_angle", "quaternion"]
    control_hz: float

    @property
    def size(self) -> int:
        return len(self.dimensions)

    @property
    def gripper(self) -> tuple[int, ...]:
        """Indices of the gripper dimensions."""
        return tuple(i for i, d in enumerate(self.dimensions) if d.kind == "gripper")

    @property
    def arm(self) -> tuple[int, ...]:
        """Indices of all other dimensions."""
        return tuple(i for i, d in enumerate(self.dimensions) if d.kind != "gripper")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; a dimension without a limit has null there."""
        plain = asdict(self) | {"control_hz": float(self.control_hz)}
        for d in plain["dimensions"]:
            d.update({key: None for key in ("low", "high") if math.isinf(d[key])})
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ActionSpec":
        dimensions = tuple(
            Dimension(
                **{
                    **d,
                    "low": -math.inf if d["low"] is None else d["low"],
                    "high": math.inf if d["high"] is None else d["high"],
                }
            )
            for d in data["dimensions"]
        )
        return cls(dimensions=dimensions, rotation=data["rotation"], control_hz=float(data["control_hz"]))

    def differences(self, other: "ActionSpec") -> list[str]:
        """Sentences on where two specs differ; empty when actions of one mean the same in the other."""
        out: list[str] = []
        if self.size != other.size:
            out.append(f"{self.size} dimensions against {other.size}")
        for mine, theirs in zip(self.dimensions, other.dimensions, strict=False):
            if mine != theirs:
                out.append(f"{mine} against {theirs}")
        if self.rotation != other.rotation:
            out.append(f"rotation {self.rotation} against {other.rotation}")
        if self.control_hz != other.control_hz:
            out.append(f"{self.control_hz} Hz against {other.control_hz} Hz")
        return out

    def check(self, action: npt.ArrayLike) -> Vector:
        """Return ``action`` as (A,) float32, or refuse one of wrong shape, not finite, or outside the limits."""
        value = np.asarray(action, dtype=np.float32)
        if value.shape != (self.size,):
            names = ", ".join(d.name for d in self.dimensions)
            raise refuse(
                f"An action of shape {value.shape} was given",
                possible=f"shape ({self.size},): {names}",
                todo="Send one number per dimension of the action spec.",
            )
        for d, v in zip(self.dimensions, value, strict=True):
            if not (d.low - 1e-5 <= v <= d.high + 1e-5):  # also catches NaN
                raise refuse(
                    f"Action dimension {d.name!r} is {v}",
                    possible=f"{d.low} to {d.high} {d.unit}",
                    todo="Un-normalise and clip actions before they are sent; see the benchmark's ActionSpec.",
                )
        return value


@dataclass(frozen=True)
class CameraSpec:
    """A camera of a benchmark: its name and the size of the pictures it delivers."""

    name: str
    height: int
    width: int


@dataclass(frozen=True)
class CameraMove:
    """How far the control ``camera-moved`` moves a camera: ``metres`` along and ``degrees`` about random axes."""

    metres: float
    degrees: float


@dataclass(frozen=True)
class CameraShift:
    """One drawn move of a camera, against where it stands or is mounted.

    ``translation`` (3,) in metres and ``rotation`` (3,), a rotation vector in radians: both in the camera's own axes
    before the move, x to the right of its picture, y up, z towards the viewer (OpenGL's).
    """

    translation: tuple[float, float, float]
    rotation: tuple[float, float, float]


@dataclass(frozen=True)
class Observation:
    """What a policy may look at: camera pictures by name, the instruction, and (if asked for) proprioception (S,).

    ``noise`` (0 to 2**63 - 1) is the seed of what a policy draws when it is asked with this; most draw nothing.
    """

    images: Mapping[str, Image]
    instruction: str
    state: Vector | None = None
    noise: int = 0


def view_names(cameras: Iterable[str], window: int) -> tuple[str, ...]:
    """Names of the pictures that a policy with a history sees, in the order of its prompt: per camera, oldest first.

    The last picture has the camera's own name; the one ``n`` frames before it is ``NAME@-n``. Before the start of an
    episode its first frame is repeated.
    """
    return tuple(view_name(camera, age) for camera in cameras for age in reversed(range(window)))


def view_name(camera: str, age: int) -> str:
    return f"{camera}@-{age}" if age else camera


def camera_and_age(view: str) -> tuple[str, int]:
    """The inverse: the camera of a picture, and how many frames ago it was taken."""
    found = re.fullmatch(r"(.+)@-([1-9]\d*)", view)
    return (found[1], int(found[2])) if found else (view, 0)


@dataclass(frozen=True)
class EpisodeSpec:
    """One start of one task. ``seed`` fixes the initial state completely; ``index`` is its place in the list."""

    benchmark: str
    split: Split
    task: str
    index: int
    seed: int
    instruction: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "EpisodeSpec":
        return cls(**data)


@dataclass(frozen=True)
class StepResult:
    """After one action: the success rule's verdict, and the observation if it was asked for (``render=True``).

    ``over``: the episode has ended without success before the benchmark's step limit. ``completed``: subtasks solved so
    far, null where an episode is one task. When it changes, the observation is there unasked, with the instruction of
    the next subtask. ``holds``: whether the success condition holds now, where the rule asks for it at another moment
    too (such as the last step), else null. ``partial``: whether the benchmark's condition of partial success has held
    in this episode so far, null where it has none.
    """

    success: bool
    observation: Observation | None
    over: bool = False
    completed: int | None = None
    holds: bool | None = None
    partial: bool | None = None


@dataclass(frozen=True)
class Step:
    """One recorded step: what was seen, and the action label (A,) for it (for noisy experts: the clean action)."""

    observation: Observation
    action: Vector
    success: bool


@dataclass(frozen=True)
class Episode:
    """A recorded episode; all steps share the instruction of ``spec``."""

    spec: EpisodeSpec
    steps: tuple[Step, ...]
    info: Mapping[str, Any] = field(default_factory=dict)


class Env(Protocol):
    """One live environment of one task. Make, use and close it before the next one is made (one renderer a process).

    ``look_at`` names the cameras that observations hold from then on (all at first): a picture costs more than a step.
    One whose data have a format of their own also has ``vectors() -> {name: numbers}``: what that format stores of a
    moment beside pictures and state. That of a benchmark with ``camera_moves`` is a :class:`MovableEnv`.
    """

    def look_at(self, cameras: Collection[str]) -> None: ...
    def reset(self, episode: EpisodeSpec, render: bool = True) -> StepResult: ...
    def step(self, action: Vector, render: bool) -> StepResult: ...
    def snapshot(self) -> npt.NDArray[np.float64]: ...  # the whole physical state, flat: for bit-equality checks
    def close(self) -> None: ...


class MovableEnv(Env, Protocol):
    """An environment whose cameras can be moved.

    ``move_cameras``: from then on, across resets, the named cameras see from where their shift puts them, wrist cameras
    relative to their mount; all others, and all with ``{}``, from where they belong. Nothing but pictures changes.
    """

    def move_cameras(self, shifts: Mapping[str, CameraShift]) -> None: ...


class Expert(Protocol):
    """A scripted policy with privileged state, bound to a live environment. Called once per step; returns (A,)."""

    def reset(self, episode: EpisodeSpec) -> None: ...
    def act(self) -> Vector: ...


class Benchmark(Protocol):
    """What ``bench/<name>/env.py`` exports as ``Benchmark``. Nothing of it may import torch or pydantic.

    Where tasks have step limits of their own it also has ``step_limits`` (task -> steps), and ``step_limit`` is the
    largest of them; ask :func:`step_limit_of`. Where actions have no limits it has ``typical`` (A,), the size of
    random ones for checks and of noise in demonstrations. ``published`` (task -> length of its published evaluation
    list) and ``describe(episode)`` (a start in plain data) are for ``bench episodes``, where a benchmark has them.
    Demonstrations carry what ``describe`` calls "scene" and "attributes" (texts about the task, for files of its own
    format). ``caveats`` are sentences that belong into each report. ``chains`` names tasks that are several in a row,
    of which no demonstrations are recorded. ``data_format`` names the format of its own data, where there is a writer
    of it. ``must_have_assets(tasks)`` refuses tasks whose files are not there, before the first of them is played.

    For controls: ``camera_moves`` (camera -> :class:`CameraMove`) says how far ``camera-moved`` moves each camera;
    ``paraphrase(task) -> str`` tells a task in other words than ``instruction``, for ``instruction-paraphrased``.
    """

    id: str
    action_spec: ActionSpec
    cameras: tuple[CameraSpec, ...]
    state_names: tuple[str, ...]
    step_limit: int
    success_rule: str

    def tasks(self) -> tuple[str, ...]: ...
    def instruction(self, task: str) -> str: ...
    def episodes(self, split: Split, task: str, count: int) -> tuple[EpisodeSpec, ...]: ...
    def make(self, task: str) -> Env: ...
    def expert(self, env: Env) -> Expert: ...
    def do_nothing(self) -> Vector: ...
    def versions(self) -> dict[str, str]: ...


def step_limit_of(bench: Benchmark, task: str) -> int:
    """Steps that an episode of ``task`` may take."""
    own: Mapping[str, int] = getattr(bench, "step_limits", {})
    return own.get(task, bench.step_limit)
