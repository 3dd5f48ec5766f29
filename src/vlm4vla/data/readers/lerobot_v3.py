"""Reads LeRobot v3.0 data sets: pictures inside the tables, or in mp4 files, any number of cameras.

What LeRobot does not record, the meaning of the action numbers, comes from the section ``vlm4vla`` of info.json (data
sets of our writer) or from an action spec that the caller gives; without either the data set is refused.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vlm4vla.data.base import Frames, RawEpisode, check_episode
from vlm4vla.data.formats import lerobot_layout as layout
from vlm4vla.data.readers import _lerobot as common
from vlm4vla.data.readers import _lerobot_files as files
from vlm4vla.data.readers._digest import digest
from vlm4vla.data.video import VideoFrames
from vlm4vla.types import ActionSpec, refuse

_WHAT_TO_DO = "Give the folder of a LeRobot v3.0 data set; those of v2.1 have the format lerobot_v21."
_TASKS = "the column task_index, and one with a text for each"
_PLACES = (
    "episode_index",
    "length",
    "dataset_from_index",
    "dataset_to_index",
    "data/chunk_index",
    "data/file_index",
)


class Reader:
    """One data set in ``root``.

    ``action_spec``, or ``spec``: a YAML or JSON file of one (see ``data.action_spec``); data sets of our writer carry
    their own. ``episodes``: such as "1,10" or "0:10". ``cameras``: names with commas (default: all),
    ``STORED=NAME`` to rename one. ``action``, ``state``: keys of columns with commas, put side by side (default:
    ``action``, and ``observation.state`` where there is one; "none" for none).
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
        self._info = files.read_info(self.root, (layout.VERSION,), _WHAT_TO_DO)
        self._columns = common.Columns(
            self.root, self._info, given=action_spec, file=spec, cameras=cameras, action=action, state=state
        )
        self.action_spec = self._columns.action_spec
        self.cameras = self._columns.cameras
        self.state_names = self._columns.state_names
        self._videos = [key for key in self._columns.keys.values() if not self._columns.in_table(key)]
        section = self._info.get(layout.SECTION)
        self._own = section["episodes"] if section is not None else None
        self._tasks = _read_tasks(self.root / layout.TASKS)
        rows = _read_episodes(self.root, self._videos)
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
        instruction = files.instruction(table, self._tasks, number, self.root)
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
        """SHA-256 over the options, the index and the files of the chosen episodes (see ``readers._digest``)."""
        told: list[Any] = [self.action_spec.to_dict(), self._columns.gripper]
        usual = {
            "spec": self._options["spec"],
            "action": layout.ACTION,
            "state": layout.STATE,
        }  # the spec's content is told already
        told += [{k: v} for k, v in self._options.items() if v != usual.get(k)]
        index = [self.root / layout.INFO, self.root / layout.TASKS, *_episode_files(self.root)]
        data = {self._data(row) for row in self._episodes}
        data |= {self._video(key, row) for row in self._episodes for key in self._videos}
        return digest(self.root, told, index, data)

    def _rows(self, row: Mapping[str, Any]) -> pa.Table:
        """The rows of one episode; only the row groups that hold them are read."""
        path = self._data(row)
        with files.reading(path):
            if path not in self._tables:
                self._tables = {path: pq.ParquetFile(path)}  # episodes are asked for in order: one open file is enough
            file = self._tables[path]
            files.check_columns(file.schema_arrow.names, self._columns.needed, path)
            start, stop, groups, offset = self._local(row, file)
            table = file.read_row_groups(groups, columns=self._columns.needed).slice(start - offset, stop - start)
        number, length = int(row["episode_index"]), int(row["length"])
        files.check_rows(table, number, length, self._info["fps"], path)
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
            return self._columns.pictures(table, key, int(row["episode_index"]))
        path = self._video(key, row)
        times = row[f"videos/{key}/from_timestamp"] + files.times(table, path)
        return VideoFrames(path, times, float(self._info["fps"]), self._columns.sizes[key])

    def _data(self, row: Mapping[str, Any]) -> Path:
        return self._inside("data_path", *_file(row))

    def _video(self, key: str, row: Mapping[str, Any]) -> Path:
        where = f"videos/{key}/"
        return self._inside("video_path", row[where + "chunk_index"], row[where + "file_index"], video_key=key)

    def _inside(self, template: str, chunk: int, file: int, **more: str) -> Path:
        path = files.fill(self.root, self._info, template, chunk_index=int(chunk), file_index=int(file), **more)
        if not path.is_file():
            raise refuse(
                f"{self.root} has no file {path}",
                possible="the whole data set, or the options episodes and cameras for what is there",
                todo="Fetch the whole data set, videos included.",
            )
        return path


def _read_tasks(file: Path) -> dict[int, str]:
    """Index -> instruction. The instruction is pandas' unnamed index, or a column of its own in later versions."""
    with files.reading(file):
        table = pq.read_table(file, partitioning=None)
        texts = [f.name for f in table.schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        if "task_index" not in table.column_names or not texts:
            raise refuse(f"{file} has the columns {table.column_names}", possible=_TASKS, todo=files.RESTORE)
        tasks = dict(zip(table.column("task_index").to_pylist(), table.column(texts[0]).to_pylist(), strict=True))
    if not all(isinstance(n, int) and isinstance(text, str) for n, text in tasks.items()):
        raise refuse(f"{file} has an empty cell", possible=_TASKS, todo=files.RESTORE)
    return tasks


def _episode_files(root: Path) -> list[Path]:
    return sorted((root / "meta" / "episodes").glob("*/*.parquet"))


def _read_episodes(root: Path, videos: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of the index, sorted; each says where the episode's rows and its frames in the videos are."""
    integers = [*_PLACES, *(f"videos/{key}/{name}" for key in videos for name in ("chunk_index", "file_index"))]
    needed: dict[str, Any] = dict.fromkeys(integers, int)
    needed |= dict.fromkeys((f"videos/{key}/from_timestamp" for key in videos), int | float)
    rows: list[dict[str, Any]] = []
    for file in _episode_files(root):
        with files.reading(file):
            parquet = pq.ParquetFile(file)
            # Statistics are wide and not needed; nested columns are listed by their first name.
            wanted = [n for n in parquet.schema_arrow.names if not n.startswith("stats/")]
            found = parquet.read(columns=wanted).to_pylist()
        for number, row in enumerate(found):
            wrong = [name for name, kind in needed.items() if not isinstance(row.get(name), kind)]
            if wrong:
                raise refuse(
                    f"Row {number} of {file} has no {', '.join(wrong)}", possible="a number", todo=files.RESTORE
                )
        rows += found
    if not rows:
        raise refuse(f"{root} lists no episodes", possible="tables in meta/episodes", todo=_WHAT_TO_DO)
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
