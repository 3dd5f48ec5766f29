"""From a setting to a backbone: a preset, a Hugging Face id, a folder that transformers saved, or a policy folder."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from vlm4vla import registry
from vlm4vla.backbones._tiny import tiny_tokenizer
from vlm4vla.backbones.base import Backbone, BackboneFamily
from vlm4vla.backbones.processor import Processor
from vlm4vla.schemas import BackboneConfig
from vlm4vla.types import refuse

_LEFT_OUT = ("lm_head.weight", "lm_head.bias", "position_ids", "inv_freq", "embed_positions.weights")
"""Ends of the names of what published checkpoints hold and a base model makes itself or does not have."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def family(name: str) -> BackboneFamily:
    found: BackboneFamily = registry.find("backbones", name).Family()
    return found


def family_of(model_type: str, checkpoint: str) -> BackboneFamily:
    """The family that runs a ``model_type``; refuses one that nobody runs."""
    families = [family(name) for name in registry.names("backbones")]
    for one in families:
        if model_type in one.model_types:
            return one
    raise refuse(
        f"{checkpoint!r} is a model of type {model_type!r}, which no family here runs",
        given=model_type,
        possible=sorted(kind for one in families for kind in one.model_types),
        todo="Choose another VLM, or write its family: one file, see ARCHITECTURE.md.",
    )


def preset_names(of: BackboneFamily) -> list[str]:
    return sorted(file.stem for file in _presets(of).glob("*.json"))


def preset(of: BackboneFamily, name: str) -> dict[str, Any]:
    """The preset's file: ``config`` (as transformers reads it), ``image_size``, ``source``, ``published`` id."""
    if name not in preset_names(of):
        raise refuse(
            f"Unknown preset {name!r} of family {of.name!r}",
            given=name,
            possible=preset_names(of),
            todo=f"Use preset:{preset_names(of)[-1]} or another of these, a Hugging Face id, or a folder.",
        )
    found: dict[str, Any] = json.loads((_presets(of) / f"{name}.json").read_text())
    return found


def preset_parts(
    of: BackboneFamily, name: str, tokenizer: PreTrainedTokenizerBase | None = None
) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """Configuration and tokenizer of a preset; without ``tokenizer`` the small one, plus the family's tokens.

    The configuration's token ids are those of the tokenizer, so a preset runs with either.
    """
    plain = dict(preset(of, name)["config"])
    config = AutoConfig.for_model(plain.pop("model_type"), **plain)
    tokenizer = tokenizer or tiny_tokenizer(of.special_tokens, pad=of.pad_token, eos=of.eos_token)
    for setting, token in of.token_ids.items():
        *parents, last = setting.split(".")
        target = config
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, last, int(tokenizer.convert_tokens_to_ids(token)))
    return config, tokenizer


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
        with _told(config.checkpoint):
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(config.checkpoint, revision=_revision(config))
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
    model_config = AutoConfig.from_pretrained(folder)
    processor = _processor(of, config, model_config, AutoTokenizer.from_pretrained(folder), queries)
    model, found = MODEL_MAPPING[type(model_config)].from_pretrained(
        None,
        config=model_config,
        state_dict=dict(weights),
        dtype=DTYPES[config.dtype],
        attn_implementation=_attention(of, config, model_config),
        output_loading_info=True,
    )
    _check_keys(str(folder), found)
    return Backbone(of, config, model, processor)


def read_config(checkpoint: str, revision: str | None = None) -> PretrainedConfig:
    """``config.json`` of a Hugging Face id or a folder."""
    with _told(checkpoint):
        config: PretrainedConfig = AutoConfig.from_pretrained(checkpoint, revision=revision or "main")
    return config


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
    return of.processor(tokenizer, config, model_config, queries)


def _scratch(of: BackboneFamily, config: BackboneConfig, model_config: PretrainedConfig) -> torch.nn.Module:
    with _told(config.checkpoint):
        model: torch.nn.Module = AutoModel.from_config(
            model_config, dtype=DTYPES[config.dtype], attn_implementation=_attention(of, config, model_config)
        )
    of.complete_scratch(model)
    return model


def _pretrained(of: BackboneFamily, config: BackboneConfig, model_config: PretrainedConfig) -> torch.nn.Module:
    if getattr(model_config, "quantization_config", None) is not None:
        raise refuse(
            f"{config.checkpoint!r} is quantised, and cannot be trained as it is",
            possible="a checkpoint with float32, bfloat16 or float16 weights",
            todo="Take the unquantised checkpoint.",
        )
    with _told(config.checkpoint):
        loaded, found = AutoModel.from_pretrained(
            config.checkpoint,
            revision=_revision(config),
            dtype=DTYPES[config.dtype],
            attn_implementation=_attention(of, config, model_config),
            use_safetensors=True,
            output_loading_info=True,
        )
    _check_keys(config.checkpoint, found)
    _check_stored(config)
    model: torch.nn.Module = loaded
    return model


def _check_keys(checkpoint: str, found: Mapping[str, Any]) -> None:
    """The library fills what is missing with random numbers and drops what it does not know, with a warning at most."""
    absent = sorted([*found["missing_keys"], *(str(key) for key in found["mismatched_keys"])])
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
        for key, own in (("image_mean", processor.mean), ("image_std", processor.std)):
            value = said.get(key)
            if value is not None and max(abs(a - b) for a, b in zip(value, own, strict=True)) > 1e-3:
                raise refuse(
                    f"{name} of {config.checkpoint!r} says {key} {value}, the family uses {list(own)}",
                    possible="a checkpoint that was prepared as its family publishes it",
                    todo="Correct the file if it is wrong, or write a family of your own for this checkpoint.",
                )


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


def _presets(of: BackboneFamily) -> Path:
    file = sys.modules[type(of).__module__].__file__
    assert file is not None
    return Path(file).parent / "presets" / of.name


@contextmanager
def _told(checkpoint: str) -> Iterator[None]:
    """The library's loading errors as one sentence of the house."""
    try:
        yield
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise refuse(
            f"{checkpoint!r} cannot be loaded: {str(error).splitlines()[0]}",
            possible="a Hugging Face id that this machine can reach, a folder saved by transformers, or preset:tiny",
            todo="Check the spelling and the network, or give a folder.",
        ) from error
