"""The seam of the house: prepared inputs and Q learned query vectors in, hidden states at the query positions out.

The text of every prompt ends with Q placeholder ids. A forward hook on the model's input embedding swaps the learned
vectors in, and the model runs its own unmodified Hugging Face forward on the base model (no lm_head), so that merging
of images, position ids, DeepStack and attention masks stay the model's business. Bare ``inputs_embeds`` are never
passed: for the Qwen families and Kosmos-2 that is silently wrong (positions are lost).

A family file defines ``Family`` (:class:`BackboneFamily`): how to load, how to write the prompt, which parameters
belong to which group. Everything else is here.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig, PreTrainedTokenizerBase

from vlm4vla import registry
from vlm4vla.config import BackboneConfig, Group
from vlm4vla.types import Image, refuse

GROUPS: tuple[Group, ...] = ("vision", "connector", "language", "embedding")
Inputs = dict[str, np.ndarray]
"""One prepared sample: ``input_ids`` (T,) int64 ending in the query placeholders, and the family's picture inputs."""


@dataclass(frozen=True)
class Piece:
    """A part of a prompt: the ids of special tokens, or text, which is never read as special tokens."""

    text: str
    special: bool = False


class Processor(ABC):
    """CPU half of a backbone: pictures and an instruction become model inputs. Small, picklable, without weights.

    The same object prepares training samples in loader processes and observations in the policy server.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: BackboneConfig, model_config: PretrainedConfig, queries: int
    ) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.queries = queries
        self.pad_id = int(tokenizer.pad_token_id)
        self.query_id = self._free_row(model_config)
        self._encode = lru_cache(maxsize=4096)(self._encode_text)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_encode"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._encode = lru_cache(maxsize=4096)(self._encode_text)

    @abstractmethod
    def pieces(self, sentence: str, image_tokens: Sequence[int]) -> list[Piece]:
        """The family's own chat template around ``sentence``, with ``image_tokens[i]`` placeholders for picture i."""

    @abstractmethod
    def pictures(self, images: Sequence[Image]) -> tuple[Inputs, list[int]]:
        """Model inputs of the pictures, and the number of text positions that each one takes."""

    @abstractmethod
    def stack(self, samples: Sequence[Inputs], length: int) -> dict[str, Tensor]:
        """Batch the family's inputs; text is padded on the right to ``length``."""

    def prepare(self, images: Sequence[Image], instruction: str) -> Inputs:
        """Pictures (H, W, 3) uint8 and an instruction as model inputs; the queries follow the last real token."""
        for image in images:
            _check_image(image)
        inputs, counts = self.pictures(images)
        ids: list[int] = []
        for piece in self.pieces(self.sentence(instruction), counts):
            ids += self._special(piece.text) if piece.special else self._encode(piece.text)
        ids += [self.query_id] * self.queries
        inputs["input_ids"] = np.asarray(ids, dtype=np.int64)
        return inputs

    def collate(self, samples: Sequence[Inputs], length: int | None = None) -> dict[str, Tensor]:
        """Right-padded batch. ``length`` fixes the number of text positions (one shape a run); shorter is refused."""
        longest = max(len(s["input_ids"]) for s in samples)
        if length is not None and longest > length:
            raise refuse(
                f"A prompt has {longest} tokens, but this run's shape was fixed at {length}",
                possible=f"at most {length} tokens",
                todo="Start the server with more --tokens, or shorten the instruction.",
            )
        return self.stack(samples, longest if length is None else length)

    def sentence(self, instruction: str) -> str:
        if not instruction.strip():
            raise refuse("The instruction is empty", possible="a sentence such as 'open the drawer'", todo="Give one.")
        return self.config.prompt.replace("{instruction}", instruction.strip())

    def pad(self, samples: Sequence[Inputs], length: int) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` (B, T), padded on the right."""
        ids = np.full((len(samples), length), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(samples), length), dtype=np.int64)
        for i, sample in enumerate(samples):
            n = len(sample["input_ids"])
            ids[i, :n] = sample["input_ids"]
            mask[i, :n] = 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def resize(self, image: Image) -> Image:
        """The one declared resize: bicubic to a square of ``image_size``; pictures of that size pass untouched."""
        from PIL import Image as Pil

        size = self.config.image_size
        if image.shape[:2] == (size, size):
            return image
        return np.asarray(Pil.fromarray(image).resize((size, size), Pil.Resampling.BICUBIC))

    def _encode_text(self, text: str) -> list[int]:
        # An instruction that spells a special token must stay text: the model must not be steered by it.
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [int(i) for i in ids]

    def _special(self, text: str) -> list[int]:
        return [int(i) for i in self.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def _free_row(self, model_config: PretrainedConfig) -> int:
        rows = int(model_config.get_text_config().vocab_size)
        used = max(self.tokenizer.get_vocab().values()) + 1
        if used >= rows:
            raise refuse(
                f"The embedding has {rows} rows and the tokenizer uses {used}",
                possible="at least one unused row, which marks the query's place",
                todo="Resize the token embedding of the checkpoint by one row.",
            )
        return int(used)


class Backbone(nn.Module):
    """A VLM behind the seam. ``model`` is the unmodified base model of the library, ``width`` its hidden size D."""

    def __init__(self, family: "BackboneFamily", config: BackboneConfig, model: nn.Module, processor: Processor):
        super().__init__()
        self.family = family
        self.config = config
        self.model = model
        self.processor = processor
        self.width = int(self.model_config.get_text_config().hidden_size)

    @property
    def model_config(self) -> PretrainedConfig:
        config = self.model.config
        assert isinstance(config, PretrainedConfig)
        return config

    def readout(self, inputs: Mapping[str, Tensor], query_QD: Float[Tensor, "Q D"]) -> Float[Tensor, "B Q D"]:
        """Last hidden states (after the final norm) at the query positions of every sample."""
        with self._queries(query_QD):
            hidden_BTD = self.model(**inputs, use_cache=False).last_hidden_state
        ids = inputs["input_ids"]
        places = ids == self.processor.query_id
        readout_BQD: Tensor = hidden_BTD[places].view(ids.shape[0], query_QD.shape[0], self.width)
        return readout_BQD

    def groups(self) -> dict[Group, list[nn.Parameter]]:
        """Every parameter in exactly one group; ``connector`` is what maps vision features to text width."""
        found: dict[Group, list[nn.Parameter]] = {group: [] for group in GROUPS}
        for name, parameter in self.model.named_parameters():
            found[self.family.group_of(name)].append(parameter)
        return found

    def blocks(self) -> list[nn.Module]:
        """Units to shard, recompute and compile: the vision and text layers."""
        return self.family.blocks(self.model)

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


class BackboneFamily(ABC):
    """What a family file defines. Instances hold no state."""

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    """``model_type`` of the checkpoints' configurations that this family can run."""
    parameter_groups: ClassVar[tuple[tuple[str, Group], ...]]
    """Prefixes of parameter names, first match wins; a parameter that matches none is an error."""

    @abstractmethod
    def preset(self, name: str) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
        """Configuration and tokenizer of a preset that ships with the package; refuses unknown names."""

    @abstractmethod
    def processor(
        self, tokenizer: PreTrainedTokenizerBase, config: BackboneConfig, model_config: PretrainedConfig, queries: int
    ) -> Processor: ...

    @abstractmethod
    def blocks(self, model: nn.Module) -> list[nn.Module]: ...

    def group_of(self, name: str) -> Group:
        for prefix, group in self.parameter_groups:
            if name.startswith(prefix):
                return group
        raise AssertionError(f"{self.name}: parameter {name} is in no group")


def load(config: BackboneConfig, queries: int, seed: int, weights: bool = True) -> Backbone:
    """Build a backbone: a preset or a scratch model gets seeded random weights, a pretrained one its checkpoint's.

    ``weights=False`` builds the same modules for weights that a policy folder brings (nothing is downloaded or read
    but the configuration and tokenizer).
    """
    from transformers import AutoConfig, AutoTokenizer

    family: BackboneFamily = registry.find("backbones", config.family).Family()
    kind, _, preset = config.checkpoint.partition(":")
    if kind == "preset":
        if config.init == "pretrained":
            raise refuse(
                f"The preset {preset!r} has no pretrained weights",
                possible="init: scratch with a preset, init: pretrained with a Hugging Face id or folder",
                todo="Set backbone.init to scratch.",
            )
        model_config, tokenizer = family.preset(preset)
    else:
        with _told(config.checkpoint):
            model_config = AutoConfig.from_pretrained(config.checkpoint, revision=config.revision or "main")
            tokenizer = AutoTokenizer.from_pretrained(config.checkpoint, revision=config.revision or "main")
    return _build(family, config, model_config, tokenizer, queries, seed, weights)


def load_saved(config: BackboneConfig, folder: Path, queries: int) -> Backbone:
    """Rebuild from a policy folder (``config.json`` and tokenizer files): same modules, weights to be filled in."""
    from transformers import AutoConfig, AutoTokenizer

    family: BackboneFamily = registry.find("backbones", config.family).Family()
    model_config = AutoConfig.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return _build(family, config, model_config, tokenizer, queries, seed=0, weights=False)


def _build(
    family: BackboneFamily,
    config: BackboneConfig,
    model_config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    queries: int,
    seed: int,
    weights: bool,
) -> Backbone:
    if model_config.model_type not in family.model_types:
        raise refuse(
            f"{config.checkpoint!r} is a model of type {model_config.model_type!r}, not of family {family.name!r}",
            possible=family.model_types,
            todo="Set backbone.family to the checkpoint's own family; `vlm4vla backbones list` shows them.",
        )
    processor = family.processor(tokenizer, config, model_config, queries)
    if config.init == "pretrained" and weights:
        with _told(config.checkpoint):
            model, found = AutoModel.from_pretrained(
                config.checkpoint,
                revision=config.revision or "main",
                dtype=torch.float32,
                attn_implementation=config.attention,
                use_safetensors=True,
                output_loading_info=True,
            )
        # The library fills what is missing with random numbers and a warning: a comparison must not rest on that.
        absent = sorted([*found["missing_keys"], *(str(key) for key in found["mismatched_keys"])])
        if absent:
            raise refuse(
                f"{config.checkpoint!r} lacks {len(absent)} of the model's weights, the first: {absent[0]}",
                possible="a complete checkpoint of this family",
                todo="Get the whole checkpoint, or say init: scratch.",
            )
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModel.from_config(model_config, dtype=torch.float32, attn_implementation=config.attention)
    return Backbone(family, config, model, processor)


@contextmanager
def _told(checkpoint: str) -> Iterator[None]:
    """The library's loading errors as one sentence of the house."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise refuse(
            f"{checkpoint!r} cannot be loaded: {str(error).splitlines()[0]}",
            possible="a Hugging Face id that this machine can reach, a folder saved by transformers, or preset:tiny",
            todo="Check the spelling and the network, or give a folder.",
        ) from error


def _check_image(image: Image) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise refuse(
            f"A picture of shape {image.shape} and type {image.dtype} was given",
            possible="(height, width, 3) uint8 RGB with height and width above 0",
            todo="Convert the picture before it is sent.",
        )
