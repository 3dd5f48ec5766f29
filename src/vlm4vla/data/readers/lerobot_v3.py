"""Reads LeRobot v3.0 data sets: pictures inside the tables, or in mp4 files, any number of cameras.

What LeRobot does not record, the meaning of the action numbers, comes from the section ``vlm4vla`` of info.json (data
sets of our writer) or from an action spec that the caller gives; without either the data set is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vlm4vla.data import columns
from vlm4vla.data import lerobot_layout as layout
from vlm4vla.data.action_spec import load_spec
from vlm4vla.data.base import Frames, RawEpisode, check_episode
from vlm4vla.data.pictures import EncodedFrames
from vlm4vla.data.video import VideoFrames
from vlm4vla.types import ActionSpec, CameraSpec, refuse

_WHAT_TO_DO = "Give the folder of a LeRobot v3.0 data set; older ones are converted by LeRobot's own conversion script."


class Reader:
    """One data set in ``root``. ``action_spec``: one, or a YAML/JSON file of one (see ``data.action_spec``)."""

    def __init__(self, root: Path, action_spec: ActionSpec | Path | None = None) -> None:
        self.root = Path(root)
        self._given = action_spec
        self._info = _read_info(self.root)
        self._gripper: tuple[float, float] | None = None
        section = self._info.get(layout.SECTION)
        if section is not None and section["version"] != layout.SECTION_VERSION:
            raise refuse(
                f"{self.root} was written with version {section['version']} of our section of info.json",
                possible=f"version {layout.SECTION_VERSION}",
                todo="Read it with the vlm4vla that wrote it, or record it anew.",
            )
        if isinstance(action_spec, ActionSpec):
            self.action_spec = action_spec
        elif action_spec is not None:
            self.action_spec, self._gripper = load_spec(Path(action_spec))
        elif section is not None:
            self.action_spec = ActionSpec.from_dict(section["action_spec"])
        else:
            raise refuse(
                f"{self.root} does not say what its action numbers mean",
                possible="a data set of our writer, or an action spec beside it",
                todo="Give an action spec: a YAML file with units, frames, limits, rotation and control rate.",
            )
        self._own = section["episodes"] if section is not None else None
        self._keys, self.cameras = self._find_cameras()
        self.state_names = self._find_vectors()
        self._tasks = _read_tasks(self.root / layout.TASKS)
        self._episodes = _read_episodes(self.root)
        self._first = _first_rows(self._episodes)
        self._tables: dict[Path, pq.ParquetFile] = {}

    def __reduce__(self) -> tuple[type["Reader"], tuple[Path, ActionSpec | Path | None]]:
        return type(self), (self.root, self._given)  # open files do not travel to other processes

    def __len__(self) -> int:
        return len(self._episodes)

    def episode(self, index: int) -> RawEpisode:
        """Episode ``index``; its pictures are decoded when they are looked at."""
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        row = self._episodes[index]
        table = self._rows(row)
        texts = {self._tasks[int(t)] for t in table.column("task_index").to_pylist()}
        if len(texts) > 1:
            raise refuse(
                f"Episode {index} of {self.root} changes its instruction on the way: {', '.join(sorted(texts))}",
                possible="one instruction per episode",
                todo="Split the episode where the instruction changes.",
            )
        instruction = texts.pop()
        states = _float32(table, layout.STATE) if self.state_names else None
        own = self._own[index] if self._own is not None else None
        episode = RawEpisode(
            instruction=instruction,
            images={name: self._frames(key, row, table) for name, key in self._keys.items()},
            actions=self._actions(table),
            states=states,
            task=own["task"] if own is not None else instruction,
            source=own["source"] if own is not None else index,
            info=own["info"] if own is not None else {},
        )
        check_episode(episode, self.action_spec, self.cameras, self.state_names)
        return episode

    def digest(self) -> str:
        """SHA-256 over the names and contents of all files (read at disk speed), and over a given action spec."""
        whole = hashlib.sha256(json.dumps([self.action_spec.to_dict(), self._gripper], sort_keys=True).encode())
        for folder in ("data", "meta", "videos"):
            for file in sorted((self.root / folder).rglob("*")):
                if file.is_file():
                    with file.open("rb") as f:
                        content = hashlib.file_digest(f, "sha256").hexdigest()
                    whole.update(f"{file.relative_to(self.root).as_posix()} {content}\n".encode())
        return whole.hexdigest()

    def _find_cameras(self) -> tuple[dict[str, str], tuple[CameraSpec, ...]]:
        """Camera name -> feature key, and the specs."""
        keys: dict[str, str] = {}
        specs: list[CameraSpec] = []
        for key, feature in self._info["features"].items():
            if feature["dtype"] not in ("image", "video"):
                continue
            name = key.removeprefix(layout.IMAGES).removeprefix("observation.")
            if name in keys:
                raise refuse(f"Two cameras of the data set are called {name!r}", possible="one", todo="Rename one.")
            shape, names = feature["shape"], feature["names"]
            channels_first = names[0].startswith("c") if names else shape[0] == 3 != shape[2]
            height, width = shape[1:] if channels_first else shape[:2]
            keys[name] = key
            specs.append(CameraSpec(name, height, width))
        return keys, tuple(specs)

    def _find_vectors(self) -> tuple[str, ...]:
        """Check the action feature against the spec; the names of the state numbers (none without a state)."""
        features = self._info["features"]
        if layout.ACTION not in features:
            raise refuse(f"{self.root} has no feature 'action'", possible=sorted(features), todo=_WHAT_TO_DO)
        size = features[layout.ACTION]["shape"][0]
        if size != self.action_spec.size:
            raise refuse(
                f"The actions of {self.root} have {size} numbers, the action spec {self.action_spec.size}",
                possible=f"{size} dimensions: {', '.join(_names(features[layout.ACTION]))}",
                todo="Give an action spec with one dimension per number.",
            )
        return _names(features[layout.STATE]) if layout.STATE in features else ()

    def _rows(self, row: Mapping[str, Any]) -> pa.Table:
        """The rows of one episode; only the row groups that hold them are read."""
        path = self._inside(self._info["data_path"], row["data/chunk_index"], row["data/file_index"])
        if path not in self._tables:
            self._tables = {path: pq.ParquetFile(path)}  # episodes are asked for in order: one open file is enough
        file = self._tables[path]
        start, stop, groups, offset = self._local(row, file)
        table = file.read_row_groups(groups).slice(start - offset, stop - start)
        if set(table.column("episode_index").to_pylist()) != {row["episode_index"]} or len(table) != row["length"]:
            raise refuse(
                f"Episode {row['episode_index']} is not where meta/episodes says it is in {path}",
                possible="rows that agree with the index",
                todo="Restore the data set from where it came from.",
            )
        return table

    def _local(self, row: Mapping[str, Any], file: pq.ParquetFile) -> tuple[int, int, list[int], int]:
        """Start and stop row within the file, the row groups that cover them, and the first row of those."""
        first = self._first[_file(row)]
        start, stop = row["dataset_from_index"] - first, row["dataset_to_index"] - first
        groups: list[int] = []
        offset = at = 0
        for g in range(file.num_row_groups):
            size = file.metadata.row_group(g).num_rows
            if at < stop and at + size > start:
                offset = offset if groups else at
                groups.append(g)
            at += size
        return start, stop, groups, offset

    def _actions(self, table: pa.Table) -> npt.NDArray[np.float32]:
        actions = _float32(table, layout.ACTION)
        for g in self.action_spec.gripper:
            if self._gripper is not None:
                opened, closed = self._gripper
                actions[:, g] = 2 * (actions[:, g] - closed) / (opened - closed) - 1
            if np.abs(actions[:, g]).max() > 1 + 1e-5:
                raise refuse(
                    f"A gripper action of {self.root} is {actions[np.abs(actions[:, g]).argmax(), g]}",
                    possible="-1 (closed) to +1 (open)",
                    todo="State 'gripper: {open: ..., closed: ...}', its own numbers, in the action spec file.",
                )
        return actions

    def _frames(self, key: str, row: Mapping[str, Any], table: pa.Table) -> Frames:
        if self._info["features"][key]["dtype"] == "image":
            cells = table.column(key).combine_chunks()
            return EncodedFrames([cell["bytes"] for cell in cells.to_pylist()])
        where = f"videos/{key}/"
        path = self._inside(
            self._info["video_path"], row[where + "chunk_index"], row[where + "file_index"], video_key=key
        )
        times = row[where + "from_timestamp"] + table.column("timestamp").to_numpy().astype(np.float64)
        return VideoFrames(path, times, float(self._info["fps"]))

    def _inside(self, template: str, chunk: int, file: int, **more: str) -> Path:
        path = (self.root / template.format(chunk_index=int(chunk), file_index=int(file), **more)).resolve()
        if not path.is_relative_to(self.root.resolve()) or not path.is_file():
            raise refuse(f"{self.root} has no file {path}", todo="Fetch the whole data set, videos included.")
        return path


def _read_info(root: Path) -> dict[str, Any]:
    file = root / layout.INFO
    if not file.is_file():
        raise refuse(f"{root} has no {layout.INFO}", possible="a finished LeRobot v3.0 data set", todo=_WHAT_TO_DO)
    try:
        info: dict[str, Any] = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise refuse(
            f"{file} is not valid JSON: {error}", possible="a LeRobot v3.0 info.json", todo=_WHAT_TO_DO
        ) from None
    if "codebase_version" not in info or info["codebase_version"] != layout.VERSION:
        found = info.get("codebase_version", "no version")
        raise refuse(f"{root} is a LeRobot data set of {found}", possible=layout.VERSION, todo=_WHAT_TO_DO)
    return info


def _read_tasks(file: Path) -> dict[int, str]:
    """Index -> instruction. The instruction is pandas' unnamed index, or a column of its own in later versions."""
    table = pq.read_table(file)
    text = next(n for n in table.column_names if pa.types.is_string(table.schema.field(n).type) or _large(table, n))
    return dict(zip(table.column("task_index").to_pylist(), table.column(text).to_pylist(), strict=True))


def _large(table: pa.Table, name: str) -> bool:
    return bool(pa.types.is_large_string(table.schema.field(name).type))


def _read_episodes(root: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for file in sorted((root / "meta" / "episodes").glob("*/*.parquet")):
        parquet = pq.ParquetFile(file)
        # Statistics are wide and not needed; nested columns are listed by their first name.
        wanted = [n for n in parquet.schema_arrow.names if not n.startswith("stats/")]
        rows += parquet.read(columns=wanted).to_pylist()
    rows.sort(key=lambda row: int(row["episode_index"]))
    return rows


def _file(row: Mapping[str, Any]) -> tuple[int, int]:
    return int(row["data/chunk_index"]), int(row["data/file_index"])


def _first_rows(episodes: list[dict[str, Any]]) -> dict[tuple[int, int], int]:
    """(chunk, file) -> index in the data set of the file's first row."""
    first: dict[tuple[int, int], int] = {}
    for row in sorted(episodes, key=lambda row: int(row["dataset_from_index"])):
        first.setdefault(_file(row), int(row["dataset_from_index"]))
    return first


def _names(feature: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of a vector's numbers: a list, a list in a list, a mapping of lists, or none at all."""
    names = feature["names"]
    if isinstance(names, Mapping):
        names = [n for part in names.values() for n in part]
    if names and isinstance(names[0], list):
        names = [n for part in names for n in part]
    size = feature["shape"][0]
    return tuple(str(n) for n in names) if names and len(names) == size else tuple(str(i) for i in range(size))


def _float32(table: pa.Table, name: str) -> npt.NDArray[np.float32]:
    return np.array(columns.to_numpy(table.column(name)), dtype=np.float32)  # a writable copy
