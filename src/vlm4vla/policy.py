"""The policy: normaliser + backbone + head. Its files are ``policy_folder.py``'s.

``action = head(VLM([image ... text ... query]))`` (the paper's eq. 1). ``prepare`` serves training and acting; what a
later room needs (action spec, statistics, state names, provenance) travels inside the policy folder.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlm4vla import policy_folder, registry
from vlm4vla.backbones import loading
from vlm4vla.backbones.base import Backbone
from vlm4vla.backbones.processor import Inputs, Processor
from vlm4vla.data.augment import center_crop
from vlm4vla.data.batch import Sample
from vlm4vla.data.normalize import Normalizer
from vlm4vla.heads.base import ActionHead
from vlm4vla.records import ParameterCount
from vlm4vla.schemas import Freezable, PolicyConfig
from vlm4vla.types import ActionSpec, Image, Observation, Vector, refuse, view_names

_BACKBONE = "backbone.model."
"""Prefix of the VLM's own weights among the policy's."""
_OURS = ("actions", "mask", "noise", "state")
"""What a batch holds beside the VLM's inputs."""


@dataclass(frozen=True)
class Facts:
    """What a policy must know about its data: it is fixed at training and travels in the folder."""

    action_spec: ActionSpec
    normalizer: Normalizer
    state_names: tuple[str, ...]
    state_mean: tuple[float, ...]
    state_std: tuple[float, ...]
    provenance: dict[str, Any]
    center_crop: float | None = None
    """Area of the middle window that it acts on: that of the random crops of its training (``AugmentConfig.crop``)."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "action_spec": self.action_spec.to_dict(),
            "normalizer": self.normalizer.to_dict(),
            "state_names": list(self.state_names),
            "state_mean": list(self.state_mean),
            "state_std": list(self.state_std),
            "provenance": self.provenance,
            "center_crop": self.center_crop,
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
            center_crop=data["center_crop"],
        )


class Preparer:
    """The light half of a policy, without weights: samples and observations become batches. Picklable."""

    def __init__(self, config: PolicyConfig, facts: Facts, processor: Processor) -> None:
        self.config, self.facts, self.processor = config, facts, processor

    def prepare(self, images: Mapping[str, Image], instruction: str, state: Vector | None) -> Inputs:
        """Model inputs of pictures as they are; they are taken by name, in the policy's order."""
        wanted = view_names(self.config.cameras, self.config.window)
        missing = [name for name in wanted if name not in images]
        if missing:
            raise refuse(
                f"Camera {missing[0]!r} is missing from the observation",
                given=missing[0],
                possible=sorted(images),
                todo="Send the pictures under the names that the policy was trained with (NAME@-1: a frame earlier).",
            )
        inputs = self.processor.prepare([images[name] for name in wanted], instruction)
        if self.config.proprioception:
            inputs["state"] = self._state(state)
        return inputs

    def observe(self, observation: Observation) -> Inputs:
        """Model inputs of an observation to act on: of its middle window, where training cropped at random.

        Training crops pictures of the view's size, so these are brought to it first: both then see the same scale.
        """
        images, area = observation.images, self.facts.center_crop
        if area is not None:
            images = {name: center_crop(self.processor.to_view(image), area) for name, image in images.items()}
        return self.prepare(images, observation.instruction, observation.state)

    def example(self, sample: Sample) -> Inputs:
        """A training sample: the same ``prepare``, plus normalised actions (H, A), the mask (H,), the noise's seed."""
        example = self.prepare(sample.images, sample.instruction, sample.state)
        example["actions"] = self.facts.normalizer.normalize(sample.actions)
        example["mask"] = sample.mask
        example["noise"] = np.array(sample.noise, np.int64)
        return example

    def collate(self, examples: Sequence[Inputs], tokens: int | None = None) -> dict[str, Tensor]:
        """A batch of tensors; those of ``_OURS`` are stacked, the rest is the backbone's."""
        batch = self.processor.collate(examples, tokens)
        for key in _OURS:
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
    """See the module docstring. Build with :meth:`create` (from a VLM) or :meth:`from_pretrained` (a policy)."""

    def __init__(self, config: PolicyConfig, backbone: Backbone, facts: Facts) -> None:
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
        backbone = loading.load(config.backbone, config.queries, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            return cls(config, backbone, facts)

    def readout(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "B Q D"]:
        inputs = {k: v for k, v in batch.items() if k not in _OURS}
        readout_BQD = self.backbone.readout(inputs, self.query_QD).to(self.query_QD.dtype)
        if self.config.proprioception:
            readout_BQD = readout_BQD + self.state_projection(batch["state"])[:, None]
        return readout_BQD

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss (a scalar: mean over the valid chunk steps) and its parts; see :meth:`weight`."""
        out = self.head.loss(self.readout(batch), batch["actions"], batch["mask"], batch["noise"])
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
        """Action chunks in the units of the action spec, clipped to its limits. ``tokens`` fixes the text length.

        A head that draws takes the seed of each row's noise from its observation.
        """
        examples = [self.preparer.observe(observation) for observation in observations]
        device = self.query_QD.device
        batch = {k: v.to(device) for k, v in self.preparer.collate(examples, tokens).items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            chunk_BHA = self.head.sample(self.readout(batch), [observation.noise for observation in observations])
        return self.facts.normalizer.inverse(chunk_BHA.float().cpu().numpy())

    def count_tokens(self, instruction: str) -> int:
        """Text positions of a prompt with this instruction: image tokens and queries included."""
        size = self.config.backbone.view
        blank = np.zeros((size, size, 3), dtype=np.uint8)
        return len(self.backbone.processor.prepare([blank] * len(self.cameras), instruction)["input_ids"])

    def freeze(self, groups: Sequence[Freezable]) -> None:
        """Leave exactly the VLM's parameters of these groups without gradient."""
        self.backbone.freeze(groups)

    def parameters_by_group(self) -> list[ParameterCount]:
        """Accounting: the backbone's groups (reused) and what the adapter adds (new), in single parameters."""
        unused = {id(p) for p in self.backbone.unused()}
        counts = [
            ParameterCount(
                group=group,
                total=sum(p.numel() for p in parameters),
                trainable=sum(p.numel() for p in parameters if p.requires_grad),
                new=0,
                unused=sum(p.numel() for p in parameters if id(p) in unused),
            )
            for group, parameters in self.backbone.groups().items()
        ]
        adapter = [p for name, p in self.named_parameters() if not name.startswith("backbone.")]
        new = sum(p.numel() for p in adapter)
        trainable = sum(p.numel() for p in adapter if p.requires_grad)
        return [*counts, ParameterCount(group="query and head", total=new, trainable=trainable, new=new)]

    def save_pretrained(self, folder: str | Path) -> str:
        """Write the policy folder, model card included, and return its digest (a hash of settings and weights)."""
        facts = self.facts.to_dict()
        card = policy_folder.card(self.config, facts, self.facts.action_spec, self.parameters_by_group())
        model_config, tokenizer = self.backbone.model_config, self.backbone.processor.tokenizer
        self.digest = policy_folder.write(
            Path(folder), self.config, facts, self.state_dict(), model_config, tokenizer, card
        )
        return self.digest

    def save_vlm(self, folder: str | Path) -> None:
        """Write the VLM alone, as transformers saves a base model: what ``policy.backbone.checkpoint`` can name.

        The query and the head stay behind. Errors: a folder that holds anything is refused.
        """
        policy_folder.write_vlm(Path(folder), self.backbone.model, self.backbone.processor.tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        revision: str | None = None,
        attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None,
        dtype: Literal["float32", "bfloat16"] | None = None,
    ) -> "Policy":
        """A policy from a folder or a Hugging Face id, ready to act (eval mode, on the CPU).

        ``attention`` and ``dtype`` replace those of its training, for a machine that has no such kernel or memory;
        actions then differ by rounding.
        """
        saved = policy_folder.read(str(name), revision)
        own = {k: v for k, v in saved.weights.items() if not k.startswith(_BACKBONE)}
        vlm = {k.removeprefix(_BACKBONE): v for k, v in saved.weights.items() if k.startswith(_BACKBONE)}
        chosen = {key: value for key, value in (("attention", attention), ("dtype", dtype)) if value is not None}
        config = saved.config.model_copy(update={"backbone": saved.config.backbone.model_copy(update=chosen)})
        backbone = loading.load_saved(config.backbone, saved.folder, config.queries, vlm)
        policy = cls(config, backbone, Facts.from_dict(saved.facts))
        missing, unexpected = policy.load_state_dict(own, strict=False)
        absent = [key for key in missing if not key.startswith(_BACKBONE)]
        assert not absent and not unexpected, f"adapter weights: {absent} are missing, {unexpected} are unknown"
        policy.digest = saved.digest
        return policy.eval()

    def push_to_hub(self, repo_id: str, private: bool = False, revision: str | None = None) -> str:
        """Upload the policy folder to a Hugging Face repository; returns the commit's URL."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return policy_folder.push(Path(folder), repo_id, private, revision)

    @property
    def action_spec(self) -> ActionSpec:
        return self.facts.action_spec

    @property
    def noisy(self) -> bool:
        """Whether its answer depends on the observation's ``noise``."""
        return self.head.noisy

    @property
    def chunk(self) -> int:
        return self.config.chunk

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the pictures that it is to be sent; with a window, those of earlier frames among them."""
        return view_names(self.config.cameras, self.config.window)

    @property
    def image_size(self) -> int:
        """Side of the pictures that it is to be sent, in pixels."""
        return self.config.backbone.view

    @property
    def about(self) -> dict[str, Any]:
        """What the record of an evaluation says of the policy: how it acts, and which step of its training it is."""
        normalizer, provenance = self.facts.normalizer, self.facts.provenance
        return {
            "center_crop": self.facts.center_crop,
            "normalizer": {"kind": normalizer.kind, "clip": normalizer.clip},
            "chunk": self.config.chunk,
            "checkpoint_step": provenance.get("steps"),
        }

    @property
    def state_names(self) -> tuple[str, ...]:
        """Proprioception that the policy reads; empty when it reads none."""
        return self.facts.state_names if self.config.proprioception else ()
