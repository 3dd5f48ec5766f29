"""What can be configured: one frozen schema per command. How they are read, hashed and compared: ``config.py``.

No default hides below the command line: what a run used is what ``to_yaml`` of its resolved configuration says.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from vlm4vla.choices import LrGrid, Pretext, Select, Selection, StudyData
from vlm4vla.config import Config, flatten, to_dict
from vlm4vla.head_settings import AnyHead, HeadConfig

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0)]
Group = Literal["vision", "connector", "language", "embedding"]
Freezable = Literal["vision", "connector", "language", "embedding", "vision-as-in-paper"]
"""A parameter group, or what the paper's code froze as "vision": per family with or without the connector."""
Control = Literal[
    "image-blank",
    "image-other",
    "image-shuffled",
    "camera-moved",
    "instruction-swapped",
    "instruction-paraphrased",
]
"""Evaluation-only changes of what a policy gets to see and to hear: ``rollout/jobs.py`` explains them."""

Reference = Literal["do-nothing", "expert"]
"""Scripted policies that a study evaluates beside its arms, under these names."""

Exposure = Literal["documented", "not documented", "unknown"]

DEFAULT_FORMAT = "lerobot_v3"
"""Of demonstrations: for benchmarks whose own data have none that is written here, and for studies on any of them."""


class BackboneConfig(Config):
    """Which VLM, and how it is run.

    ``checkpoint``: a Hugging Face id, a folder that transformers saved, or ``preset:NAME`` of the family
    (``preset:tiny``). ``image_size`` is the pixel budget: the side of the square that the model sees. ``view_size`` is
    the side of the square that data and simulator hand over (null: the same); where it is smaller, pictures are
    enlarged, as the reference silently does for the Qwen families (224 to 448).
    """

    family: str
    checkpoint: str
    init: Literal["pretrained", "scratch"]
    image_size: Positive = 224
    view_size: Positive | None = None
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the weights: bfloat16 for acting and for frozen ones
    revision: str | None = None  # commit, tag or branch on the hub
    prompt: str = "What action should the robotic arm take to {instruction}"

    @field_validator("prompt")
    @classmethod
    def _one_place(cls, prompt: str) -> str:
        if prompt.count("{instruction}") != 1:
            raise ValueError("the prompt must contain {instruction} exactly once, or the policy never hears it")
        return prompt

    @property
    def view(self) -> int:
        """Side of the pictures that data and simulator hand over, in pixels."""
        return self.view_size or self.image_size


class NormalizerConfig(Config):
    """How arm actions become targets in [-1, 1]. ``limits``: the action spec's own bounds (nothing is fitted)."""

    kind: Literal["limits", "quantile", "min_max", "mean_std"] = "quantile"
    clip: float | None = None


class AugmentConfig(Config):
    """Training-time changes of pictures, in this order; ``data/augment.py`` says exactly what each one does.

    ``shift``: DrQ random shift in pixels, edges replicated (the paper on CALVIN: 10 of 224). ``crop``: the part of the
    area that a random square window keeps; the policy then acts on the centre window of that size. ``brightness``,
    ``contrast``, ``saturation``, ``hue``: the largest changes of the colours. OpenVLA's, and the paper's on Bridge and
    LIBERO: 0.9, then 0.2, 0.2, 0.2, 0.05.
    """

    shift: Count = 0
    crop: Annotated[float, Field(gt=0, le=1)] | None = None
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.0
    contrast: Annotated[float, Field(ge=0, le=1)] = 0.0
    saturation: Annotated[float, Field(ge=0, le=1)] = 0.0
    hue: Annotated[float, Field(ge=0, le=1 / 6)] = 0.0  # of the whole circle


class PolicyConfig(Config):
    """The policy: one VLM, ``queries`` learned vectors after its last token, one head.

    ``window``: how many pictures of each camera it sees, the last one and those of the frames before it (paper: 1).
    """

    backbone: BackboneConfig
    head: AnyHead = HeadConfig()
    chunk: Positive
    queries: Positive = 1
    cameras: tuple[str, ...]
    window: Positive = 1
    proprioception: bool = False
    normalizer: NormalizerConfig = NormalizerConfig()


class MixtureSource(Config):
    """One store of a mixture. Of the samples, ``weight`` / (sum of all weights) come from it, whatever its size."""

    store: Path
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class DataConfig(Config):
    """Where samples come from: one ``store``, or several with weights in ``mixture``.

    ``workers`` are loader processes; the order does not depend on them.
    """

    store: Path | None = None
    mixture: tuple[MixtureSource, ...] = ()
    augment: AugmentConfig = AugmentConfig()
    workers: Count = 0

    @model_validator(mode="after")
    def _one_of_both(self) -> "DataConfig":
        if (self.store is None) == (not self.mixture):
            raise ValueError("give either store (a folder) or mixture (a list of stores with weights)")
        return self

    @property
    def sources(self) -> tuple[MixtureSource, ...]:
        return self.mixture if self.store is None else (MixtureSource(store=self.store, weight=1.0),)


class OptimizerConfig(Config):
    """AdamW; ``clip_norm`` 0 switches clipping off (the reference does so by accident).

    ``vlm_lr_scale``: the VLM learns at this multiple of ``lr``, the new parameters at ``lr`` itself; null: all alike.
    """

    lr: Annotated[float, Field(gt=0)]
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: Count = 0
    schedule: Literal["constant", "cosine"] = "constant"
    clip_norm: NotNegative = 1.0
    vlm_lr_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @model_serializer(mode="wrap")
    def _one_rate_has_no_scale(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a null scale: folders are named after settings, and most were named before there was this one."""
        return {key: value for key, value in plain(self).items() if key != "vlm_lr_scale" or value is not None}


class Recipe(Config):
    """How a policy is trained: what a run and the arms of a study have in common.

    ``batch`` is the global batch; ``freeze`` lists parameter groups that get no gradient.
    """

    policy: PolicyConfig
    optimizer: OptimizerConfig
    batch: Positive
    steps: Positive
    freeze: tuple[Freezable, ...] = ()
    gradient_checkpointing: bool = False  # recompute activations: less memory, the same numbers, more time
    precision: Literal["fp32", "bf16"] = "bf16"
    log_every: Positive = 20
    checkpoint_every: Positive = 500
    threads: Count = 0  # CPU threads per process; 0 leaves torch's choice

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.checkpoint_every % self.log_every:
            raise ValueError("checkpoint_every must be a multiple of log_every, so that a resumed log has whole lines")
        frozen = {*get_args(Group)} <= {*self.freeze}
        if frozen and self.optimizer.vlm_lr_scale not in (None, 1.0):
            raise ValueError("optimizer.vlm_lr_scale scales the rate of a VLM whose four groups are all frozen")
        if self.policy.backbone.dtype == "bfloat16" and not frozen:
            raise ValueError(
                "policy.backbone.dtype bfloat16 would lose every update smaller than half a step of that type; "
                "train with dtype float32 and precision bf16, or freeze all four groups"
            )
        return self


class TrainConfig(Recipe):
    """One training run. ``keep``: steps before the last whose policies stay, in OUT/policies/step-N."""

    data: DataConfig
    seed: int = 0
    keep: tuple[Positive, ...] = ()
    out: Path

    @model_validator(mode="after")
    def _kept_before_the_end(self) -> Self:
        if list(self.keep) != sorted({*self.keep}) or (self.keep and self.keep[-1] >= self.steps):
            raise ValueError(
                f"keep must be rising steps below the {self.steps} of the run, whose last policy stays anyway"
            )
        return self

    def policy_at(self, step: int) -> Path:
        """The policy folder of a kept step, or of the last one."""
        return self.out / "policy" if step == self.steps else self.out / "policies" / f"step-{step}"


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
    seed: int = 0  # the policy's training seed: part of the run's identity; acting noise, if any, is drawn from it
    workers: Positive = 2
    batch: Positive = 4
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: Count = 0
    videos_per_task: Count = 0
    assume_spec: bool = False  # accept a server that declares no action spec
    selection: Selection | None = None  # recorded: how a study chose policy and horizon (null: nothing was chosen)
    evaluation: Positive = 1  # recorded: the how many-th of this training run on eval starts, as a study counts them
    out: Path


class DemosConfig(Config):
    """Demonstrations of a benchmark's scripted expert on its train starts; only successful episodes are kept."""

    bench: str
    tasks: tuple[str, ...] = ()  # empty: all tasks of the benchmark
    scenes: tuple[str, ...] = ()  # empty: all; only for a benchmark whose starts lie in several scenes
    per_task: Positive
    format: str | None = None  # a writer of data/writers; null: that of the benchmark's own data, else lerobot_v3
    noise: NotNegative = 0.3  # sd of Gaussian noise on the executed arm action; the label stays clean
    after_success: Count = 4  # steps recorded after the first success
    workers: Positive = 2
    out: Path


class Declared(Config):
    """What cannot be made equal between VLMs and is therefore said: null and "unknown" where nobody knows.

    ``robots``, ``simulators``: whether robot data, or pictures of these simulators, were among the pretraining data.
    """

    pretraining: str | None = None  # the data it was pretrained on
    released: str | None = None  # when
    robots: Exposure = "unknown"
    simulators: Exposure = "unknown"


ArmName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""Names of arms are parts of folder names: letters, digits, dot, underscore and dash, a letter or digit first."""


class ArmConfig(Config):
    """An arm: dotted overrides of the study's ``train`` section, and a sentence for the report.

    ``reported``: settings of a run that others made, where this software has no such setting or value; the audit
    compares them with the other arms', and a study with them is not run.
    """

    label: str
    overrides: dict[str, Any] = Field(default_factory=dict)
    controls: tuple[Control, ...] = ()
    declared: Declared = Declared()
    reported: dict[str, Any] = Field(default_factory=dict)


class StudyDemos(Config):
    """Demonstrations of the study's own ``tasks``; of other ones where those are chains, which are not recorded."""

    tasks: tuple[str, ...] = ()  # empty: the study's tasks that are single ones
    per_task: Positive
    noise: NotNegative
    after_success: Count
    format: str = DEFAULT_FORMAT


class StudyEval(Config):
    episodes: Positive
    control_episodes: Positive
    execute: Positive
    batch: Positive
    workers: Positive
    videos_per_task: Count
    threads: Count = 0
    precision: Literal["fp32", "bf16"] = "fp32"


class StudyTrain(Recipe):
    """The recipe that all arms share."""

    augment: AugmentConfig
    loader_workers: Count = 0


class StudyConfig(Config):
    """Arms x seeds on one benchmark; ``factor`` names the one thing in which the arms may differ."""

    name: str
    title: str
    caveat: str
    bench: str
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    factor: str
    may_differ: tuple[str, ...]  # dotted keys of ``train`` that the factor touches
    waived: dict[str, Annotated[str, Field(pattern=r"\S")]] = Field(default_factory=dict)
    """Lines of the audit in which the arms may differ although the factor does not name them, each with its reason."""
    demos: StudyDemos | None = None  # of the benchmark's scripted expert, or instead:
    data: StudyData | None = None
    pretext: Pretext | None = None  # what arms with checkpoint "pretext" were trained on before
    encoding: Literal["jpeg", "png", "raw"] = "png"  # of the frame store; jpeg loses a little
    resolution: Literal["native", "token-matched"] = "native"  # token-matched: image tokens of all arms within 25 %
    train: StudyTrain
    eval: StudyEval
    select: Select | None = None  # null: the last checkpoint with eval.execute, declared here
    lr_policy: Literal["fixed"] | Annotated[dict[Literal["equal-budget"], LrGrid], Field(min_length=1)] = "fixed"
    arms: Annotated[dict[ArmName, ArmConfig], Field(min_length=1)]
    references: tuple[Reference, ...] = ("do-nothing", "expert")
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    equivalence: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Recipes nearer than this are equal: in rate units, of chains in subtasks."""
    variances: Literal["rule", "pooled", "separate"] = "rule"  # retrain variance of the arms: study/retrained.py

    @property
    def grid(self) -> LrGrid | None:
        """The learning rates that every arm is tuned over; null under ``lr_policy: fixed``."""
        return None if self.lr_policy == "fixed" else self.lr_policy["equal-budget"]

    @model_validator(mode="after")
    def _consistent(self) -> "StudyConfig":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is listed twice in seeds")
        self._check_names()
        if len(self.seeds) > 1 and self.eval.episodes < 2:
            raise ValueError(
                "eval.episodes must be 2 or more with several seeds: one start of a task tells of no other"
            )
        if (self.demos is None) == (self.data is None):
            raise ValueError("give either demos (of the scripted expert) or data (recorded by others)")
        if self.pretext and self.demos is None:
            raise ValueError("a pretext is trained on demonstrations, which this study does not record")
        if self.grid and self.grid.seed in self.seeds:
            raise ValueError(
                f"lr_policy tunes with seed {self.grid.seed}, which is among seeds: results need fresh ones"
            )
        for steps in (self.eval.execute, *(self.select.execute if self.select else ())):
            if steps > self.train.policy.chunk:
                raise ValueError(f"execute {steps} is more than the chunk of {self.train.policy.chunk} steps")
        if self.select and self.select.on == "eval" and self.select.episodes != self.eval.episodes:
            raise ValueError("select.episodes must be eval.episodes where candidates are tried on the eval starts")
        if self.eval.control_episodes > self.eval.episodes:
            raise ValueError(
                "eval.control_episodes is more than eval.episodes: controls are paired with the arm's rows"
            )
        known = flatten(to_dict(self.train))
        for key in self.may_differ:
            if not any(k == key or k.startswith(f"{key}.") for k in known):
                raise ValueError(f"may_differ names {key!r}, which is no setting of train: {', '.join(sorted(known))}")
        return self

    def _check_names(self) -> None:
        """Rows are told apart by the names of arms, of their training runs, and of references."""
        for name in get_args(Reference):
            if name in self.arms:
                raise ValueError(f"an arm is named {name!r}, which is the name of a reference: choose another")
        rows = {f"{arm}-s{seed}": arm for arm in self.arms for seed in self.seeds} if len(self.seeds) > 1 else {}
        for name in self.arms:
            if name in rows:
                raise ValueError(
                    f"an arm is named {name!r}, as the rows of a training run of arm {rows[name]!r} are: choose another"
                )
