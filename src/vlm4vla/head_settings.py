"""What can be set about the action head: a section for each kind, strict by itself; ``name`` says which one it is."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag, model_validator

from vlm4vla.config import Config


class HeadConfig(Config):
    """The action head. ``gripper_weight`` and ``huber_delta`` are the paper's (reference: 0.01 and 1)."""

    name: str = "regression"
    gripper_weight: float = 0.01
    huber_delta: float = 1.0


class FlowHeadConfig(Config):
    """The head ``flow``: a small transformer over the chunk's steps that turns noise into actions.

    It has none of the other heads' settings, so a study's arm gives the whole section: ``policy.head: {name: flow}``.
    Times are drawn as (end - time) / end ~ Beta(``time_beta``), with ``time_end`` and the number of ``euler_steps`` as
    in the reference's flow head; ``width``, ``depth`` and ``attention_heads`` are ours (there: 1536, 12 and 16).
    """

    name: Literal["flow"]
    width: Annotated[int, Field(gt=0, multiple_of=2)] = 256
    depth: PositiveInt = 6
    attention_heads: PositiveInt = 4
    euler_steps: PositiveInt = 20
    time_beta: tuple[PositiveFloat, PositiveFloat] = (1.5, 1.0)
    time_end: Annotated[float, Field(gt=0, le=1)] = 0.999

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.width % self.attention_heads:
            raise ValueError(f"width {self.width} is not a multiple of attention_heads, {self.attention_heads}")
        return self


def _which_head(given: Any) -> str:
    """The class of a head's section: heads of other distributions have the settings of ``HeadConfig``."""
    flow = given["name"] == "flow" if isinstance(given, dict) and "name" in given else isinstance(given, FlowHeadConfig)
    return FlowHeadConfig.__name__ if flow else HeadConfig.__name__


AnyHead = Annotated[
    Annotated[HeadConfig, Tag(HeadConfig.__name__)] | Annotated[FlowHeadConfig, Tag(FlowHeadConfig.__name__)],
    Discriminator(_which_head),
]
