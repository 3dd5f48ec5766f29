"""``vlm4vla train``: a store and a VLM in, a policy folder with its record out."""

import os
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from vlm4vla import config as configs
from vlm4vla import policy_folder, provenance, records
from vlm4vla.backbones import loading
from vlm4vla.backbones.processor import Inputs
from vlm4vla.data.batch import Samples
from vlm4vla.data.mixture import Mixture
from vlm4vla.data.normalize import Normalizer
from vlm4vla.data.order import Order
from vlm4vla.policy import Facts, Policy, Preparer
from vlm4vla.records import RunRecord
from vlm4vla.schemas import TrainConfig
from vlm4vla.train import checkpoint, facts
from vlm4vla.train.did import Did
from vlm4vla.train.loop import World, fit
from vlm4vla.train.objective import Objective
from vlm4vla.types import refuse

PACKAGES = ("vlm4vla", "torch", "transformers", "tokenizers", "numpy", "pillow", "datasets", "pyarrow")


class Examples:
    """Prepared training examples: what the loader processes hold (no weights)."""

    def __init__(self, samples: Samples, preparer: Preparer) -> None:
        self.samples, self.preparer = samples, preparer

    def __len__(self) -> int:
        return len(self.samples)

    def order(self) -> Order:
        return self.samples.order()

    def __getitem__(self, key: tuple[int, int]) -> Inputs:
        index, epoch = key
        return self.preparer.example(self.samples.sample(index, epoch))


def facts_of(config: TrainConfig, mixture: Mixture) -> Facts:
    """What the policy must carry: spec, normaliser fitted on this data, state statistics, provenance, crop."""
    state = mixture.state_statistics()
    data: dict[str, Any] = {"store": mixture.digest}
    if len(mixture.stores) > 1:
        data["shares"] = facts.shares(mixture)
    return Facts(
        action_spec=mixture.action_spec,
        normalizer=Normalizer.fit(mixture.action_spec, mixture.statistics(), config.policy.normalizer),
        state_names=mixture.state_names,
        state_mean=state.mean if state else (),
        state_std=tuple(max(1e-6, s) for s in state.std) if state else (),
        provenance={
            **data,
            "seed": config.seed,
            "steps": config.steps,
            "batch": config.batch,
            "frozen": list(config.freeze),
        },
        center_crop=config.data.augment.crop,
    )


def objective_of(config: TrainConfig, mixture: Mixture) -> tuple[Objective, Policy]:
    size = config.policy.backbone.view
    wrong = [c for c in mixture.cameras if c.name in config.policy.cameras and (c.height, c.width) != (size, size)]
    if wrong:
        raise refuse(
            f"The store's pictures of {wrong[0].name!r} are {wrong[0].height} x {wrong[0].width}, the policy's {size}",
            possible=f"a store built with --image-size {size}",
            todo="Build the store at the policy's view_size: pictures resized twice are not those it will act on.",
        )
    policy = Policy.create(config.policy, facts_of(config, mixture), config.seed)
    policy.facts.provenance["vlm_commit"] = loading.commit_of(policy.backbone.model_config)
    policy.freeze(config.freeze)
    if config.gradient_checkpointing:
        policy.backbone.recompute_activations()
    items = Examples(_samples(config, mixture), policy.preparer)
    return Objective(policy, items, policy.preparer.collate, Policy.weight), policy


def _samples(config: TrainConfig, mixture: Mixture) -> Samples:
    policy = config.policy
    return Samples(mixture, policy.chunk, policy.cameras, config.data.augment, config.seed, policy.window)


def identity(config: TrainConfig, data_digest: str) -> str:
    """Hash of everything that can change the weights, or which of them stay: not where files lie, nor how they are
    loaded or logged.

    ``data_digest`` covers the contents of all stores and their weights.
    """
    plain = configs.to_dict(config)
    for key in ("out", "log_every", "checkpoint_every"):
        del plain[key]
    del plain["data"]["workers"], plain["data"]["mixture"]
    plain["data"]["store"] = data_digest
    return configs.digest(plain)


def train(config: TrainConfig) -> RunRecord:
    """Run or resume; a finished run with the same settings returns at once. Under torchrun, every rank calls this."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    mixture = Mixture.open(config.data.sources)
    config_hash = identity(config, mixture.digest)
    record_file = config.out / "run.json"
    if record_file.is_file():
        done = records.read_one(record_file, RunRecord)
        if done.config_hash == config_hash:
            return done
        raise refuse(
            f"{config.out} holds a finished run with other settings (hash {done.config_hash}, now {config_hash})",
            possible="the settings in its config.yaml, or another --out",
            todo="Choose a new --out folder; nothing is overwritten.",
        )
    world = World.join()
    with records.locked(config.out) if world.rank == 0 else nullcontext():
        return _train(config, config_hash, mixture, world, began, started)


def _train(
    config: TrainConfig, config_hash: str, mixture: Mixture, world: World, began: float, started: str
) -> RunRecord:
    source = provenance.source_state()  # that of the code at work: files may change while it runs
    objective, policy = objective_of(config, mixture)
    if world.rank == 0:
        config.out.mkdir(parents=True, exist_ok=True)
        records.write_atomic(config.out / "config.yaml", configs.to_yaml(config))

    def keep(step: int) -> None:
        whole = policy.facts
        policy.facts = replace(whole, provenance=whole.provenance | {"steps": step, "of_steps": config.steps})
        policy.save_pretrained(config.policy_at(step))
        policy.facts = whole

    did = fit(objective, config, world, config.out, config_hash, keep)
    assert isinstance(objective.items, Examples)
    samples, wall_s = objective.items.samples, time.monotonic() - began
    record = _record(config, config_hash, policy, samples, started, wall_s, did, world.size, source)
    if world.rank == 0:
        digest = policy.save_pretrained(config.out / "policy")
        kept = {str(step): policy_folder.digest_of(config.policy_at(step)) for step in config.keep}
        record = record.model_copy(
            update={"inputs": {**record.inputs, "policy": digest}, "facts": {**record.facts, "kept": kept}}
        )
        records.write_one(config.out / "run.json", record)
        checkpoint.remove(config.out)  # the finished policy replaces it
    world.leave()
    return record


def _record(
    config: TrainConfig,
    config_hash: str,
    policy: Policy,
    samples: Samples,
    started: str,
    wall_s: float,
    did: Did,
    world: int,
    source: tuple[str | None, bool | None],
) -> RunRecord:
    found = facts.of_run(config, policy, samples.mixture, samples, did)
    return RunRecord(
        run=f"train-{config_hash}",
        kind="train",
        config=configs.to_dict(config),
        config_hash=config_hash,
        commit=source[0],
        dirty=source[1],
        packages=provenance.package_versions(PACKAGES),
        hardware=provenance.hardware() | provenance.device(policy.query_QD.device) | {"processes": world},
        seed=config.seed,
        inputs={"store": samples.mixture.digest},
        parameters=policy.parameters_by_group(),
        facts=found | {"resumed_from_step": did.start},
        started=started,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        wall_s=round(wall_s, 1),
    )
