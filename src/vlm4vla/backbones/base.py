"""The seam of the house: prepared inputs and Q learned query vectors in, hidden states at the query positions out.

The text of every prompt ends with Q placeholder ids. A forward hook on the model's input embedding swaps the learned
vectors in, and the model runs its own unmodified Hugging Face forward on the base model (no lm_head), so that merging
of images, position ids, DeepStack and attention masks stay the model's business. Bare ``inputs_embeds`` are never
passed: for the Qwen families and Kosmos-2 that is silently wrong (positions are lost).

A family file defines ``Family`` (:class:`BackboneFamily`): its tokens, its prompt and pictures (a
:class:`~vlm4vla.backbones.processor.Processor`), which parameters belong to which group. Everything else is here, in
``processor.py`` (pictures and text to inputs) and in ``loading.py`` (checkpoints and presets).
"""

from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig

from vlm4vla.backbones._patches import as_products
from vlm4vla.backbones.processor import Processor
from vlm4vla.schemas import BackboneConfig, Freezable, Group

GROUPS: tuple[Group, ...] = ("vision", "connector", "language", "embedding")
"""Every parameter is in exactly one of them, by one definition for all families: ``vision`` is the image encoder up to
the features it was pretrained to give; ``connector`` is everything that brings them to the width of the language model
(projector, patch merger, DeepStack mergers, latent resampler, newline vectors); ``embedding`` is the table of input
tokens; ``language`` is the rest. The connector stands alone because it belongs to neither pretraining: the paper's code
counts it as vision for some families and not for others (``BackboneFamily.vision_in_paper``)."""

AttentionKind = Literal["causal", "bidirectional-prefix", "bidirectional-images"]
"""What a prompt token may look at besides the tokens before it: nothing, the whole prompt, its own picture."""


class BackboneFamily(ABC):
    """What a family file defines. Instances hold no state."""

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    """``model_type`` of the checkpoints' configurations that this family can run."""
    processor: ClassVar[type[Processor]]
    special_tokens: ClassVar[tuple[str, ...]]
    """Tokens that the prompt needs, in the order in which the presets' small tokenizer gets them."""
    pad_token: ClassVar[str]
    eos_token: ClassVar[str]
    token_ids: ClassVar[Mapping[str, str]] = {}
    """Settings of the model's configuration (dotted) that hold the id of a token: set from the tokenizer in presets."""
    parameter_groups: ClassVar[tuple[tuple[str, Group], ...]]
    """Prefixes of parameter names, first match wins; a parameter that matches none is an error."""
    unused: ClassVar[tuple[str, ...]] = ()
    """Prefixes of parameters that the readout never reaches; they get no gradient and stay as they are."""
    block_lists: ClassVar[tuple[str, ...]]
    """Dotted names of the lists of layers to shard, recompute and compile; the text layers come last."""
    vision_in_paper: ClassVar[tuple[Group, ...]] = ("vision",)
    """The groups that "frozen vision" froze in the paper's code."""
    attention: ClassVar[AttentionKind] = "causal"
    hears: ClassVar[bool] = True
    """Whether the instruction reaches the model. A family that says no is a probe of what can be done without it."""

    def group_of(self, name: str) -> Group:
        for prefix, group in self.parameter_groups:
            if name.startswith(prefix):
                return group
        raise AssertionError(f"{self.name}: parameter {name} is in no group")

    def native_size(self, model_config: PretrainedConfig) -> int:
        """Side of the square that the encoder was pretrained at; 224 where it takes any."""
        size = getattr(model_config.vision_config, "image_size", 224)
        return int(size[0] if isinstance(size, list | tuple) else size)

    def positions(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002 - for overrides
        """Position of every token as the language model counts it, (axes, B, T); one axis unless it is overridden."""
        return torch.arange(inputs["input_ids"].shape[1]).expand(1, *inputs["input_ids"].shape)

    def complete_scratch(self, model: Any) -> None:  # noqa: B027 - most families leave it as it is
        """Draw those scratch weights that the library leaves at a value which only a checkpoint makes useful."""


class Backbone(nn.Module):
    """A VLM behind the seam. ``model`` is the base model of the library, ``width`` its hidden size D.

    Nothing of the model is changed but how it computes the embedding of patches (``_patches.py``).
    """

    def __init__(self, family: BackboneFamily, config: BackboneConfig, model: nn.Module, processor: Processor):
        super().__init__()
        self.family = family
        self.config = config
        self.model = model
        self.processor = processor
        self.width = int(self.model_config.get_text_config().hidden_size)
        as_products(model)
        self.freeze(())

    @property
    def model_config(self) -> PretrainedConfig:
        config = self.model.config
        assert isinstance(config, PretrainedConfig)
        return config

    def hidden_states(self, inputs: Mapping[str, Tensor], query_QD: Float[Tensor, "Q D"]) -> Float[Tensor, "B T D"]:
        """Last hidden states (after the final norm) at all positions."""
        dtype = self.model.get_input_embeddings().weight.dtype  # type: ignore[operator]
        typed = {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}
        with self._queries(query_QD):
            hidden_BTD: Tensor = self.model(**typed, use_cache=False).last_hidden_state
        return hidden_BTD

    def readout(self, inputs: Mapping[str, Tensor], query_QD: Float[Tensor, "Q D"]) -> Float[Tensor, "B Q D"]:
        """Last hidden states (after the final norm) at the query positions of every sample."""
        places = inputs["input_ids"] == self.processor.query_id
        hidden_BTD = self.hidden_states(inputs, query_QD)
        return hidden_BTD[places].view(len(hidden_BTD), query_QD.shape[0], self.width)

    def groups(self) -> dict[Group, list[nn.Parameter]]:
        """Every parameter in exactly one group (see ``GROUPS``)."""
        found: dict[Group, list[nn.Parameter]] = {group: [] for group in GROUPS}
        for name, parameter in self.model.named_parameters():
            found[self.family.group_of(name)].append(parameter)
        return found

    def unused(self) -> list[nn.Parameter]:
        """Parameters that the readout does not depend on; they never get gradient."""
        return [p for name, p in self.model.named_parameters() if name.startswith(self.family.unused)]

    def freeze(self, groups: Sequence[Freezable]) -> None:
        """Leave exactly the parameters of these groups, and those that are unused, without gradient."""
        frozen = {
            group
            for named in groups
            for group in (self.family.vision_in_paper if named == "vision-as-in-paper" else (named,))
        }
        for group, parameters in self.groups().items():
            for parameter in parameters:
                parameter.requires_grad_(group not in frozen)
        for parameter in self.unused():
            parameter.requires_grad_(False)

    def blocks(self) -> list[nn.Module]:
        """Units to shard, recompute and compile: the vision and text layers."""
        return [block for name in self.family.block_lists for block in _dotted(self.model, name)]

    def text_blocks(self) -> list[nn.Module]:
        """The layers of the language model, first to last."""
        return list(_dotted(self.model, self.family.block_lists[-1]))

    def dropout(self) -> dict[str, float]:
        """Dropout rates above 0 that the published configuration sets; they act in training, in frozen groups too."""
        parts = {"": self.model_config, "vision.": self.model_config.vision_config}
        parts["text."] = self.model_config.get_text_config()
        found = {f"{part}{key}": value for part, c in parts.items() for key, value in c.to_dict().items()}
        return {key: float(v) for key, v in found.items() if "dropout" in key and isinstance(v, float) and v > 0}

    def recompute_activations(self) -> None:
        """Trade time for memory in training (gradient checkpointing); the numbers stay the same."""
        # The library renamed it in 5.23, and we run on older ones too.
        model: Any = self.model
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()

    @contextmanager
    def _queries(self, query_QD: Tensor) -> Iterator[None]:
        def swap(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            places = args[0] == self.processor.query_id
            slot = (places.long().cumsum(dim=1) - 1).clamp(0, query_QD.shape[0] - 1)
            return torch.where(places[..., None], query_QD[slot].to(output.dtype), output)

        embedding = self.model.get_input_embeddings()  # type: ignore[operator]
        handle = embedding.register_forward_hook(swap)
        try:
            yield
        finally:
            handle.remove()


def _dotted(model: nn.Module, name: str) -> Sequence[nn.Module]:
    found: Sequence[nn.Module] = reduce(getattr, name.split("."), model)  # type: ignore[arg-type]
    return found
