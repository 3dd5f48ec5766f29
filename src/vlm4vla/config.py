"""Frozen, typed configurations: strict load from YAML with dotted overrides, canonical hash, and diff.

An unknown or unread setting is an error. No default hides below the command line: what a run used is what
``to_yaml`` of its resolved configuration says.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from vlm4vla.types import refuse

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0)]
Group = Literal["vision", "connector", "language", "embedding"]
Control = Literal["image-blank", "image-other", "instruction-swapped"]
"""Evaluation-only changes of what a policy gets to see: no picture, another episode's, another task's sentence."""


class Config(BaseModel):
    """Base of all configurations: immutable, and an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class BackboneConfig(Config):
    """Which VLM. ``checkpoint``: a Hugging Face id, a folder, or ``preset:NAME`` of the family (``preset:tiny``)."""

    family: str
    checkpoint: str
    init: Literal["pretrained", "scratch"]
    image_size: Positive = 224
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    revision: str | None = None  # commit, tag or branch on the hub
    prompt: str = "What action should the robotic arm take to {instruction}"

    @field_validator("prompt")
    @classmethod
    def _one_place(cls, prompt: str) -> str:
        if prompt.count("{instruction}") != 1:
            raise ValueError("the prompt must contain {instruction} exactly once, or the policy never hears it")
        return prompt


class HeadConfig(Config):
    """The action head. ``gripper_weight`` and ``huber_delta`` are the paper's (reference: 0.01 and 1)."""

    name: str = "regression"
    gripper_weight: float = 0.01
    huber_delta: float = 1.0


class NormalizerConfig(Config):
    """How arm actions become targets in [-1, 1]. ``limits``: the action spec's own bounds (nothing is fitted)."""

    kind: Literal["limits", "quantile", "min_max", "mean_std"] = "quantile"
    clip: float | None = None


class AugmentConfig(Config):
    """Training-time picture changes. ``shift``: DrQ random shift in pixels of the model's picture, edges replicated."""

    shift: Count = 0


class PolicyConfig(Config):
    """The policy: one VLM, ``queries`` learned vectors after its last token, one head."""

    backbone: BackboneConfig
    head: HeadConfig = HeadConfig()
    chunk: Positive
    queries: Positive = 1
    cameras: tuple[str, ...]
    proprioception: bool = False
    normalizer: NormalizerConfig = NormalizerConfig()


class DataConfig(Config):
    """Where samples come from. ``workers`` are loader processes; the order does not depend on them."""

    store: Path
    augment: AugmentConfig = AugmentConfig()
    workers: Count = 0


class OptimizerConfig(Config):
    """AdamW; ``clip_norm`` 0 switches clipping off (the reference does so by accident)."""

    lr: Annotated[float, Field(gt=0)]
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: Count = 0
    schedule: Literal["constant", "cosine"] = "constant"
    clip_norm: NotNegative = 1.0


def _check_whole_lines(checkpoint_every: int, log_every: int) -> None:
    if checkpoint_every % log_every:
        raise ValueError("checkpoint_every must be a multiple of log_every, so that a resumed log has whole lines")


class TrainConfig(Config):
    """One training run. ``batch`` is the global batch; ``freeze`` lists parameter groups that get no gradient."""

    policy: PolicyConfig
    data: DataConfig
    optimizer: OptimizerConfig
    batch: Positive
    steps: Positive
    freeze: tuple[Group, ...] = ()
    precision: Literal["fp32", "bf16"] = "bf16"
    seed: int = 0
    log_every: Positive = 20
    checkpoint_every: Positive = 500
    threads: Count = 0  # CPU threads per process; 0 leaves torch's choice
    out: Path

    @model_validator(mode="after")
    def _whole_lines(self) -> "TrainConfig":
        _check_whole_lines(self.checkpoint_every, self.log_every)
        return self


class EvalConfig(Config):
    """One closed-loop evaluation. Rows do not depend on ``workers``; ``batch`` is the one padded inference shape."""

    policy: str  # folder, Hugging Face id, ws://HOST:PORT, or builtin:expert / builtin:do-nothing
    bench: str
    tasks: tuple[str, ...] = ()  # empty: all tasks of the benchmark
    episodes: Positive = 20  # per task, the first ones of the split's list
    split: Literal["train", "dev", "eval"] = "eval"
    execute: Positive  # steps executed of each chunk
    controls: tuple[Control | None, ...] = (None,)
    control_episodes: Positive | None = None  # per task for the controls; null: as many as ``episodes``
    arm: str = "policy"  # the name that the rows carry
    seed: int = 0  # the policy's training seed: recorded and part of the run's identity, nothing is drawn from it
    workers: Positive = 2
    batch: Positive = 4
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: Count = 0
    videos_per_task: Count = 0
    assume_spec: bool = False  # accept a server that declares no action spec
    out: Path


class DemosConfig(Config):
    """Demonstrations of a benchmark's scripted expert on its train starts; only successful episodes are kept."""

    bench: str
    tasks: tuple[str, ...] = ()  # empty: all tasks of the benchmark
    per_task: Positive
    noise: NotNegative = 0.3  # sd of Gaussian noise on the executed arm action; the label stays clean
    after_success: Count = 4  # steps recorded after the first success
    workers: Positive = 2
    out: Path


class ArmConfig(Config):
    """An arm: dotted overrides of the study's ``train`` section, and a sentence for the report."""

    label: str
    overrides: dict[str, Any] = {}
    controls: tuple[Control, ...] = ()


class StudyDemos(Config):
    per_task: Positive
    noise: NotNegative
    after_success: Count


class StudyEval(Config):
    episodes: Positive
    control_episodes: Positive
    execute: Positive
    batch: Positive
    workers: Positive
    videos_per_task: Count
    threads: Count = 0
    precision: Literal["fp32", "bf16"] = "fp32"


class StudyTrain(Config):
    """The recipe that all arms share (``policy`` to ``precision`` as in :class:`TrainConfig`)."""

    policy: PolicyConfig
    augment: AugmentConfig
    optimizer: OptimizerConfig
    batch: Positive
    steps: Positive
    freeze: tuple[Group, ...] = ()
    precision: Literal["fp32", "bf16"] = "bf16"
    loader_workers: Count = 0
    log_every: Positive = 20
    checkpoint_every: Positive = 500
    threads: Count = 0

    @model_validator(mode="after")
    def _whole_lines(self) -> "StudyTrain":
        _check_whole_lines(self.checkpoint_every, self.log_every)
        return self


class StudyConfig(Config):
    """Arms x seeds on one benchmark; ``factor`` names the one thing in which the arms may differ."""

    name: str
    title: str
    caveat: str
    bench: str
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    factor: str
    may_differ: tuple[str, ...]  # dotted keys of ``train`` that the factor touches
    demos: StudyDemos
    encoding: Literal["jpeg", "png", "raw"] = "png"  # of the frame store; jpeg loses a little
    train: StudyTrain
    eval: StudyEval
    arms: Annotated[dict[str, ArmConfig], Field(min_length=1)]
    references: tuple[Literal["do-nothing", "expert"], ...] = ("do-nothing", "expert")
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)

    @model_validator(mode="after")
    def _consistent(self) -> "StudyConfig":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is listed twice in seeds")
        if self.eval.execute > self.train.policy.chunk:
            raise ValueError(
                f"eval.execute {self.eval.execute} is more than the chunk of {self.train.policy.chunk} steps"
            )
        if self.eval.control_episodes > self.eval.episodes:
            raise ValueError(
                "eval.control_episodes is more than eval.episodes: controls are paired with the arm's rows"
            )
        known = flatten(to_dict(self.train))
        for key in self.may_differ:
            if not any(k == key or k.startswith(f"{key}.") for k in known):
                raise ValueError(f"may_differ names {key!r}, which is no setting of train: {', '.join(sorted(known))}")
        return self


C = TypeVar("C", bound=Config)


def load(cls: type[C], file: Path | None, overrides: Iterable[str] = (), **values: Any) -> C:
    """Read YAML, apply ``values`` and dotted overrides (``["--a.b", "3", ...]``), validate strictly.

    Raises UserError for a missing file, broken YAML, an unknown key (with the nearest known one) or a bad value.
    """
    data: dict[str, Any] = {}
    if file is not None:
        if not file.is_file():
            siblings = sorted(str(p) for p in file.parent.glob("*.yaml")) if file.parent.is_dir() else []
            raise refuse(f"No file {str(file)!r}", given=file, possible=siblings, todo="Give the path of a YAML file.")
        try:
            data = yaml.safe_load(file.read_text()) or {}
        except yaml.YAMLError as error:
            raise refuse(
                f"{file} is not valid YAML: {error}", possible="YAML 1.1", todo="Mend the line named above."
            ) from error
        if not isinstance(data, dict):
            raise refuse(f"{file} holds {type(data).__name__}", possible="a mapping of settings", todo="Mend the file.")
    for key, value in values.items():
        data[key] = value
    for key, text in _pairs(list(overrides)):
        _put(data, key, _value(key, text))
    return validate(cls, data, source=str(file) if file else "the command line")


def validate(cls: type[C], data: Mapping[str, Any], source: str) -> C:
    """``cls`` from plain data, with pydantic's findings turned into one four-part sentence each."""
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        sentences: list[str] = []
        for found in error.errors():
            where = ".".join(str(part) for part in found["loc"])
            if found["type"] == "extra_forbidden":
                known = _fields_at(cls, found["loc"][:-1])
                problem = refuse(
                    f"Unknown setting {where!r} in {source}",
                    given=str(found["loc"][-1]),
                    possible=known,
                    todo="Remove it or spell it as listed; no setting is ever ignored.",
                )
            elif found["type"] == "missing":
                problem = refuse(f"Setting {where!r} is missing in {source}", todo="Add it.")
            else:
                expected = found.get("ctx", {}).get("expected")
                shown = (
                    f"Setting {where!r} in {source} is {found['input']!r}" if not _section(found) else f"In {source}"
                )
                problem = refuse(
                    f"{shown}: {found['msg'].removeprefix('Value error, ')}",
                    possible=str(expected) if expected else None,
                    todo="Give a value of the stated kind.",
                )
            sentences.append(str(problem))
        raise refuse("\n".join(sentences).rstrip("."), todo="") from None


def to_dict(config: Config) -> dict[str, Any]:
    """Plain JSON data of a configuration (paths as strings, tuples as lists)."""
    return config.model_dump(mode="json")


def to_yaml(config: Config) -> str:
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def digest(data: Config | Mapping[str, Any] | list[Any]) -> str:
    """12 hex digits of SHA-256 over the canonical JSON: the identity of a configuration."""
    plain = to_dict(data) if isinstance(data, Config) else data
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def flatten(data: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; lists stay values."""
    if not isinstance(data, Mapping):
        return {prefix: data}
    out: dict[str, Any] = {}
    for key, value in data.items():
        out.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return out


def diff(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both values (a key absent on one side counts as None)."""
    fa, fb = flatten(a), flatten(b)
    return {k: (fa.get(k), fb.get(k)) for k in sorted(fa.keys() | fb.keys()) if fa.get(k) != fb.get(k)}


def override(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of ``data`` with dotted keys set."""
    copy: dict[str, Any] = json.loads(json.dumps(data))
    for key, value in changes.items():
        _put(copy, key, value)
    return copy


def _section(found: Mapping[str, Any]) -> bool:
    """Whether a finding is about several settings together (then its input is the whole section)."""
    return bool(found["type"] == "value_error") and isinstance(found["input"], dict | BaseModel)


def _value(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise refuse(
            f"--{key} {text!r} is not a valid value",
            possible="YAML, such as 3, true or '[a, b]'",
            todo="Mend the value.",
        ) from None


def _pairs(words: list[str]) -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise refuse(f"Unexpected argument {word!r}", possible="--dotted.key value", todo="Write --key value.")
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not words:
                raise refuse(f"Setting --{key} has no value", possible=f"--{key} value", todo="Add the value.")
            text = words.pop(0)
        out.append((key, text))
    return out


def _put(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        child = data.setdefault(parent, {})
        if not isinstance(child, dict):
            raise refuse(f"Setting {parent!r} of {key!r} is not a section", todo="Override the section's own keys.")
        data = child
    data[last] = value


def _fields_at(cls: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    current: Any = cls
    for part in location:
        field = getattr(current, "model_fields", {}).get(part)
        annotation = field.annotation if field else None
        inner = [annotation, *getattr(annotation, "__args__", ())]
        current = next(
            (c for c in inner if isinstance(c, type) and issubclass(c, BaseModel)), current if not field else None
        )
        if current is None:
            return []
    return sorted(getattr(current, "model_fields", {}))
