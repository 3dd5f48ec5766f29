"""From a setting to a backbone: a preset, a Hugging Face id, a folder that transformers saved, or a policy folder."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from vlm4vla.backbones.base import Backbone, BackboneFamily
from vlm4vla.backbones.families import family, family_of, preset_parts
from vlm4vla.backbones.processor import Processor
from vlm4vla.schemas import BackboneConfig
from vlm4vla.types import UserError, refuse

_HEAD = ("lm_head.weight", "lm_head.bias")
_LEFT_OUT = (*_HEAD, "position_ids", "inv_freq", "embed_positions.weights")
"""Ends of the names of what published checkpoints hold and a base model makes itself or does not have."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load(
    config: BackboneConfig,
    queries: int,
    seed: int,
    device: str = "cpu",
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Backbone:
    """Build a backbone: a preset or a scratch model gets random weights, a pretrained one its checkpoint's.

    Random weights are a function of the seed and of ``config.dtype`` (some of the library's initialisers draw in it).

    ``device="meta"`` builds the modules alone: no weights are made, read or downloaded. ``tokenizer`` replaces the
    preset's or checkpoint's own.
    """
    of = family(config.family)
    kind, _, name = config.checkpoint.partition(":")
    if kind == "preset":
        if config.init == "pretrained":
            raise refuse(
                f"The preset {name!r} has no pretrained weights",
                possible="init: scratch with a preset, init: pretrained with a Hugging Face id or folder",
                todo="Set backbone.init to scratch.",
            )
        model_config, tokenizer = preset_parts(of, name, tokenizer)
    else:
        model_config = read_config(config.checkpoint, config.revision)
        # A branch may move between three reads: all of them are of the commit that the first one found.
        config = config.model_copy(update={"revision": commit_of(model_config) or config.revision})
        tokenizer = tokenizer or read_tokenizer(config.checkpoint, config.revision)
    processor = _processor(of, config, model_config, tokenizer, queries)
    if device == "meta":
        with torch.device("meta"):
            return Backbone(of, config, _scratch(of, config, model_config), processor)
    if config.init == "pretrained":
        _check_pixels(config, processor)
        return Backbone(of, config, _pretrained(of, config, model_config), processor)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Backbone(of, config, _scratch(of, config, model_config), processor)


def load_saved(config: BackboneConfig, folder: Path, queries: int, weights: Mapping[str, Tensor]) -> Backbone:
    """Rebuild from a policy folder (``config.json`` and tokenizer files) with the weights of its base model."""
    of = family(config.family)
    model_config = read_config(str(folder))
    processor = _processor(of, config, model_config, read_tokenizer(str(folder)), queries)
    with _told(str(folder)):
        model, found = MODEL_MAPPING[type(model_config)].from_pretrained(
            None,
            config=model_config,
            state_dict=dict(weights),
            dtype=DTYPES[config.dtype],
            attn_implementation=_attention(of, config, model_config),
            ignore_mismatched_sizes=True,  # they are named by us
            output_loading_info=True,
        )
    _check_keys(str(folder), found)
    return Backbone(of, config, model, processor)


def load_whole(config: BackboneConfig) -> tuple[BackboneFamily, torch.nn.Module, Processor]:
    """A pretrained VLM with its language head, as the library publishes it, and a processor without queries.

    Refuses what cannot speak: a checkpoint without its head, a family that the library has no such model for.
    """
    assert config.init == "pretrained", "random weights know no answers"
    of = family(config.family)
    model_config = read_config(config.checkpoint, config.revision)
    config = config.model_copy(update={"revision": commit_of(model_config) or config.revision})
    processor = _processor(of, config, model_config, read_tokenizer(config.checkpoint, config.revision), 0)
    if not of.hears or type(model_config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise refuse(
            f"There is no model of type {model_config.model_type!r} that reads and writes text",
            possible="a VLM that transformers runs as image-text-to-text",
            todo="Give its scores in a file, measured elsewhere.",
        )
    _check_pixels(config, processor)
    return of, _pretrained(of, config, model_config, AutoModelForImageTextToText), processor


def read_config(checkpoint: str, revision: str | None = None) -> PretrainedConfig:
    """``config.json`` of a Hugging Face id or a folder."""
    with _told(checkpoint):
        config: PretrainedConfig = AutoConfig.from_pretrained(
            checkpoint, revision=revision or "main", trust_remote_code=False
        )
    return config


def read_tokenizer(checkpoint: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face id or a folder."""
    with _told(checkpoint):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            checkpoint, revision=revision or "main", trust_remote_code=False
        )
    return tokenizer


def commit_of(model_config: PretrainedConfig) -> str | None:
    """The hub's commit that a configuration was read from; None for a folder or a preset."""
    commit: str | None = getattr(model_config, "_commit_hash", None)
    return commit


def _processor(
    of: BackboneFamily,
    config: BackboneConfig,
    model_config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    queries: int,
) -> Processor:
    if model_config.model_type not in of.model_types:
        raise refuse(
            f"{config.checkpoint!r} is a model of type {model_config.model_type!r}, not of family {of.name!r}",
            possible=of.model_types,
            todo=f"Set backbone.family to {family_of(model_config.model_type, config.checkpoint).name}.",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = of.pad_token
    processor = of.processor(tokenizer, config, model_config, queries)
    for setting, token in of.token_ids.items():
        said, own = _dotted(model_config, setting), tokenizer.convert_tokens_to_ids(token)
        if said is not None and "image" in setting and said != own:
            raise refuse(
                f"config.json of {config.checkpoint!r} says {setting} {said}, its tokenizer has {token!r} at {own}",
                possible="a configuration and a tokenizer that were published together",
                todo="Take both from the VLM's own repository.",
            )
    return processor


def _dotted(model_config: PretrainedConfig, name: str) -> Any:
    return reduce(lambda part, key: getattr(part, key, None), name.split("."), model_config)


def _scratch(of: BackboneFamily, config: BackboneConfig, model_config: PretrainedConfig) -> torch.nn.Module:
    with _told(config.checkpoint):
        model: torch.nn.Module = AutoModel.from_config(
            model_config,
            dtype=DTYPES[config.dtype],
            attn_implementation=_attention(of, config, model_config),
            trust_remote_code=False,
        )
    of.complete_scratch(model)
    return model


def _pretrained(
    of: BackboneFamily, config: BackboneConfig, model_config: PretrainedConfig, kind: Any = AutoModel
) -> torch.nn.Module:
    if getattr(model_config, "quantization_config", None) is not None:
        raise refuse(
            f"{config.checkpoint!r} is quantised, and cannot be trained as it is",
            possible="a checkpoint with float32, bfloat16 or float16 weights",
            todo="Take the unquantised checkpoint.",
        )
    with _told(config.checkpoint):
        loaded, found = kind.from_pretrained(
            config.checkpoint,
            revision=_revision(config),
            dtype=DTYPES[config.dtype],
            attn_implementation=_attention(of, config, model_config),
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # they are named by us
            output_loading_info=True,
        )
    _check_keys(config.checkpoint, found)
    _check_stored(config)
    model: torch.nn.Module = loaded
    return model


def _check_keys(checkpoint: str, found: Mapping[str, Any]) -> None:
    """The library fills what is missing with random numbers and drops what it does not know, with a warning at most."""
    for key, stored, needed in sorted(found["mismatched_keys"]):
        raise refuse(
            f"{checkpoint!r} stores {key} with shape {tuple(stored)}, its config.json says {tuple(needed)}",
            possible="a checkpoint whose config.json describes its own weights",
            todo="Take the config.json that belongs to these weights.",
        )
    absent = sorted(found["missing_keys"])
    if absent and all(key.endswith(_HEAD) for key in absent):
        raise refuse(
            f"{checkpoint!r} has no language head, so it cannot answer",
            possible="the whole published checkpoint; a base model or a policy has lost its head",
            todo="Give the checkpoint that this one was made from.",
        )
    if absent:
        raise refuse(
            f"{checkpoint!r} lacks {len(absent)} of the model's weights, the first: {absent[0]}",
            possible="a complete checkpoint of this family",
            todo="Get the whole checkpoint, or say init: scratch.",
        )
    foreign = sorted(key for key in found["unexpected_keys"] if not key.endswith(_LEFT_OUT))
    if foreign:
        raise refuse(
            f"{checkpoint!r} has {len(foreign)} weights that this model has no place for, the first: {foreign[0]}",
            possible="a checkpoint whose config.json describes its own weights",
            todo="Merge adapters into the model first, or take the config.json that belongs to these weights.",
        )


def _check_stored(config: BackboneConfig) -> None:
    """Weights stored as integers or eight-bit floats load without a word, as if their scale were one."""
    index = _file(config, "model.safetensors.index.json")
    names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index else ["model.safetensors"]
    for name in names:
        file = _file(config, name)
        assert file is not None, f"{name} was loaded a moment ago"
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - not a mapping
                kind = tensors.get_slice(key).get_dtype()
                if kind not in ("F64", "F32", "BF16", "F16") and not key.endswith(_LEFT_OUT):
                    raise refuse(
                        f"{config.checkpoint!r} stores {key} as {kind}",
                        possible="weights stored as F32, BF16, F16 or F64",
                        todo="Take a checkpoint that was not quantised.",
                    )


def _check_pixels(config: BackboneConfig, processor: Processor) -> None:
    """A checkpoint that normalises its pictures in another way than its family would see shifted colours, silently."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        file = _file(config, name)
        said: dict[str, Any] = json.loads(file.read_text()) if file else {}
        said = said.get("image_processor", said)
        expected: dict[str, Any] = {"image_mean": processor.mean, "image_std": processor.std}
        expected |= {"rescale_factor": 1 / 255, "do_rescale": True, "do_normalize": True}
        for key, own in expected.items():
            value = said.get(key)
            if value is not None and not _equal(value, own):
                raise refuse(
                    f"{name} of {config.checkpoint!r} says {key} {value}, the family uses {own}",
                    possible="a checkpoint that was prepared as its family publishes it",
                    todo="Correct the file if it is wrong, or write a family of your own for this checkpoint.",
                )


def _equal(value: Any, own: Any) -> bool:
    try:
        return bool(np.allclose(np.broadcast_to(np.asarray(value, float), np.shape(own)), own, atol=1e-3))
    except (TypeError, ValueError):  # not numbers, or another number of channels
        return False


def _attention(of: BackboneFamily, config: BackboneConfig, model_config: PretrainedConfig) -> str | dict[str, str]:
    """``attn_implementation`` as the library takes it: one kernel, or one for each part."""
    if config.attention == "flash_attention_2":
        from transformers.utils import is_flash_attn_2_available

        if of.attention != "causal":
            raise refuse(
                f"attention flash_attention_2 has no mask for {of.name!r}, whose attention is {of.attention}",
                possible="sdpa, eager",
                todo="Set backbone.attention to sdpa.",
            )
        if not MODEL_MAPPING[type(model_config)]._supports_flash_attn:
            raise refuse(
                f"The library has no flash attention for {of.name!r}",
                possible="sdpa, eager",
                todo="Set backbone.attention to sdpa.",
            )
        if not is_flash_attn_2_available():
            raise refuse(
                "attention flash_attention_2 needs the flash-attn package and a CUDA device, and one is missing here",
                possible="sdpa, eager",
                todo="Install flash-attn beside your CUDA build of torch, or set backbone.attention to sdpa.",
            )
    # SDPA cannot cap attention scores; the library refuses it for such a text model, and its own default is eager.
    capped = getattr(model_config.get_text_config(), "attn_logit_softcapping", None) is not None
    return {"": "sdpa", "text_config": "eager"} if capped and config.attention == "sdpa" else config.attention


def _file(config: BackboneConfig, name: str) -> Path | None:
    """A file of the checkpoint's folder or repository; None where there is none."""
    found = cached_file(
        config.checkpoint,
        name,
        revision=_revision(config),
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(found) if found else None


def _revision(config: BackboneConfig) -> str:
    return config.revision or "main"


@contextmanager
def _told(checkpoint: str) -> Iterator[None]:
    """The library's loading errors as one sentence of the house."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise refuse(
            f"{checkpoint!r} cannot be loaded: {reason}",
            possible="a Hugging Face id that this machine can reach, a folder saved by transformers, or preset:tiny",
            todo="Check the spelling and the network, or give a folder.",
        ) from error
