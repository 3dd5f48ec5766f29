"""The frame store: every frame of a data set, resized once, opened in milliseconds, fetched at random in microseconds.

A folder of Arrow stream files (one per group of episodes), ``episodes.jsonl`` and ``manifest.json``, which comes last:
a store without a manifest is not finished. Columns: episode, frame, one encoded picture per camera (``image.NAME``),
action (A) float32, and state (S) float32 where there is one. ``data/build.py`` writes it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt

from vlm4vla.data import columns
from vlm4vla.data.pictures import Encoding, decode
from vlm4vla.data.statistics import Statistics
from vlm4vla.types import ActionSpec, CameraSpec, Image, refuse

VERSION = 1
MANIFEST = "manifest.json"
EPISODES = "episodes.jsonl"
IMAGE = "image."
_WHAT_TO_DO = "Build the store with 'vlm4vla data build', or give the folder of a built one."


@dataclass(frozen=True)
class EpisodeEntry:
    """One episode: frames ``start`` .. ``start + length - 1`` of the store.

    ``source``: index in the data set. ``info``: what the reader noted (see :class:`vlm4vla.data.base.RawEpisode`).
    """

    episode: int
    start: int
    length: int
    instruction: str
    task: str
    source: int
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stop(self) -> int:
        return self.start + self.length


class Store:
    """An open store. Actions and states are in memory (N, A) and (N, S); pictures are mapped from disk.

    ``digest`` names the content (pictures, actions, texts, specs) and does not depend on how or in which order the
    store was built. Instances can be pickled: another process opens the same folder.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.digest: str = manifest["digest"]
        self.action_spec = ActionSpec.from_dict(manifest["action_spec"])
        self.cameras = tuple(CameraSpec(**c) for c in manifest["cameras"])
        self.state_names: tuple[str, ...] = tuple(manifest["state_names"])
        self.encoding: Encoding = manifest["encoding"]
        self.provenance: Mapping[str, Any] = manifest["provenance"]
        lines = (path / EPISODES).read_text().splitlines()
        self.episodes = tuple(EpisodeEntry(**json.loads(line)) for line in lines)
        table = open_groups(path / g["file"] for g in manifest["groups"])
        self.actions: npt.NDArray[np.float32] = columns.to_numpy(table.data.column("action"))
        self.states: npt.NDArray[np.float32] | None = None
        if self.state_names:
            self.states = columns.to_numpy(table.data.column("state"))
        self._pictures = {c.name: table.select_columns([IMAGE + c.name]) for c in self.cameras}
        self._size = {c.name: (c.height, c.width) for c in self.cameras}
        self._starts = np.array([e.start for e in self.episodes])

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open a finished store; refuses an unfinished, foreign or cut one. Sizes are checked, see :meth:`verify`."""
        manifest = read_manifest(path)
        if manifest is None:
            raise refuse(f"{path} is not a finished store", possible=f"a folder with a {MANIFEST}", todo=_WHAT_TO_DO)
        if manifest["version"] != VERSION:
            raise refuse(
                f"{path} is a store of version {manifest['version']}", possible=f"version {VERSION}", todo=_WHAT_TO_DO
            )
        for entry in manifest["groups"]:
            file = path / entry["file"]
            if not file.is_file() or file.stat().st_size != entry["bytes"]:
                raise refuse(f"{file} is missing or was cut", possible=f"{entry['bytes']} bytes", todo=_WHAT_TO_DO)
        return cls(path, manifest)

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Store.open, (self.path,)

    def __len__(self) -> int:
        """Frames of all episodes."""
        return len(self.actions)

    def image(self, frame: int, camera: str) -> Image:
        """The (H, W, 3) uint8 picture of a frame; it may be read-only."""
        height, width = self._size[camera]
        return decode(self._pictures[camera][frame][IMAGE + camera], self.encoding, height, width)

    def episode_of(self, frame: int) -> EpisodeEntry:
        """The episode that holds a frame."""
        return self.episodes[int(np.searchsorted(self._starts, frame, side="right")) - 1]

    def statistics(self) -> Statistics:
        """Of the actions, per dimension, over all frames."""
        return Statistics.from_dict(self.manifest["statistics"])

    def verify(self) -> None:
        """Read every file and compare its SHA-256 with the manifest; refuses a store that differs."""
        for entry in (*self.manifest["groups"], self.manifest["index"]):
            if sha256(self.path / entry["file"]) != entry["sha256"]:
                raise refuse(f"{self.path / entry['file']} is not what was built (SHA-256 differs)", todo=_WHAT_TO_DO)


def open_groups(files: Iterable[Path]) -> datasets.Dataset:
    """Arrow stream files as one memory-mapped table."""
    parts = [datasets.Dataset.from_file(str(f)) for f in files]
    return datasets.concatenate_datasets(parts) if len(parts) > 1 else parts[0]


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a finished store; None without one."""
    file = path / MANIFEST
    manifest: dict[str, Any] | None = json.loads(file.read_text()) if file.is_file() else None
    return manifest


def sha256(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
