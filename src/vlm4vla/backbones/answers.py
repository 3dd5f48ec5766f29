"""A whole VLM, with its language head, answers questions about pictures: how likely it holds an answer, what it says.

Pictures and prompt are those of the policies that are made of it: the same processor, one view of each picture, the
family's own template around the question. The places of an answer's tokens are marked as the query's are, so they get
the mask and the token types that the family declares for what follows its prompt; then the answer's ids stand there.

One question at a time, without padding: nothing that is asked beside it can change an answer.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from vlm4vla.backbones import loading
from vlm4vla.backbones.base import BackboneFamily
from vlm4vla.backbones.processor import Inputs, Processor
from vlm4vla.schemas import BackboneConfig
from vlm4vla.types import Image, RunFailed

ASK_PLAINLY = "{instruction}"
"""``BackboneConfig.prompt`` of a VLM that is asked questions: no sentence of ours stands around them."""


class Answerer:
    """A VLM that answers. ``model`` is the library's unmodified model with its language head, in evaluation mode."""

    def __init__(self, family: BackboneFamily, model: nn.Module, processor: Processor) -> None:
        self.family = family
        self.model: Any = model.eval()
        self.processor = processor
        # A checkpoint's own settings of generation may sample, or punish repetition; here the likeliest token counts.
        self.model.generation_config = GenerationConfig(
            do_sample=False, pad_token_id=processor.pad_id, eos_token_id=sorted(processor.special_ids)
        )

    def prompt(self, images: Sequence[Image], question: str) -> Inputs:
        """Pictures (H, W, 3) uint8 and a question as model inputs, up to where the answer begins."""
        return self.processor.prepare(images, question)

    def log_likelihoods(self, prompt: Inputs, answers: Sequence[str]) -> list[float]:
        """Natural logarithms of the probabilities that the model's answer begins with each of these words.

        Answers that differ in their last token alone, as letters do, are read off one pass.
        """
        ids = [self.processor.answer(answer) for answer in answers]
        assert all(ids), f"an answer among {answers} has no tokens"
        passes = {begun: self._after(prompt, begun) for begun in dict.fromkeys(tuple(i[:-1]) for i in ids)}
        found = [sum(float(row[i]) for row, i in zip(passes[tuple(a[:-1])], a, strict=True)) for a in ids]
        for answer, value in zip(answers, found, strict=True):
            if not math.isfinite(value):
                raise RunFailed(f"The model gives {answer!r} a log-likelihood of {value}; try --dtype float32.")
        return found

    def _after(self, prompt: Inputs, begun: Sequence[int]) -> Tensor:
        """Log-probabilities (1 + begun, vocabulary) of what follows the prompt, and each token of a begun answer."""
        marks = np.full(len(begun), self.processor.query_id, dtype=np.int64)
        batch = self._batch({**prompt, "input_ids": np.concatenate([prompt["input_ids"], marks])})
        batch["input_ids"][0, len(prompt["input_ids"]) :] = torch.tensor(begun, dtype=torch.int64)
        with torch.inference_mode():
            logits_TV: Tensor = self.model(**batch, use_cache=False, logits_to_keep=len(begun) + 1).logits[0]
        return logits_TV.double().log_softmax(dim=-1).cpu()

    def say(self, prompt: Inputs, limit: int) -> str:
        """The likeliest next token again and again, until a special one (they end an answer) or ``limit`` tokens."""
        batch = self._batch(prompt)
        with torch.inference_mode():
            written = self.model.generate(**batch, max_new_tokens=limit)[0, batch["input_ids"].shape[1] :]
        said = [int(i) for i in written if int(i) not in self.processor.special_ids]
        return str(self.processor.tokenizer.decode(said)).strip()

    def _batch(self, inputs: Inputs) -> Mapping[str, Tensor]:
        weight: Tensor = self.model.get_input_embeddings().weight
        batch = self.processor.collate([inputs])
        typed = {k: v.to(weight.dtype) if v.is_floating_point() else v for k, v in batch.items()}
        return {key: value.to(weight.device) for key, value in typed.items()}


def load(config: BackboneConfig, device: str) -> Answerer:
    """The VLM of ``config`` (pretrained, with :data:`ASK_PLAINLY` as its prompt) on ``device``."""
    family, model, processor = loading.load_whole(config)
    return Answerer(family, model.to(device), processor)
