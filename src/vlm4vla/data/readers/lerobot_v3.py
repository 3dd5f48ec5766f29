"""Reads LeRobot v3.0 data sets: pictures inside the tables, or in mp4 files, any number of cameras.

What LeRobot does not record, the meaning of the action numbers, comes from the section ``vlm4vla`` of info.json (data
sets of our writer) or from an action spec that the caller gives; without either the data set is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vlm4vla.data.base import Frames, RawEpisode, check_episode
from vlm4vla.data.formats import lerobot_layout as layout
from vlm4vla.data.readers import _lerobot as common
from vlm4vla.data.video import VideoFrames
from vlm4vla.types import ActionSpec, refuse

_WHAT_TO_DO = "Give the folder of a LeRobot v3.0 data set; those of v2.1 have the format lerobot_v21."


class Reader:
    """One data set in ``root``.

    ``action_spec``, or ``spec``: a YAML or JSON file of one (see ``data.action_spec``); data sets of our writer carry
    their own. ``episodes``: such as "1,10" or "0:10". ``cameras``: names with commas (default: all). ``action``,
    ``state``: keys of columns with commas, put side by side (default: ``action``, and ``observation.state`` where
    there is one; "none" for none).
    """

    def __init__(
        self,
        root: Path,
        action_spec: ActionSpec | None = None,
        *,
        spec: Path | None = None,
        episodes: str | None = None,
        cameras: str | None = None,
        action: str = layout.ACTION,
        state: str = layout.STATE,
    ) -> None:
        self.root = Path(root)
        self._given = action_spec
        self._options: dict[str, Any] = {
            "spec": spec,
            "episodes": episodes,
            "cameras": cameras,
            "action": action,
            "state": state,
        }
        self._info = common.read_info(self.root, (layout.VERSION,), _WHAT_TO_DO)
        self._columns = common.Columns(
            self.root, self._info, given=action_spec, file=spec, cameras=cameras, action=action, state=state
        )
        self.action_spec = self._columns.action_spec
        self.cameras = self._columns.cameras
        self.state_names = self._columns.state_names
        section = self._info.get(layout.SECTION)
        self._own = section["episodes"] if section is not None else None
        self._tasks = _read_tasks(self.root / layout.TASKS)
        rows = _read_episodes(self.root)
        self._first = _first_rows(rows)
        chosen = set(common.choose(episodes, (int(row["episode_index"]) for row in rows)))
        self._episodes = [row for row in rows if int(row["episode_index"]) in chosen]
        self._tables: dict[Path, pq.ParquetFile] = {}

    def __reduce__(self) -> tuple[Any, tuple[Path, ActionSpec | None]]:
        # open files do not travel to other processes
        return partial(type(self), **self._options), (self.root, self._given)

    def __len__(self) -> int:
        return len(self._episodes)

    def episode(self, index: int) -> RawEpisode:
        """Episode ``index`` of those chosen; its pictures are decoded when they are looked at."""
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        row = self._episodes[index]
        number = int(row["episode_index"])
        table = self._rows(row)
        instruction = common.instruction(table, self._tasks, number, self.root)
        own = self._own[number] if self._own is not None else None
        episode = RawEpisode(
            instruction=instruction,
            images={name: self._frames(key, row, table) for name, key in self._columns.keys.items()},
            actions=self._columns.actions(table),
            states=self._columns.states(table),
            task=own["task"] if own is not None else instruction,
            source=own["source"] if own is not None else number,
            info=own["info"] if own is not None else {},
        )
        check_episode(episode, self.action_spec, self.cameras, self.state_names)
        return episode

    def digest(self) -> str:
        """SHA-256 over the names and contents of all files (read at disk speed), a given action spec and options."""
        told: list[Any] = [self.action_spec.to_dict(), self._columns.gripper]
        usual = {
            "spec": self._options["spec"],
            "action": layout.ACTION,
            "state": layout.STATE,
        }  # the spec's content is told already
        told += [{k: v} for k, v in self._options.items() if v != usual.get(k)]
        whole = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        for folder in ("data", "meta", "videos"):
            for file in sorted((self.root / folder).rglob("*")):
                if file.is_file():
                    with file.open("rb") as f:
                        content = hashlib.file_digest(f, "sha256").hexdigest()
                    whole.update(f"{file.relative_to(self.root).as_posix()} {content}\n".encode())
        return whole.hexdigest()

    def _rows(self, row: Mapping[str, Any]) -> pa.Table:
        """The rows of one episode; only the row groups that hold them are read."""
        path = self._inside("data_path", row["data/chunk_index"], row["data/file_index"])
        if path not in self._tables:
            self._tables = {path: pq.ParquetFile(path)}  # episodes are asked for in order: one open file is enough
        file = self._tables[path]
        start, stop, groups, offset = self._local(row, file)
        table = file.read_row_groups(groups, columns=self._columns.needed).slice(start - offset, stop - start)
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

    def _frames(self, key: str, row: Mapping[str, Any], table: pa.Table) -> Frames:
        if self._columns.in_table(key):
            return self._columns.pictures(table, key)
        where = f"videos/{key}/"
        path = self._inside("video_path", row[where + "chunk_index"], row[where + "file_index"], video_key=key)
        times = row[where + "from_timestamp"] + table.column("timestamp").to_numpy().astype(np.float64)
        return VideoFrames(path, times, float(self._info["fps"]))

    def _inside(self, template: str, chunk: int, file: int, **more: str) -> Path:
        path = common.fill(self.root, self._info[template], chunk_index=int(chunk), file_index=int(file), **more)
        if not path.is_file():
            raise refuse(
                f"{self.root} has no file {path}",
                possible="the whole data set, or the options episodes and cameras for what is there",
                todo="Fetch the whole data set, videos included.",
            )
        return path


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
