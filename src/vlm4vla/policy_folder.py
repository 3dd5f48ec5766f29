"""A policy as files: ``config.json``, tokenizer, weights, ``README.md``, and ``policy.json``, which names their hashes.

The folder is what ``Policy.save_pretrained`` writes, what a Hugging Face repository of a policy holds, and what
``Policy.from_pretrained`` reads. Nothing in it is executed or unpickled.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from vlm4vla import config as configs
from vlm4vla import records
from vlm4vla.records import ParameterCount
from vlm4vla.schemas import PolicyConfig
from vlm4vla.types import ActionSpec, refuse

WEIGHTS, META, CARD = "model.safetensors", "policy.json", "README.md"
_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "*.md"]


@dataclass(frozen=True)
class Saved:
    """What a policy folder holds, checked against the hashes of its files."""

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
    """Write the folder beside its place and move it there when it is whole; returns the policy's digest.

    A policy that was there is replaced; any other content is refused.
    """
    if folder.is_dir() and not (folder / META).is_file() and any(folder.iterdir()):
        raise refuse(
            f"{folder} holds something else than a policy",
            possible="a new or empty folder, or the folder of a policy, which is replaced",
            todo="Give another folder.",
        )
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        partial.mkdir(parents=True)
        model_config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, partial / WEIGHTS, {"format": "pt"})
        meta: dict[str, Any] = {
            "format": 1,
            "config": configs.to_dict(config),
            "facts": dict(facts),
            "files": {file.name: _hash(file) for file in sorted(partial.iterdir())},
        }
        meta["digest"] = _digest(meta)
        (partial / CARD).write_text(card)
        records.write_atomic(partial / META, json.dumps(meta, indent=1, allow_nan=False) + "\n")
        if folder.is_dir():
            earlier = folder.with_name(f".{folder.name}.{os.getpid()}.old")
            folder.rename(earlier)
            partial.rename(folder)
            shutil.rmtree(earlier)
        else:
            partial.rename(folder)
    except (OSError, SafetensorError) as error:
        raise records.disk_error(folder, _os_error(error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return str(meta["digest"])


def write_vlm(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a base model and its tokenizer as the library does, whole or not at all; a folder in use is refused."""
    if folder.is_dir() and any(folder.iterdir()):
        raise refuse(f"{folder} is not empty", possible="a new or empty folder", todo="Give another folder.")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        partial.mkdir(parents=True)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.rename(folder)
    except (OSError, SafetensorError) as error:
        raise records.disk_error(folder, _os_error(error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read(name: str, revision: str | None = None) -> Saved:
    """A policy folder or a Hugging Face id; refuses what is no policy, and files that are not those it describes."""
    folder = _find(name, revision)
    meta = json.loads((folder / META).read_text())
    config = configs.validate(PolicyConfig, meta["config"], source=str(folder / META))
    for file, expected in meta["files"].items():
        found = _hash(folder / file) if (folder / file).is_file() else "missing"
        if found != expected:
            raise refuse(
                f"{folder / file} is not the file that {META} describes (sha256 {found[:12]}...)",
                possible=f"sha256 {expected[:12]}...",
                todo="Copy the whole folder again; a policy is never loaded from mixed files.",
            )
    if meta["digest"] != _digest(meta):
        raise refuse(
            f"{folder / META} was changed after it was written (its content does not give its digest)",
            possible=f"the file as it was written, digest {meta['digest']}",
            todo="Copy the whole folder again; to act with other settings, train or save a policy with them.",
        )
    return Saved(folder, config, meta["facts"], load_file(folder / WEIGHTS), meta["digest"])


def digest_of(folder: Path) -> str:
    """The digest that a policy folder was written with; its files are not read."""
    return str(json.loads((folder / META).read_text())["digest"])


def push(folder: Path, repo_id: str, private: bool, revision: str | None = None) -> str:
    """Upload a policy folder to a Hugging Face model repository (made where it is absent); returns the commit's URL.

    A repository that exists keeps its visibility; where ``private`` is asked for and it is public, nothing is sent.
    """
    from huggingface_hub import HfApi

    _find(str(folder), None)
    api = HfApi()
    whole_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if private and not api.model_info(whole_id).private:
        raise refuse(
            f"{whole_id} exists and is public",
            possible="a new repository, a private one, or private=False",
            todo="Change the repository's visibility, or push to another one.",
        )
    if revision is not None:
        api.create_branch(whole_id, branch=revision, exist_ok=True)
    done = api.upload_folder(
        folder_path=folder,
        repo_id=whole_id,
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
    counts = "\n".join(f"| {p.group} | {p.total:,} | {p.new:,} |" for p in parameters)
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
        f"at {size} x {size}{_crop(facts)}. Pictures per camera: {config.window}.",
        f"Proprioception: {'read' if config.proprioception else 'not read'}.",
        f'Prompt: "{backbone.prompt}" inside the VLM\'s own template.',
        "",
        "Trained on:",
        "",
        provenance or "- nothing: the adapter is as it was initialised",
        "",
        f"| action | kind | unit | frame | limits |\n|---|---|---|---|---|\n{dimensions}",
        "",
        f"| parameters | total | new |\n|---|---|---|\n{counts}",
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


def _crop(facts: Mapping[str, Any]) -> str:
    area = facts["center_crop"]
    return "" if area is None else f", after a crop to the middle {area:.0%} of their area, which it does itself"


def _find(name: str, revision: str | None) -> Path:
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
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        commit = Path(hf_hub_download(name, META, revision=revision)).parent.name  # before gigabytes of something else
        return Path(snapshot_download(name, revision=commit, allow_patterns=_PATTERNS))
    except LocalEntryNotFoundError as error:
        raise refuse(
            f"{name!r} is not in the cache, and the hub cannot be reached",
            possible="a folder, or an id that this machine can reach",
            todo="Check the network, or give a folder.",
        ) from error
    except EntryNotFoundError as error:
        raise refuse(
            f"{name!r} is a repository without {META}: no policy",
            possible="a repository that push_to_hub made",
            todo="A VLM becomes a policy by training: set it as policy.backbone.checkpoint of `vlm4vla train`.",
        ) from error
    except HfHubHTTPError as error:
        raise refuse(
            f"{name!r} cannot be had from the hub: {str(error).splitlines()[0]}",
            possible="the id of a policy's repository, and a token where it is private",
            todo="Check the spelling, and `hf auth login` for a private repository.",
        ) from error


def _digest(meta: Mapping[str, Any]) -> str:
    """Of settings, facts and files; not of ``tokenizer_config.json``, where the library notes how it was read."""
    files = {name: digest for name, digest in meta["files"].items() if name != "tokenizer_config.json"}
    return configs.digest({"format": meta["format"], "config": meta["config"], "facts": meta["facts"], "files": files})


def _os_error(error: Exception) -> OSError:
    """The operating system's error, which safetensors tells as text alone."""
    if isinstance(error, OSError):
        return error
    found = re.search(r"os error (\d+)", str(error))
    return OSError(int(found[1]) if found else errno.EIO, str(error))


def _hash(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
