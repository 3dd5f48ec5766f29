"""What can be set about choosing: checkpoint, executed horizon, learning rate, and where a study's data come from.

The parts of ``schemas.StudyConfig`` that decide what is tried before the evaluation, and how the outcome is recorded.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from vlm4vla.config import Config


class Candidate(Config):
    """A checkpoint with an executed horizon, tried before the evaluation.

    ``score``: mean over its episodes of success, or of subtasks solved in a row where the episodes are chains.
    """

    step: PositiveInt
    execute: PositiveInt
    score: NonNegativeFloat


class Selection(Config):
    """How policy and horizon of an evaluation were chosen: what was tried, on which starts, and what came first."""

    on: Literal["dev", "eval"]
    episodes: PositiveInt  # per task
    candidates: tuple[Candidate, ...]
    chosen: Candidate


class Select(Config):
    """How checkpoint and horizon of every policy are chosen: all are tried on ``on`` starts, the best is evaluated.

    Equal candidates: fewer training steps first, then the horizon listed first. ``checkpoints``: training steps.
    ``execute`` empty: ``eval.execute`` alone. ``on: eval`` is the paper's rule, selection on the test set: optimistic.
    """

    on: Literal["dev", "eval"] = "dev"
    episodes: PositiveInt  # per task
    checkpoints: Literal["last"] | Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = "last"
    execute: tuple[PositiveInt, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _on_is_a_word(cls, data: Any) -> Any:
        """YAML 1.1 reads the unquoted key ``on`` as true."""
        if isinstance(data, dict) and True in data:
            return {"on": data[True]} | {key: value for key, value in data.items() if key is not True}
        return data

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len({*self.execute}) < len(self.execute):
            raise ValueError("execute lists a horizon twice")
        if self.checkpoints != "last" and list(self.checkpoints) != sorted({*self.checkpoints}):
            raise ValueError("checkpoints must be rising steps, each once")
        return self


class LrGrid(Config):
    """The same small grid of learning rates for every arm, around the rate of its recipe.

    One policy per factor is trained with ``seed`` and tried on dev starts, its last checkpoint with ``eval.execute``;
    the best factor trains the seeds of the study. Equal factors: the nearest to 1 first, then the smaller.
    """

    factors: Annotated[tuple[PositiveFloat, ...], Field(min_length=2)]
    seed: int = 0
    episodes: PositiveInt | None = None  # dev episodes per task; null: as many as eval.episodes

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if list(self.factors) != sorted({*self.factors}):
            raise ValueError("factors must be rising, each once")
        return self


PRETEXT = "pretext"
"""As an arm's ``policy.backbone.checkpoint``: the VLM that the study's pretext stage leaves for this backbone."""


class Pretext(Config):
    """What a small model is trained on first, so that an arm can start from other weights than random ones.

    Behaviour cloning, by the study's shared recipe, of demonstrations of ``tasks``; each backbone that an arm starts
    ``pretext`` with is trained once, whatever the arm's other settings and seeds, and tried on dev starts of
    these tasks. Of the policy only the VLM is handed on. It stands in for pretraining where no pretrained VLM of that
    size exists, and labels must say so.
    """

    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    checkpoint: str  # what it begins with, from random weights: preset:NAME, or a checkpoint's architecture
    per_task: PositiveInt  # demonstrations; noise and format are those of the study's
    steps: PositiveInt
    seed: int = 0
    episodes: PositiveInt  # dev episodes per task


class StudyData(Config):
    """Robot data that others recorded, in place of demonstrations: what ``data build`` reads.

    ``source``: folder or file, best relative to where the study is started; it is part of the cells' identity.
    """

    source: Path
    format: str
    options: dict[str, str] = Field(default_factory=dict)
