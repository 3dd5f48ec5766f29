"""Reads LeRobot v2.1 data sets (and v2.0, which differs in statistics only): one table and one mp4 per episode.

Layout, from LeRobot's ``lerobot_dataset.py`` of that version: meta/info.json, tasks.jsonl and episodes.jsonl,
``data/chunk-NNN/episode_NNNNNN.parquet``, ``videos/chunk-NNN/KEY/episode_NNNNNN.mp4``. What it does not record, the
meaning of the action numbers, comes from an action spec that the caller gives.
"""

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

_VERSIONS = ("v2.1", "v2.0")
_WHAT_TO_DO = "Give the folder of a LeRobot v2.1 data set; those of v3.0 have the format lerobot_v3."


class Reader:
    """One data set in ``root``.

    ``action_spec`` or ``spec``, a YAML or JSON file of one (see ``data.action_spec``; grippers are converted by it to
    +1 open, -1 closed): needed. ``episodes``: such as "1,10" or "0:10" where only some are there or wanted.
    ``cameras``: names with commas (default: all), ``STORED=NAME`` to rename one. ``action``, ``state``: keys of columns
    with commas, put side by side (default: ``action``, and ``observation.state`` where there is one; "none" for none).

    It is pickled with what it found: worker processes look for the files of a hundred thousand episodes no second time.
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
        self._options: dict[str, Any] = {
            "spec": spec,
            "episodes": episodes,
            "cameras": cameras,
            "action": action,
            "state": state,
        }
        self._info = files.read_info(self.root, _VERSIONS, _WHAT_TO_DO)
        self._columns = common.Columns(
            self.root, self._info, given=action_spec, file=spec, cameras=cameras, action=action, state=state
        )
        self.action_spec = self._columns.action_spec
        self.cameras = self._columns.cameras
        self.state_names = self._columns.state_names
        tasks = files.read_lines(self.root / "meta/tasks.jsonl", {"task_index": int, "task": str}, _WHAT_TO_DO)
        self._tasks = {int(row["task_index"]): str(row["task"]) for row in tasks}
        listed = files.read_lines(self.root / "meta/episodes.jsonl", {"episode_index": int, "length": int}, _WHAT_TO_DO)
        lengths = {int(row["episode_index"]): int(row["length"]) for row in listed}
        self._episodes = [(i, lengths[i]) for i in common.choose(episodes, lengths)]
        self._check_files(len(lengths))

    def __len__(self) -> int:
        return len(self._episodes)

    def episode(self, index: int) -> RawEpisode:
        """Episode ``index`` of those chosen; its videos are decoded when they are looked at."""
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        number, length = self._episodes[index]
        table = self._table(number, length)
        text = files.instruction(table, self._tasks, number, self.root)
        episode = RawEpisode(
            instruction=text,
            images={name: self._frames(key, number, table) for name, key in self._columns.keys.items()},
            actions=self._columns.actions(table),
            states=self._columns.states(table),
            task=text,
            source=number,
        )
        check_episode(episode, self.action_spec, self.cameras, self.state_names)
        return episode

    def digest(self) -> str:
        """SHA-256 over the options, the index and the files of the chosen episodes (see ``readers._digest``)."""
        meta = [self.root / "meta" / name for name in ("info.json", "tasks.jsonl", "episodes.jsonl")]
        chosen = {key: value for key, value in self._options.items() if key != "spec"}
        spec = [self.action_spec.to_dict(), self._columns.gripper]
        return digest(self.root, [spec, chosen], meta, [f for n, _ in self._episodes for f in self._files(n)])

    def _files(self, number: int) -> list[Path]:
        """The table of an episode, then the videos of the chosen cameras."""
        videos = [key for key in self._columns.keys.values() if not self._columns.in_table(key)]
        return [self._path("data_path", number), *(self._video(key, number) for key in videos)]

    def _video(self, key: str, number: int) -> Path:
        return self._path("video_path", number, video_key=key)

    def _path(self, template: str, number: int, **more: str) -> Path:
        size = self._info.get("chunks_size", 1000)
        if not isinstance(size, int) or size < 1:
            raise refuse(f"info.json of {self.root} has no usable chunks_size", todo=files.RESTORE)
        return files.fill(self.root, self._info, template, episode_chunk=number // size, episode_index=number, **more)

    def _check_files(self, listed: int) -> None:
        """Refuse at once what a build would find out after hours."""
        for number, _ in self._episodes:
            for file in self._files(number):
                if not file.is_file():
                    raise refuse(
                        f"{self.root} lists {listed} episodes, but of episode {number} there is no file {file}",
                        possible="the whole data set, or the episodes and cameras that are there",
                        todo='Fetch the rest, or name what is there: episodes="1,10" (or "0:10"), cameras="NAME".',
                    )

    def _table(self, number: int, length: int) -> pa.Table:
        path = self._path("data_path", number)
        with files.reading(path):
            files.check_columns(pq.read_schema(path).names, self._columns.needed, path)
            table = pq.read_table(path, columns=self._columns.needed, partitioning=None)
        files.check_rows(table, number, length, self._info["fps"], path)
        return table

    def _frames(self, key: str, number: int, table: pa.Table) -> Frames:
        if self._columns.in_table(key):
            return self._columns.pictures(table, key, number)
        path = self._video(key, number)
        return VideoFrames(path, files.times(table, path), float(self._info["fps"]), self._columns.sizes[key])
