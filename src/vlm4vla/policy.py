"""The policy: normaliser + backbone + head, and its only save and load.

``action = head(VLM([image ... text ... query]))`` (the paper's eq. 1). ``prepare`` serves training and acting; what a
later room needs (action spec, statistics, state names, provenance) travels inside the policy folder.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vlm4vla import config as configs
from vlm4vla import records, registry
from vlm4vla.backbones import base
from vlm4vla.backbones.base import Inputs, Processor
from vlm4vla.config import Group, PolicyConfig
from vlm4vla.data.batch import Sample
from vlm4vla.data.normalize import Normalizer
from vlm4vla.heads.base import ActionHead
from vlm4vla.records import ParameterCount
from vlm4vla.types import ActionSpec, Image, Observation, Vector, refuse

_WEIGHTS, _META = "model.safetensors", "policy.json"


@dataclass(frozen=True)
class Facts:
    """What a policy must know about its data: it is fixed at training and travels in the folder."""

    action_spec: ActionSpec
    normalizer: Normalizer
    state_names: tuple[str, ...]
    state_mean: tuple[float, ...]
    state_std: tuple[float, ...]
    provenance: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {
            "action_spec": self.action_spec.to_dict(),
            "normalizer": self.normalizer.to_dict(),
            "state_names": list(self.state_names),
            "state_mean": list(self.state_mean),
            "state_std": list(self.state_std),
            "provenance": self.provenance,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Facts":
        return cls(
            action_spec=ActionSpec.from_dict(data["action_spec"]),
            normalizer=Normalizer.from_dict(data["normalizer"]),
            state_names=tuple(data["state_names"]),
            state_mean=tuple(data["state_mean"]),
            state_std=tuple(data["state_std"]),
            provenance=dict(data["provenance"]),
        )


class Preparer:
    """The light half of a policy, without weights: samples and observations become batches. Picklable."""

    def __init__(self, config: PolicyConfig, facts: Facts, processor: Processor) -> None:
        self.config, self.facts, self.processor = config, facts, processor

    def prepare(self, images: Mapping[str, Image], instruction: str, state: Vector | None) -> Inputs:
        """Model inputs of one observation; cameras are taken by name, in the policy's order."""
        missing = [name for name in self.config.cameras if name not in images]
        if missing:
            raise refuse(
                f"Camera {missing[0]!r} is missing from the observation",
                given=missing[0],
                possible=sorted(images),
                todo="Send the pictures under the names that the policy was trained with.",
            )
        inputs = self.processor.prepare([images[name] for name in self.config.cameras], instruction)
        if self.config.proprioception:
            inputs["state"] = self._state(state)
        return inputs

    def example(self, sample: Sample) -> Inputs:
        """A training sample: the same ``prepare``, plus normalised actions (H, A) and the mask (H,)."""
        example = self.prepare(sample.images, sample.instruction, sample.state)
        example["actions"] = self.facts.normalizer.normalize(sample.actions)
        example["mask"] = sample.mask
        return example

    def collate(self, examples: Sequence[Inputs], tokens: int | None = None) -> dict[str, Tensor]:
        """A batch of tensors; ``actions``, ``mask`` and ``state`` are stacked, the rest is the backbone's."""
        batch = self.processor.collate(examples, tokens)
        for key in ("actions", "mask", "state"):
            if key in examples[0]:
                batch[key] = torch.from_numpy(np.stack([e[key] for e in examples]))
        return batch

    def _state(self, state: Vector | None) -> np.ndarray:
        if state is None or state.shape != (len(self.facts.state_names),):
            raise refuse(
                f"This policy reads proprioception, but the state is {None if state is None else state.shape}",
                possible=f"({len(self.facts.state_names)},): {', '.join(self.facts.state_names)}",
                todo="Send the state, or train with policy.proprioception: false.",
            )
        mean = np.asarray(self.facts.state_mean, dtype=np.float32)
        return ((state - mean) / np.asarray(self.facts.state_std, dtype=np.float32)).astype(np.float32)


class Policy(nn.Module):
    """See the module docstring. Build with :meth:`create` (from a VLM) or :meth:`load` (from a policy folder)."""

    def __init__(self, config: PolicyConfig, backbone: base.Backbone, facts: Facts) -> None:
        super().__init__()
        self.config = config
        self.facts = facts
        self.backbone = backbone
        self.preparer = Preparer(config, facts, backbone.processor)
        # The paper's action query: zeros at the start, in the space of the embedded tokens.
        self.query_QD = nn.Parameter(torch.zeros(config.queries, backbone.width))
        if config.proprioception:
            self.state_projection = nn.Linear(len(facts.state_names), backbone.width)
        self.head: ActionHead = registry.find("heads", config.head.name).Head(
            config.head, backbone.width, config.queries, config.chunk, facts.action_spec
        )
        self.digest = ""

    @classmethod
    def create(cls, config: PolicyConfig, facts: Facts, seed: int) -> "Policy":
        """A new policy around the configured VLM; every new parameter is initialised from ``seed``."""
        backbone = base.load(config.backbone, config.queries, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            return cls(config, backbone, facts)

    def readout(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "B Q D"]:
        inputs = {k: v for k, v in batch.items() if k not in ("actions", "mask", "state")}
        readout_BQD = self.backbone.readout(inputs, self.query_QD)
        if self.config.proprioception:
            readout_BQD = readout_BQD + self.state_projection(batch["state"])[:, None]
        return readout_BQD

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss (a scalar: mean over the valid chunk steps) and its parts; see :meth:`weight`."""
        out = self.head.loss(self.readout(batch), batch["actions"], batch["mask"])
        return out.loss, out.parts

    @staticmethod
    def weight(batch: Mapping[str, Tensor]) -> float:
        """Number of valid steps that the loss of this batch is a mean of: means of parts combine by it exactly."""
        return float(batch["mask"].sum())

    @torch.no_grad()
    def act(
        self,
        observations: Sequence[Observation],
        tokens: int | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> Float[np.ndarray, "B H A"]:
        """Action chunks in the units of the action spec, clipped to its limits. ``tokens`` fixes the text length."""
        examples = [self.preparer.prepare(o.images, o.instruction, o.state) for o in observations]
        device = self.query_QD.device
        batch = {k: v.to(device) for k, v in self.preparer.collate(examples, tokens).items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            chunk_BHA = self.head.sample(self.readout(batch))
        return self.facts.normalizer.inverse(chunk_BHA.float().cpu().numpy())

    def count_tokens(self, instruction: str) -> int:
        """Text positions of a prompt with this instruction: image tokens and queries included."""
        size = self.config.backbone.image_size
        blank = np.zeros((size, size, 3), dtype=np.uint8)
        return len(self.backbone.processor.prepare([blank] * len(self.config.cameras), instruction)["input_ids"])

    def freeze(self, groups: Sequence[Group]) -> None:
        """Leave exactly the parameters of these groups without gradient."""
        for group, parameters in self.backbone.groups().items():
            for parameter in parameters:
                parameter.requires_grad_(group not in groups)

    def parameters_by_group(self) -> list[ParameterCount]:
        """Accounting: the backbone's groups (reused) and what the adapter adds (new), in single parameters."""
        counts = [
            ParameterCount(
                group=group,
                total=sum(p.numel() for p in parameters),
                trainable=sum(p.numel() for p in parameters if p.requires_grad),
                new=0,
            )
            for group, parameters in self.backbone.groups().items()
        ]
        adapter = [p for name, p in self.named_parameters() if not name.startswith("backbone.")]
        new = sum(p.numel() for p in adapter)
        trainable = sum(p.numel() for p in adapter if p.requires_grad)
        return [*counts, ParameterCount(group="query and head", total=new, trainable=trainable, new=new)]

    def save(self, folder: Path) -> str:
        """Write the policy folder (weights last, atomically) and return its digest."""
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self.backbone.model_config.save_pretrained(folder)
            self.backbone.processor.tokenizer.save_pretrained(folder)
            state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
            records.write_atomic(folder / _WEIGHTS, save(state))
        except OSError as error:
            raise records.disk_error(folder, error) from error
        weights = hashlib.sha256((folder / _WEIGHTS).read_bytes()).hexdigest()
        meta = {"format": 1, "config": configs.to_dict(self.config), "facts": self.facts.to_dict(), "weights": weights}
        meta["digest"] = self.digest = configs.digest(meta)
        records.write_atomic(folder / _META, json.dumps(meta, indent=1) + "\n")
        return self.digest

    @classmethod
    def load(cls, folder: str | Path) -> "Policy":
        """A policy from a folder or a Hugging Face id, ready to act (eval mode, float32, CPU)."""
        path = _policy_folder(str(folder))
        meta = json.loads((path / _META).read_text())
        config = configs.validate(PolicyConfig, meta["config"], source=str(path / _META))
        policy = cls(config, base.load_saved(config.backbone, path, config.queries), Facts.from_dict(meta["facts"]))
        weights = hashlib.sha256((path / _WEIGHTS).read_bytes()).hexdigest()
        if weights != meta["weights"]:
            raise refuse(
                f"{path / _WEIGHTS} is not the file that {_META} describes (sha256 {weights[:12]}...)",
                possible=f"sha256 {meta['weights'][:12]}...",
                todo="Copy the whole folder again; a policy is never loaded from mixed files.",
            )
        policy.load_state_dict(load_file(path / _WEIGHTS))
        policy.digest = meta["digest"]
        return policy.eval()

    @property
    def action_spec(self) -> ActionSpec:
        return self.facts.action_spec

    @property
    def chunk(self) -> int:
        return self.config.chunk

    @property
    def cameras(self) -> tuple[str, ...]:
        return self.config.cameras

    @property
    def image_size(self) -> int:
        return self.config.backbone.image_size

    @property
    def state_names(self) -> tuple[str, ...]:
        """Proprioception that the policy reads; empty when it reads none."""
        return self.facts.state_names if self.config.proprioception else ()


def _policy_folder(name: str) -> Path:
    folder = Path(name)
    if (folder / _META).is_file():
        return folder
    if folder.exists() or folder.parent.is_dir() or name.count("/") != 1:
        found = sorted(str(p.parent) for p in folder.glob(f"*/{_META}")) if folder.is_dir() else []
        raise refuse(
            f"{name!r} is not a policy folder: it has no {_META}",
            given=name,
            possible=found or "a folder written by vlm4vla train, or a Hugging Face id",
            todo="Give the 'policy' folder of a finished training run.",
        )
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]))
