"""What a training run did, for the audit: what its loop noted, and what was built and prepared.

The settings stand in the record as well, and the audit compares both: a piece of code that overrides a setting (the
reference switched its clipping off so) shows as a run that did something else than its settings say.
"""

import hashlib
import json
import math
import resource
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vlm4vla.backbones import loading
from vlm4vla.data.batch import Samples
from vlm4vla.data.mixture import Mixture
from vlm4vla.data.order import Order
from vlm4vla.policy import Policy
from vlm4vla.schemas import TrainConfig
from vlm4vla.train.did import Did

Shape = Sequence[int]
_ORDER_PLACES = 4096


def of_run(config: TrainConfig, policy: Policy, mixture: Mixture, samples: Samples, did: Did) -> dict[str, Any]:
    """Facts of a run at its end; ``policy`` is the trained one, ``samples`` those that it was trained on."""
    return {
        **_of_model(config, policy, samples),
        **_of_loop(did),
        "shares": shares(mixture),
        "order": order_digest(samples.order(), did.samples),
        "augmentation": samples.augment.model_dump(mode="json"),
        "center_crop": policy.facts.center_crop,
        "normalizer": {"kind": policy.facts.normalizer.kind, "clip": policy.facts.normalizer.clip},
        "chunk": policy.chunk,
        "epochs": round(did.samples / len(samples), 2),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def shares(mixture: Mixture) -> dict[str, float]:
    """Digest of each store -> its share of the samples."""
    return {store.digest: share for store, share in zip(mixture.stores, mixture.shares, strict=True)}


def order_digest(order: Order, seen: int) -> str:
    """Names the order of samples by the first places and the last ones: the seed and the code that makes it."""
    places = min(_ORDER_PLACES, seen)
    found = [order.between(0, places), order.between(seen - places, seen)]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:12]


def _of_model(config: TrainConfig, policy: Policy, samples: Samples) -> dict[str, Any]:
    """Of the VLM and its inputs, measured on the first sample."""
    sample = samples.sample(0, 0)
    example = policy.preparer.example(sample)
    ids = example["input_ids"]
    backbone, processor = policy.backbone, policy.backbone.processor
    query = int(np.argmax(ids == processor.query_id))
    batch = {k: v.to(policy.query_QD.device) for k, v in policy.preparer.collate([example]).items()}
    inputs = {k: v.cpu() for k, v in batch.items()}
    return {
        "checkpoint_commit": loading.commit_of(backbone.model_config),
        "dropout": backbone.dropout(),
        "tokenizer": f"{type(processor.tokenizer).__name__}, {len(processor.tokenizer)} tokens",
        "tokens_per_sample": len(ids),
        "image_tokens": int((ids == processor.image_id).sum()),
        "model_pixels": int(processor.seen(example)[0].shape[0]),
        "image_pixels": [list(image.shape[:2]) for image in sample.images.values()],
        "encoder_resolution": backbone.family.native_size(backbone.model_config),
        "sentence": processor.sentence("{instruction}"),
        "prompt": processor.tokenizer.decode(ids[: -config.policy.queries]),
        "query_position": query,
        "query_at": [int(axis[0, query]) for axis in backbone.family.positions(backbone.model, inputs)],
        "attention_mask": backbone.family.attention,
        "attention_kernel": backbone.model_config.get_text_config()._attn_implementation,
        "weights_dtype": sorted({str(p.dtype).removeprefix("torch.") for p in backbone.parameters()}),
        "flops_per_sample": _flops(config, policy, batch),
        "pictures_per_camera": config.policy.window,
        "proprioception": config.policy.proprioception,
        "frozen_groups": sorted(_frozen(policy)),
        "head": config.policy.head.name,
    }


def _frozen(policy: Policy) -> list[str]:
    """Groups none of whose parameters gets gradient."""
    return [g for g, ps in policy.backbone.groups().items() if ps and not any(p.requires_grad for p in ps)]


def _of_loop(did: Did) -> dict[str, Any]:
    """Of all optimizer steps, as the loop counted them; a value that was not the same in all is a list."""
    highest = [float(f"{rate:.10g}") for rate in did.rates]
    return {
        "learning_rate": highest[0] if len(highest) == 1 else highest,
        "warmup_steps": did.highest_at,
        "schedule": "cosine" if did.falling else "constant",
        "weight_decay": did.of_all("weight_decay"),
        "clip_norm": did.of_all("clip_norm"),
        "precision": did.of_all("precision"),
        "batch": did.of_all("batch"),
        "samples_seen": did.samples,
        "checkpoint_step": did.steps,
        "commits": did.seen.get("commit", []),
    }


def _flops(config: TrainConfig, policy: Policy, batch: Mapping[str, Tensor]) -> int:
    """Floating point operations of one sample's forward pass: matrix products and attention.

    With gradients, although none is taken: torch's counter follows modules by their graph, and some are handed a
    parameter, which has none without.
    """
    with (
        FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter,
        torch.autocast(policy.query_QD.device.type, torch.bfloat16, enabled=config.precision == "bf16"),
    ):
        policy(batch)
    return int(counter.get_total_flops())


def _attention(query: Shape, key: Shape, *_rest: Any, **_more: Any) -> int:
    """Scores and their product with the values, (B, H, T, D) each; fewer key heads are repeated."""
    return 4 * math.prod(query) * key[-2]


def _experts(tokens: Shape, _weights: Shape, *_rest: Any, out_shape: Shape, **_more: Any) -> int:
    """Every token times the weights of its expert."""
    return 2 * math.prod(out_shape) * tokens[-1]


_UNCOUNTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._grouped_mm: _experts,
}
"""Operations that torch's counter passes over: attention on a CPU, and all experts of a mixture."""
