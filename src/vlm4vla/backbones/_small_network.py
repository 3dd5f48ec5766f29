"""The small network of the family that hears nothing, in the shape that the library gives to its models.

Convolutions, each halving the sides; their features are the image tokens. The query gets what a small network reads off
the grid of all image tokens, places kept apart, so that it can tell where things are.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput


class SmallConfig(PretrainedConfig):  # type: ignore[misc]
    """``channels``: of each stage of convolutions. ``grid``: cells on a side of what is read, ``cell`` numbers each."""

    model_type = "vlm4vla-small-network"

    vocab_size: int = 1024
    hidden_size: int = 192
    intermediate_size: int = 384
    channels: list[int] | tuple[int, ...] = (32, 64, 96, 128)
    grid: int = 6
    cell: int = 24
    image_size: int = 96
    image_token_id: int | None = None

    @property
    def vision_config(self) -> "SmallConfig":
        """One flat configuration: there are no parts that are published apart."""
        return self


class Stage(GradientCheckpointingLayer):  # type: ignore[misc]
    """(N, C, S, S) -> (N, C', S / 2, S / 2)."""

    def __init__(self, before: int, after: int, kernel: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2)
        self.norm = nn.GroupNorm(8, after)

    def forward(self, planes: Tensor) -> Tensor:
        return nn.functional.gelu(self.norm(self.down(planes)))


class Eyes(nn.Module):
    def __init__(self, config: SmallConfig) -> None:
        super().__init__()
        sizes = [3, *config.channels]
        kernels = [5] + [3] * (len(sizes) - 2)
        self.stages = nn.ModuleList(
            Stage(a, b, kernel) for a, b, kernel in zip(sizes[:-1], sizes[1:], kernels, strict=True)
        )

    def forward(self, planes: Tensor) -> Tensor:
        for stage in self.stages:
            planes = stage(planes)
        return planes


class Reader(GradientCheckpointingLayer):  # type: ignore[misc]
    """Adds to every position that is no picture what is read off all pictures; then a layer at each position alone.

    ``hidden_states`` (B, T, D); ``pictures`` (B, T): which positions are image tokens, ``side`` x ``side`` of each of
    the ``views`` pictures that every sample has.
    """

    def __init__(self, config: SmallConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.grid, self.cells = config.grid, config.grid**2 * config.cell
        self.norm = nn.LayerNorm(width)
        self.narrow = nn.Linear(width, config.cell)
        self.look = nn.Linear(self.cells, config.intermediate_size)
        self.tell = nn.Linear(config.intermediate_size, width)
        self.norm_after = nn.LayerNorm(width)
        self.up = nn.Linear(width, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, width)

    def forward(self, hidden_states: Tensor, pictures: Tensor, views: int, side: int) -> Tensor:
        batch = len(hidden_states)
        tokens = self.narrow(self.norm(hidden_states[pictures])).view(batch * views, side, side, -1).movedim(-1, 1)
        cells = nn.functional.avg_pool2d(tokens, side // self.grid).reshape(batch, views, self.cells)
        # Which picture it was: without it two cameras could be exchanged.
        seen = nn.functional.gelu(self.look(cells) + _marks(views, self.look.out_features, cells))
        told = self.tell(seen).mean(dim=1)
        hidden_states = hidden_states + torch.where(pictures[..., None], 0.0, told[:, None])
        more: Tensor = self.down(nn.functional.gelu(self.up(self.norm_after(hidden_states))))
        return hidden_states + more


class SmallModel(PreTrainedModel):  # type: ignore[misc]
    """Image tokens are the convolutions' features and the embedding of the image token; words, if any, go unread."""

    config_class = SmallConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True  # there is no attention: every kernel of it gives the same
    _no_split_modules: ClassVar[list[str]] = ["Stage", "Reader"]

    def __init__(self, config: SmallConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.vision = Eyes(config)
        self.projector = nn.Linear(config.channels[-1], config.hidden_size)
        self.layers = nn.ModuleList([Reader(config)])
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        assert isinstance(value, nn.Embedding)
        self.embed_tokens = value

    def forward(self, input_ids: Tensor, pixel_values: Tensor, **_: Any) -> BaseModelOutput:
        """``input_ids`` (B, T); ``pixel_values`` (B, pictures, 3, S, S)."""
        pictures = input_ids == self.config.image_token_id
        features = self.vision(pixel_values.flatten(0, 1))
        tokens = self.projector(features.flatten(2).transpose(1, 2))
        hidden = self.embed_tokens(input_ids)
        hidden = hidden + torch.zeros_like(hidden).masked_scatter(pictures[..., None], tokens.to(hidden.dtype))
        for layer in self.layers:
            hidden = layer(hidden, pictures, pixel_values.shape[1], features.shape[-1])
        return BaseModelOutput(last_hidden_state=self.norm(hidden))


def _marks(views: int, width: int, like: Tensor) -> Tensor:
    """(views, width): a wave of its own for each picture's number."""
    places = torch.arange(width, device=like.device)
    numbers = torch.arange(views, device=like.device)
    return torch.sin(numbers[:, None] * (1 + places % 7) + 0.5 * numbers[:, None] * places).to(like.dtype)


AutoConfig.register(SmallConfig.model_type, SmallConfig)
AutoModel.register(SmallConfig, SmallModel)
AutoModelForImageTextToText.register(SmallConfig, SmallModel)
