"""Pictures and an instruction become the inputs of a VLM: its own template, pixels and padding, without torchvision."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from vlm4vla.schemas import BackboneConfig
from vlm4vla.types import Image, refuse

Inputs = dict[str, np.ndarray]
"""One prepared sample: ``input_ids`` (T,) int64 ending in the query placeholders, and the family's picture inputs."""
Side = Literal["right", "left"]


@dataclass(frozen=True)
class Piece:
    """A part of a prompt: the ids of special tokens, or text, which is never read as special tokens."""

    text: str
    special: bool = False


class Processor(ABC):
    """CPU half of a backbone: pictures and an instruction become model inputs. Small, picklable, without weights.

    The same object prepares training samples in loader processes and observations in the policy server.
    """

    mean: ClassVar[tuple[float, float, float]]
    std: ClassVar[tuple[float, float, float]]
    """Of the RGB channels in [0, 1], as published with the family; a checkpoint that says otherwise is refused."""
    image_token: ClassVar[str]
    """The token that stands where the features of a picture go."""
    spare_tokens: ClassVar[tuple[str, ...]] = ()
    """Special tokens that no prompt contains; the query takes one where every row of the embedding has a token."""
    answer_opening: ClassVar[str] = ""
    """What stands between the end of the prompt and an answer in the family's own dialogues: a space, or nothing."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: BackboneConfig, model_config: PretrainedConfig, queries: int
    ) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.model_config = model_config
        self.queries = queries
        _mark_tags(tokenizer)
        self.special_ids = frozenset(int(i) for i in tokenizer.added_tokens_decoder)
        self.pad_id = int(tokenizer.pad_token_id)
        self.image_id = self.special(self.image_token)[0]
        self.query_id = self._marker()
        self._encode = lru_cache(maxsize=4096)(self._encode_piece)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_encode"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._encode = lru_cache(maxsize=4096)(self._encode_piece)

    @abstractmethod
    def pieces(self, sentence: str, image_tokens: Sequence[int]) -> list[Piece]:
        """The family's own chat template around ``sentence``, with ``image_tokens[i]`` placeholders for picture i."""

    @abstractmethod
    def pictures(self, images: Sequence[Image]) -> tuple[Inputs, list[int]]:
        """Model inputs of the pictures, and the number of image tokens that each one takes."""

    @abstractmethod
    def stack(self, samples: Sequence[Inputs], length: int, side: Side) -> dict[str, Tensor]:
        """Batch the family's inputs; text is padded on ``side`` to ``length``."""

    @abstractmethod
    def seen(self, inputs: Inputs) -> list[Image]:
        """What the model sees, as pictures (S, S, 3) uint8: the prepared pixels, unpacked and denormalised."""

    def prepare(self, images: Sequence[Image], instruction: str) -> Inputs:
        """Pictures (H, W, 3) uint8 and an instruction as model inputs; the queries follow the last real token."""
        inputs, counts = self.pictures([self.resize(image) for image in images])
        ids = [i for piece in self.pieces(self.sentence(instruction), counts) for i in self._encode(piece)]
        inputs["input_ids"] = np.asarray(ids + [self.query_id] * self.queries, dtype=np.int64)
        return inputs

    def collate(self, samples: Sequence[Inputs], length: int | None = None, side: Side = "right") -> dict[str, Tensor]:
        """Padded batch. ``length`` fixes the number of text positions (one shape a run); shorter is refused."""
        longest = max(len(s["input_ids"]) for s in samples)
        if length is not None and longest > length:
            raise refuse(
                f"A prompt has {longest} tokens, but this run's shape was fixed at {length}",
                possible=f"at most {length} tokens",
                todo="Start the server with more --tokens, or shorten the instruction.",
            )
        return self.stack(samples, longest if length is None else length, side)

    def sentence(self, instruction: str) -> str:
        if not instruction.strip():
            raise refuse("The instruction is empty", possible="a sentence such as 'open the drawer'", todo="Give one.")
        return self.config.prompt.replace("{instruction}", instruction.strip())

    def answer(self, text: str) -> list[int]:
        """Ids of an answer as the model would write it after the prompt, without the token that ends it."""
        return self._encode(Piece(self.answer_opening + text))

    def pad(self, samples: Sequence[Inputs], length: int, side: Side) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` (B, T)."""
        ids = np.full((len(samples), length), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(samples), length), dtype=np.int64)
        for i, sample in enumerate(samples):
            n = len(sample["input_ids"])
            place = slice(0, n) if side == "right" else slice(length - n, length)
            ids[i, place] = sample["input_ids"]
            mask[i, place] = 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def to_view(self, image: Image) -> Image:
        """The first half of :meth:`resize`: the picture as a frame store would hold it."""
        _check_image(image)
        return _square(image, self.config.view)

    def resize(self, image: Image) -> Image:
        """The declared resize, bicubic to squares: to the view, then to ``image_size``; equal sizes pass untouched."""
        return _square(self.to_view(image), self.config.image_size)

    def normalise(self, planes: np.ndarray) -> np.ndarray:
        """(..., 3, H, W) uint8 -> the same in float32, by the family's mean and standard deviation.

        Planes of one channel and arithmetic in place make it five times as fast as on (H, W, 3), with equal results.
        """
        mean, std = (np.asarray(channels, dtype=np.float32)[:, None, None] for channels in (self.mean, self.std))
        scaled = np.array(planes, dtype=np.float32, order="C")
        scaled /= 255.0
        scaled -= mean
        scaled /= std
        return scaled

    def denormalise(self, pixels: np.ndarray) -> Image:
        """(H, W, 3) of :meth:`normalise`'s numbers back to uint8, rounded."""
        mean, std = (np.asarray(channels, dtype=np.float32) for channels in (self.mean, self.std))
        return np.asarray(np.clip(np.rint((pixels * std + mean) * 255.0), 0, 255), dtype=np.uint8)

    def require_size(self, fits: bool, possible: str, nearest: int) -> None:
        """Refuse an ``image_size`` that the vision encoder cannot take."""
        if not fits:
            raise refuse(
                f"image_size {self.config.image_size} does not fit this model",
                possible=possible,
                todo=f"Set backbone.image_size to {nearest}; view_size keeps the camera's pictures as they are.",
            )

    def special(self, text: str) -> list[int]:
        """Ids of special tokens; a tokenizer that does not have them would silently spell them out."""
        ids = [int(i) for i in self.tokenizer(text, add_special_tokens=False)["input_ids"]]
        if not ids or not set(ids) <= self.special_ids:
            raise refuse(
                f"The tokenizer of {self.config.checkpoint!r} does not know the special tokens of {text[:80]!r}",
                possible="the tokenizer that was published with the VLM",
                todo="Take tokenizer.json and tokenizer_config.json from the VLM's own repository.",
            )
        return ids

    def _encode_piece(self, piece: Piece) -> list[int]:
        if piece.special:
            return self.special(piece.text)
        # An instruction that spells a special token must stay text: the model must not be steered by it.
        ids = self.tokenizer(piece.text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [int(i) for i in ids]

    def _marker(self) -> int:
        """The id that marks the query's place: a row of the embedding that no text can name."""
        rows = int(self.model_config.get_text_config().vocab_size)
        vocabulary = self.tokenizer.get_vocab()
        used = max(vocabulary.values()) + 1
        if used < rows:
            return int(used)
        for token in self.spare_tokens:
            if token in vocabulary:
                return self.special(token)[0]
        raise refuse(
            f"The embedding has {rows} rows and the tokenizer uses {used}",
            possible="at least one unused row, which marks the query's place",
            todo="Resize the token embedding of the checkpoint by one row.",
        )


class PlaneProcessor(Processor):
    """Families whose encoder takes whole pictures as planes: ``pixel_values`` (pictures, 3, S, S) float32."""

    @abstractmethod
    def image_tokens(self) -> int:
        """Image tokens of one picture at ``image_size``."""

    def pictures(self, images: Sequence[Image]) -> tuple[Inputs, list[int]]:
        planes = np.stack([self.normalise(image.transpose(2, 0, 1)) for image in images])
        return {"pixel_values": planes}, [self.image_tokens()] * len(images)

    def stack(self, samples: Sequence[Inputs], length: int, side: Side) -> dict[str, Tensor]:
        batch = self.pad(samples, length, side)
        batch["pixel_values"] = torch.from_numpy(np.concatenate([s["pixel_values"] for s in samples]))
        return batch

    def seen(self, inputs: Inputs) -> list[Image]:
        return [self.denormalise(planes.transpose(1, 2, 0)) for planes in inputs["pixel_values"]]


def _mark_tags(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make special all added tokens such as ``<loc0001>``: as plain ones they would be read out of an instruction."""
    plain = [t for t in tokenizer.added_tokens_decoder.values() if not t.special and re.fullmatch(r"<\S+>", t.content)]
    tags = [
        AddedToken(t.content, lstrip=t.lstrip, rstrip=t.rstrip, normalized=t.normalized, special=True) for t in plain
    ]
    if tags:
        tokenizer.add_tokens(tags, special_tokens=True)


def _square(image: Image, size: int) -> Image:
    from PIL import Image as Pil

    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Pil.fromarray(image).resize((size, size), Pil.Resampling.BICUBIC))


def _check_image(image: Image) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise refuse(
            f"A picture of shape {image.shape} and type {image.dtype} was given",
            possible="(height, width, 3) uint8 RGB with height and width above 0",
            todo="Convert the picture before it is sent.",
        )
