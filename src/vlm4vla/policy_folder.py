"""A policy as files: ``config.json``, tokenizer, ``policy.json``, ``README.md`` and the weights, whose hash it names.

The folder is what ``Policy.save_pretrained`` writes, what a Hugging Face repository of a policy holds, and what
``Policy.from_pretrained`` reads. Nothing in it is executed or unpickled.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from vlm4vla import config as configs
from vlm4vla import records
from vlm4vla.records import ParameterCount
from vlm4vla.schemas import PolicyConfig
from vlm4vla.types import ActionSpec, refuse

WEIGHTS, META, CARD = "model.safetensors", "policy.json", "README.md"
_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "*.md"]


@dataclass(frozen=True)
class Saved:
    """What a policy folder holds, checked against the hash of its weights."""

    folder: Path
    config: PolicyConfig
    facts: dict[str, Any]
    weights: dict[str, Tensor]
    digest: str


def write(
    folder: Path,
    config: PolicyConfig,
    facts: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    model_config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    card: str,
) -> str:
    """Write the folder, each file atomically and ``policy.json`` last; returns the policy's digest."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{WEIGHTS}.{os.getpid()}.part"
    try:
        model_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, partial, {"format": "pt"})
        partial.replace(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise records.disk_error(folder, _os_error(error)) from error
    records.write_atomic(folder / CARD, card)
    meta: dict[str, Any] = {
        "format": 1,
        "config": configs.to_dict(config),
        "facts": dict(facts),
        "weights": _hash(folder / WEIGHTS),
    }
    meta["digest"] = configs.digest(meta)
    records.write_atomic(folder / META, json.dumps(meta, indent=1) + "\n")
    return str(meta["digest"])


def read(name: str) -> Saved:
    """A policy folder or a Hugging Face id; refuses what is no policy, and weights that are not those it describes."""
    folder = _find(name)
    meta = json.loads((folder / META).read_text())
    config = configs.validate(PolicyConfig, meta["config"], source=str(folder / META))
    weights = _hash(folder / WEIGHTS)
    if weights != meta["weights"]:
        raise refuse(
            f"{folder / WEIGHTS} is not the file that {META} describes (sha256 {weights[:12]}...)",
            possible=f"sha256 {meta['weights'][:12]}...",
            todo="Copy the whole folder again; a policy is never loaded from mixed files.",
        )
    return Saved(folder, config, meta["facts"], load_file(folder / WEIGHTS), meta["digest"])


def push(folder: Path, repo_id: str, private: bool, revision: str | None = None) -> str:
    """Upload a policy folder to a Hugging Face model repository (made where it is absent); returns the commit's URL."""
    from huggingface_hub import HfApi

    _find(str(folder))
    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    done = api.upload_folder(
        folder_path=folder,
        repo_id=repo_id,
        revision=revision,
        allow_patterns=_PATTERNS,
        commit_message="vlm4vla policy",
    )
    return str(done.commit_url)


def card(config: PolicyConfig, facts: Mapping[str, Any], spec: ActionSpec, parameters: list[ParameterCount]) -> str:
    """The model card: what was trained on what, what it takes and gives; no success rate, which is not known here."""
    backbone = config.backbone
    named = backbone.checkpoint.count("/") == 1 and not Path(backbone.checkpoint).exists()
    hub = backbone.init == "pretrained" and named
    origin = f"`{backbone.checkpoint}`" + ("" if backbone.init == "pretrained" else " (architecture, random weights)")
    view, size = backbone.view, backbone.image_size
    counts = "\n".join(f"| {p.group} | {p.total:,} | {p.trainable:,} | {p.new:,} |" for p in parameters)
    dimensions = "\n".join(
        f"| {d.name} | {d.kind} | {d.unit} | {d.frame} | {d.low:g} to {d.high:g} |" for d in spec.dimensions
    )
    provenance = "\n".join(f"- {key}: `{value}`" for key, value in facts["provenance"].items())
    lines = [
        "---",
        "library_name: vlm4vla",
        "pipeline_tag: robotics",
        *([f"base_model: {backbone.checkpoint}"] if hub else []),
        "---",
        "",
        "# A vision-language-action policy",
        "",
        f"VLM: {origin}, family `{backbone.family}`. Head: `{config.head.name}`, chunks of {config.chunk} actions at",
        f"{spec.control_hz:g} Hz. Cameras: {', '.join(config.cameras)}, {view} x {view} pixels, which the model sees",
        f"at {size} x {size}. Proprioception: {'read' if config.proprioception else 'not read'}.",
        f'Prompt: "{backbone.prompt}" inside the VLM\'s own template.',
        "",
        "Trained on:",
        "",
        provenance or "- nothing: the adapter is as it was initialised",
        "",
        f"| action | kind | unit | frame | limits |\n|---|---|---|---|---|\n{dimensions}",
        "",
        f"| parameters | total | trainable | new |\n|---|---|---|---|\n{counts}",
        "",
        "This card states no success rate: measure it with `vlm4vla eval`, on starts that were not trained on.",
        "",
        "```python",
        "from vlm4vla.policy import Policy",
        "",
        'policy = Policy.from_pretrained("this folder or repository")',
        "```",
        "",
    ]
    return "\n".join(lines)


def _find(name: str) -> Path:
    folder = Path(name)
    if (folder / META).is_file():
        return folder
    if folder.exists() or folder.parent.is_dir() or name.count("/") != 1:
        found = sorted(str(p.parent) for p in folder.glob(f"*/{META}")) if folder.is_dir() else []
        raise refuse(
            f"{name!r} is not a policy folder: it has no {META}",
            given=name,
            possible=found or "a folder written by vlm4vla train, or a Hugging Face id",
            todo="Give the 'policy' folder of a finished training run.",
        )
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=_PATTERNS))


def _os_error(error: Exception) -> OSError:
    """The operating system's error, which safetensors tells as text alone."""
    if isinstance(error, OSError):
        return error
    found = re.search(r"os error (\d+)", str(error))
    return OSError(int(found[1]) if found else errno.EIO, str(error))


def _hash(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
