"""Writes LeRobot v3.0 data sets with lossless pictures (PNG inside the tables), episode by episode, resumably.

A finished episode is one staged file under ``.staging``; :meth:`Writer.finish` joins them. The order is that of the
keys, not of arrival, so the same episodes give the same bytes whoever brought them when. A data set without
``meta/info.json`` is not finished: ``meta`` is the last folder to move into its place.
"""

import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq

from vlm4vla.data import columns
from vlm4vla.data.base import RawEpisode, check_episode
from vlm4vla.data.formats import lerobot_layout as layout
from vlm4vla.data.pictures import encode
from vlm4vla.records import disk_error, write_atomic
from vlm4vla.types import ActionSpec, CameraSpec, refuse

_HEADER = b"vlm4vla.episode"


class Writer:
    """One data set in ``root``. ``section`` is plain JSON data that travels in info.json (benchmark id, noise, ...).

    Refuses a folder that holds another data set, finished or staged.
    """

    def __init__(
        self,
        root: Path,
        *,
        action_spec: ActionSpec,
        cameras: tuple[CameraSpec, ...],
        state_names: tuple[str, ...],
        section: Mapping[str, Any],
    ) -> None:
        for camera in cameras:
            if "/" in camera.name:
                raise refuse(f"Camera name {camera.name!r} holds a slash", todo="LeRobot allows none: rename it.")
        self.root = root
        self._spec, self._cameras, self._state_names = action_spec, cameras, state_names
        self._section: dict[str, Any] = {
            "version": layout.SECTION_VERSION,
            "action_spec": action_spec.to_dict(),
            "state_names": list(state_names),
            **section,
        }
        self._features = layout.features(action_spec, cameras, state_names)
        self._staging = root / ".staging"
        self._claim()

    def _claim(self) -> None:
        """Stake out the folder for these settings, or refuse one that was begun with others."""
        plan = json.dumps({"features": self._features, layout.SECTION: self._section}, sort_keys=True)
        if self.finished:
            info = json.loads((self.root / layout.INFO).read_text())
            section = (
                {k: v for k, v in info[layout.SECTION].items() if k != "episodes"} if layout.SECTION in info else {}
            )
            found = json.dumps({"features": info["features"], layout.SECTION: section}, sort_keys=True)
        else:
            file = self._staging / "plan.json"
            if not file.is_file():
                write_atomic(file, plan)
            found = file.read_text()
        if json.loads(found) != json.loads(plan):
            raise refuse(
                f"{self.root} holds a data set of other settings",
                possible="an empty folder, or one that was begun with the same settings",
                todo="Choose another --out, or remove the folder.",
            )

    @property
    def finished(self) -> bool:
        return (self.root / layout.INFO).is_file()

    def staged(self) -> list[str]:
        """Sorted keys of the episodes that are safely on disk and wait for :meth:`finish`."""
        return sorted(f.stem for f in self._staging.glob("*.parquet"))

    def counts(self) -> tuple[int, int]:
        """Episodes and frames of the finished data set."""
        info = json.loads((self.root / layout.INFO).read_text())
        return info["total_episodes"], info["total_frames"]

    def add(self, key: str, episode: RawEpisode, _numbers: Mapping[str, npt.NDArray[Any]] | None = None) -> None:
        """Stage one episode under a key (a file name; the final order is that of the keys). Atomic.

        A simulator's own vectors have no place in this format.
        """
        check_episode(episode, self._spec, self._cameras, self._state_names)
        arrays: dict[str, pa.Array] = {}
        histograms: dict[str, list[list[int]]] = {}
        for camera in self._cameras:
            name = layout.IMAGES + camera.name
            counts = np.zeros((3, 256), np.int64)
            cells: list[dict[str, Any]] = []
            for i, image in enumerate(episode.images[camera.name]):
                assert image.shape == (camera.height, camera.width, 3) and image.dtype == np.uint8, f"{image.shape}"
                counts += layout.image_histogram(image[None])
                cells.append({"bytes": encode(image, "png"), "path": f"frame-{i:06d}.png"})
            arrays[name] = pa.array(cells, type=pa.struct({"bytes": pa.binary(), "path": pa.string()}))
            histograms[name] = counts.tolist()
        if episode.states is not None:
            arrays[layout.STATE] = _vectors(episode.states)
        arrays[layout.ACTION] = _vectors(episode.actions)
        header = {
            "instruction": episode.instruction,
            "task": episode.task,
            "source": episode.source,
            "info": dict(episode.info),
            "histograms": histograms,
        }
        table = pa.table(arrays).replace_schema_metadata({_HEADER: json.dumps(header, sort_keys=True).encode()})
        write_atomic(self._staging / f"{key}.parquet", _parquet([table]))

    def finish(self, keys: Sequence[str] | None = None) -> None:
        """Join the staged episodes (all, or those of ``keys``; in sorted order) and remove the staging folder.

        On a finished data set it removes what a kill during the removal left behind, and nothing else.
        """
        work = self.root / ".assembly"
        if not self.finished:
            chosen = sorted(self.staged() if keys is None else keys)
            assert chosen, "a data set without episodes"
            try:
                shutil.rmtree(work, ignore_errors=True)
                _Assembly(work, self._staging, self._features, self._section, self._spec.control_hz).write(chosen)
                shutil.rmtree(self.root / "data", ignore_errors=True)  # of a run killed between the two moves
                (work / "data").rename(self.root / "data")
                (work / "meta").rename(self.root / "meta")
            except OSError as error:
                raise disk_error(self.root, error) from error
        for leftover in (work, self._staging):
            shutil.rmtree(leftover, ignore_errors=True)


class _Assembly:
    """The joining of staged episodes into the final files under ``work``."""

    def __init__(
        self,
        work: Path,
        staging: Path,
        features: dict[str, dict[str, Any]],
        section: dict[str, Any],
        fps: float,
    ) -> None:
        self._work, self._staging = work, staging
        self._features, self._section, self._fps = features, section, fps
        self._schema = layout.columns(features).arrow_schema
        self._rows: list[dict[str, Any]] = []  # meta/episodes
        self._own: list[dict[str, Any]] = []  # our section's list of episodes
        self._tasks: dict[str, int] = {}
        self._numbers: dict[str, list[npt.NDArray[Any]]] = {}
        self._histograms: dict[str, npt.NDArray[np.int64]] = {}

    def write(self, keys: Sequence[str]) -> None:
        for number, files in enumerate(self._files(keys)):
            chunk, file = divmod(number, layout.CHUNK_FILES)
            tables = [self._episode(pq.read_table(f), chunk, file) for f in files]
            write_atomic(self._work / layout.DATA.format(chunk_index=chunk, file_index=file), _parquet(tables))
        write_atomic(
            self._work / layout.EPISODES.format(chunk_index=0, file_index=0),
            _parquet([pa.Table.from_pylist(self._rows)]),
        )
        frame = pd.DataFrame({"task_index": list(self._tasks.values())}, index=list(self._tasks))
        write_atomic(self._work / layout.TASKS, _parquet([pa.Table.from_pandas(frame)]))
        write_atomic(self._work / layout.STATS, json.dumps(self._stats(), indent=4))
        write_atomic(self._work / layout.INFO, json.dumps(self._info(), indent=4))

    def _files(self, keys: Sequence[str]) -> Iterator[list[Path]]:
        """Groups of staged files of about the file size that LeRobot recommends."""
        group: list[Path] = []
        size = 0
        for key in keys:
            file = self._staging / f"{key}.parquet"
            weight = file.stat().st_size
            if group and size + weight > layout.DATA_FILE_MB * 2**20:
                yield group
                group, size = [], 0
            group.append(file)
            size += weight
        yield group

    def _episode(self, staged: pa.Table, chunk: int, file: int) -> pa.Table:
        header = json.loads(staged.schema.metadata[_HEADER])
        index, length = len(self._rows), len(staged)
        start = self._rows[-1]["dataset_to_index"] if self._rows else 0
        task = self._tasks.setdefault(header["instruction"], len(self._tasks))
        steps = np.arange(length)
        constant = {"episode_index": np.full(length, index), "task_index": np.full(length, task)}
        generated = {"timestamp": (steps / self._fps).astype(np.float32), "frame_index": steps, "index": start + steps}
        arrays = {name: pa.array(values) for name, values in {**generated, **constant}.items()}
        arrays |= {name: staged.column(name) for name in staged.column_names}
        row = {
            "episode_index": index,
            "tasks": [header["instruction"]],
            "length": length,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": start,
            "dataset_to_index": start + length,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        for name, stats in self._episode_stats(staged, header["histograms"]).items():
            row |= {f"stats/{name}/{key}": value.tolist() for key, value in stats.items()}
        self._rows.append(row)
        self._own.append({key: header[key] for key in ("task", "source", "info")})
        return pa.table([arrays[name] for name in self._schema.names], schema=self._schema)

    def _episode_stats(self, staged: pa.Table, histograms: Mapping[str, Any]) -> dict[str, layout.Stats]:
        out: dict[str, layout.Stats] = {}
        for name in staged.column_names:
            if name in histograms:
                counts = np.asarray(histograms[name], np.int64)
                out[name] = layout.image_stats(counts, len(staged))
                self._histograms[name] = self._histograms[name] + counts if name in self._histograms else counts
            else:
                values = columns.to_numpy(staged.column(name))
                out[name] = layout.vector_stats(values)
                self._numbers.setdefault(name, []).append(values)
        return out

    def _stats(self) -> dict[str, Any]:
        frames = sum(row["length"] for row in self._rows)
        stats = {name: layout.image_stats(counts, frames) for name, counts in self._histograms.items()}
        stats |= {name: layout.vector_stats(np.concatenate(parts)) for name, parts in self._numbers.items()}
        return {name: {key: value.tolist() for key, value in s.items()} for name, s in stats.items()}

    def _info(self) -> dict[str, Any]:
        whole = float(self._fps).is_integer()
        return {
            "codebase_version": layout.VERSION,
            "robot_type": None,
            "total_episodes": len(self._rows),
            "total_frames": self._rows[-1]["dataset_to_index"],
            "total_tasks": len(self._tasks),
            "chunks_size": layout.CHUNK_FILES,
            "data_files_size_in_mb": layout.DATA_FILE_MB,
            "video_files_size_in_mb": layout.VIDEO_FILE_MB,
            "fps": int(self._fps) if whole else self._fps,
            "splits": {"train": f"0:{len(self._rows)}"},
            "data_path": layout.DATA,
            "video_path": None,
            "features": self._features,
            layout.SECTION: {**self._section, "episodes": self._own},
        }


def _vectors(values: npt.NDArray[np.float32]) -> pa.Array:
    """A vector of one number is a plain number in this format."""
    return pa.array(values[:, 0]) if values.shape[1] == 1 else columns.to_arrow(values)


def _parquet(tables: list[pa.Table]) -> bytes:
    """Parquet bytes with one row group per table. PNG does not compress further; snappy is LeRobot's choice."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, tables[0].schema, compression="snappy") as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(1, len(table)))
    return buffer.getvalue()
