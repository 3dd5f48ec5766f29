"""The training loop: one process, or several under torchrun (DDP over gloo or NCCL). Resume on a CPU is bit-exact.

The order of samples, their augmentation and every other random number are functions of (seed, step), so that a
checkpoint holds weights, optimizer and the number of finished steps; and what was done so far, which changes nothing.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from vlm4vla import provenance
from vlm4vla.data.order import BatchSampler
from vlm4vla.schemas import TrainConfig
from vlm4vla.train import checkpoint, did, schedule
from vlm4vla.train.did import Did
from vlm4vla.train.log import Log
from vlm4vla.train.objective import Batch, Objective
from vlm4vla.types import refuse


@dataclass(frozen=True)
class World:
    """Which process this is, of how many, and on what device."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def join(cls) -> "World":
        """The world that torchrun announced in the environment, or a world of one."""
        size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        if torch.cuda.is_available():
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        else:
            device = torch.device("cpu")
        if size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(rank, size, device)

    def total(self, value: float) -> float:
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64 if self.device.type == "cpu" else torch.float32)
        tensor = tensor.to(self.device)
        dist.all_reduce(tensor)
        return float(tensor)

    def leave(self) -> None:
        if self.size > 1:
            dist.destroy_process_group()


def fit(
    objective: Objective,
    config: TrainConfig,
    world: World,
    out: Path,
    config_hash: str,
    keep: Callable[[int], None] = lambda _step: None,
) -> Did:
    """Train to ``config.steps``; returns what was done, in earlier attempts too. Only rank 0 writes.

    ``keep(step)`` is called on rank 0 after each step of ``config.keep``, before that step's checkpoint is stored: a
    run that is killed in between comes there again.
    """
    if config.batch % world.size:
        raise refuse(
            f"The global batch {config.batch} cannot be shared by {world.size} processes",
            possible=f"multiples of {world.size}",
            todo="Change batch or the number of processes.",
        )
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(world.device.type == "cpu")
    # A debugging aid that costs time: nothing reads uninitialised memory here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    module = objective.module.to(world.device).train()
    optimizer = schedule.build(config.optimizer, module)
    start, deeds = checkpoint.restore(out, module, optimizer, config_hash)
    wrapped: nn.Module = DistributedDataParallel(module) if world.size > 1 else module
    deeds.start = start
    deeds.note("commit", provenance.source(*provenance.source_state()))
    batches = _batches(objective, config, world, start)
    with Log(out, out.name, config.steps, config.batch, start, quiet=world.rank > 0) as log:
        for step in range(start, config.steps):
            began = time.monotonic()
            count, batch = next(batches)
            waited = time.monotonic() - began
            parts = _step(objective, wrapped, optimizer, config, world, batch, step, deeds)
            deeds.stepped(optimizer, round(world.total(count)))
            done = step + 1
            log.step(done, parts, waited, config.log_every, last=done == config.steps)
            if world.rank == 0 and done in config.keep:
                keep(done)
            if world.rank == 0 and done % config.checkpoint_every == 0 and done < config.steps:
                checkpoint.save(out, module, optimizer, done, config_hash, deeds)
    return deeds


def _step(
    objective: Objective,
    wrapped: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    world: World,
    batch: Batch,
    step: int,
    deeds: Did,
) -> dict[str, float]:
    """One optimizer step; returns the log's numbers."""
    torch.manual_seed(((config.seed * 1_000_003 + step) * 4_099 + world.rank) % 2**63)
    lr = schedule.set_rates(optimizer, config.optimizer, step, config.steps)
    with torch.autocast(world.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        loss, parts = wrapped(batch)
        deeds.note("precision", did.autocast_precision(world.device.type))
    # DDP averages gradients over processes; weighted so, the result is the mean over all valid steps of the global
    # batch, whatever the number of processes.
    weight = objective.weight(batch)
    share = weight * world.size / world.total(weight)
    optimizer.zero_grad(set_to_none=True)
    (loss * share).backward()
    trainable = [p for p in wrapped.parameters() if p.requires_grad]
    limit = config.optimizer.clip_norm or float("inf")
    norm = float(nn.utils.clip_grad_norm_(trainable, limit))
    # The mean over the global batch, so that every process sees the same number and stops at the same step.
    value = world.total(float(loss.detach()) * share) / world.size
    if not (math.isfinite(value) and math.isfinite(norm)):
        raise refuse(
            f"Loss {value} and gradient norm {norm} at step {step + 1} (rate {lr:.2e})",
            possible="finite numbers",
            todo="Lower optimizer.lr or lengthen the warm-up; the last checkpoint is intact.",
        )
    if step == deeds.start or (step + 1) % config.log_every == 0:
        deeds.note("clip_norm", did.clip_limit(trainable, limit))
    optimizer.step()
    return {"loss": value, **{k: float(v) for k, v in parts.items()}, "grad_norm": norm, "lr": lr}


class _Counted:
    """Makes a batch of examples, and says how many they are: the tensors of some VLMs do not tell."""

    def __init__(self, collate: Callable[[Sequence[Any]], dict[str, Tensor]]) -> None:
        self.collate = collate

    def __call__(self, examples: Sequence[Any]) -> tuple[int, dict[str, Tensor]]:
        return len(examples), self.collate(examples)


def _batches(
    objective: Objective, config: TrainConfig, world: World, start: int
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """This process' share of each global batch from step ``start`` on: how many samples, and their tensors."""
    sampler = BatchSampler(objective.items.order(), config.batch, world.rank, world.size, start)
    # Our samplers and items speak of (index, epoch) pairs, which torch's generic type does not know.
    items: Any = objective.items
    loader: DataLoader[Any] = DataLoader(
        items,
        batch_sampler=sampler,
        num_workers=config.data.workers,
        collate_fn=_Counted(objective.collate),
        persistent_workers=False,
        pin_memory=world.device.type == "cuda",
    )
    for count, batch in loader:
        yield count, {key: value.to(world.device, non_blocking=True) for key, value in batch.items()}
