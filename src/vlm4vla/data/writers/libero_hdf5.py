"""Writes demonstrations as LIBERO does: one HDF5 file per task, resumably, with the same bytes in any order.

Layout and senses: see ``data.libero_layout``. A finished episode is one staged file under ``.staging``;
:meth:`Writer.finish` joins those of a task in the order of their keys into one temporary file and moves it into its
place. A folder with ``.staging`` is not finished.
"""

import io
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from vlm4vla.data.base import RawEpisode, check_episode
from vlm4vla.data.formats import libero_layout as layout
from vlm4vla.records import disk_error, write_atomic
from vlm4vla.types import ActionSpec, CameraSpec, refuse

_MORE = ("states", "robot_states", "obs/joint_states", "obs/ee_states", "obs/gripper_states", "executed_actions")
"""Places of further arrays. ``executed_actions`` is ours: what a noisy expert did, where ``actions`` are its labels."""


class Writer:
    """One folder of ``TASK_demo.hdf5`` files.

    The action spec must be ``libero_layout.SPEC``, cameras those of ``libero_layout.CAMERAS``, state names those of
    ``libero_layout.state_names`` of some vectors: the layout has no place for others. ``section`` is plain JSON data
    that travels in the files. Refuses a folder that holds another data set, finished or staged.
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
        vectors = tuple(dict.fromkeys(name.split(".")[0] for name in state_names))
        found = action_spec.differences(layout.SPEC)
        found += [f"camera {c.name}" for c in cameras if c.name not in layout.CAMERAS]
        if not set(vectors) <= set(layout.VECTORS) or state_names != layout.state_names(vectors):
            found.append(f"state {', '.join(state_names)}")
        if found:
            raise refuse(
                f"LIBERO's layout has no place for {'; '.join(found)}",
                possible=f"its own actions, cameras {', '.join(layout.CAMERAS)}, vectors {', '.join(layout.VECTORS)}",
                todo="Write the data set with the format lerobot_v3.",
            )
        self.root = root
        self._cameras, self._vectors, self._state_names = cameras, vectors, state_names
        self._plan = {
            "version": layout.VERSION,
            "cameras": [[c.name, c.height, c.width] for c in cameras],
            "state_names": list(state_names),
            "section": dict(section),
        }
        self._staging = root / layout.STAGING
        self._claim()

    def _claim(self) -> None:
        """Stake out the folder for these settings, or refuse one that was begun with others."""
        plan = json.dumps(self._plan, sort_keys=True)
        file = self._staging / "plan.json"
        if self.finished:
            with h5py.File(self._files()[0], "r") as f:
                found = str(f["data"].attrs.get(layout.ATTRIBUTE, "null"))
        else:
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
        return not self._staging.exists() and bool(self._files())

    def staged(self) -> list[str]:
        """Sorted keys of the episodes that are safely on disk and wait for :meth:`finish`."""
        return sorted(f.stem for f in self._staging.glob("*.hdf5"))

    def counts(self) -> tuple[int, int]:
        """Demonstrations and frames of the finished data set."""
        episodes = frames = 0
        for file in self._files():
            with h5py.File(file, "r") as f:
                episodes += int(f["data"].attrs["num_demos"])
                frames += int(f["data"].attrs["total"])
        return episodes, frames

    def add(self, key: str, episode: RawEpisode, vectors: Mapping[str, npt.NDArray[Any]] | None = None) -> None:
        """Stage one demonstration, which ends in success, under a key (a file name). Atomic.

        ``vectors``: further arrays by their place, such as "states" (of the simulator), "robot_states" or
        "obs/joint_states", of N rows or of N + 1: where the last action led has no place in this layout.
        ``episode.info["attributes"]``: texts about the task (env_name, bddl_file_name, ...), where there are any.
        """
        check_episode(episode, layout.SPEC, self._cameras, self._state_names)
        if not re.fullmatch(r"[\w\-. ]+", episode.task):
            raise refuse(
                f"Task {episode.task!r} cannot be the name of a file",
                possible="letters, digits, _, -, . and spaces",
                todo="Rename the task.",
            )
        n = episode.length
        numbers = self._numbers(episode)
        for name, rows in (vectors or {}).items():
            values = rows[:-1] if len(rows) == n + 1 else rows
            if name not in _MORE or name in numbers:
                raise refuse(
                    f"{name} cannot be written with this episode",
                    given=name,
                    possible=[place for place in _MORE if place not in numbers],
                    todo="Give one of these, or leave it out.",
                )
            if len(values) != n or values.dtype.kind not in "iuf":
                raise refuse(
                    f"{name} has the shape {values.shape} and holds {values.dtype}",
                    possible=f"numbers, one row for each of the {n} actions",
                    todo="Give one row per action, or leave it out.",
                )
            numbers[name] = layout.flipped(values).astype(np.float64) if name == "executed_actions" else values
        last = np.zeros(n, np.uint8)
        last[-1] = 1
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as f:
            demo = f.create_group("demo")
            info = dict(episode.info)
            attributes: dict[str, str] = info.pop("attributes", {})
            own = {"task": episode.task, "source": episode.source, "info": info}
            demo.attrs["attributes"] = json.dumps(attributes, sort_keys=True)
            demo.attrs[layout.ATTRIBUTE] = json.dumps(own, sort_keys=True)
            demo.attrs["instruction"] = episode.instruction
            demo.attrs["num_samples"] = n
            if "states" in numbers:
                demo.attrs["init_state"] = numbers["states"][0]
            for name, values in (numbers | {"rewards": last, "dones": last}).items():
                demo.create_dataset(name, data=values)
            for camera in self._cameras:
                self._write_pictures(demo, camera, episode)
        write_atomic(self._staging / f"{key}.hdf5", buffer.getvalue())

    def finish(self, keys: Sequence[str] | None = None) -> None:
        """Join the staged episodes (all, or those of ``keys``; in sorted order) and remove the staging folder.

        On a finished data set it removes what a kill during the removal left behind, and nothing else.
        """
        removed = self.root / ".removed"
        if not self.finished:
            tasks: dict[str, list[Path]] = {}
            for key in sorted(self.staged() if keys is None else keys):
                file = self._staging / f"{key}.hdf5"
                with h5py.File(file, "r") as f:
                    task = json.loads(f["demo"].attrs[layout.ATTRIBUTE])["task"]
                tasks.setdefault(task, []).append(file)
            assert tasks, "a data set without episodes"
            try:
                for task, files in sorted(tasks.items()):
                    self._join(task, files)
                for file in self._files():  # of a former call with other keys, killed before its end
                    if file.name.removesuffix(layout.SUFFIX) not in tasks:
                        file.unlink()
                shutil.rmtree(removed, ignore_errors=True)
                self._staging.rename(removed)
            except OSError as error:
                raise disk_error(self.root, error) from error
        shutil.rmtree(removed, ignore_errors=True)

    def _files(self) -> list[Path]:
        return sorted(self.root.glob(f"*{layout.SUFFIX}"))

    def _numbers(self, episode: RawEpisode) -> dict[str, npt.NDArray[Any]]:
        """Actions and obs vectors by their place, float64 as in the official files."""
        out: dict[str, npt.NDArray[Any]] = {"actions": layout.flipped(episode.actions).astype(np.float64)}
        at = 0
        for vector in self._vectors:
            assert episode.states is not None
            size = len(layout.VECTORS[vector])
            out[f"obs/{vector}"] = episode.states[:, at : at + size].astype(np.float64)
            at += size
        if "ee_states" in self._vectors:
            poses = out["obs/ee_states"]
            out = {"obs/ee_pos": poses[:, :3], "obs/ee_ori": poses[:, 3:]} | out
        return out

    def _write_pictures(self, demo: h5py.Group, camera: CameraSpec, episode: RawEpisode) -> None:
        shape = (camera.height, camera.width, 3)
        stored = demo.create_dataset(
            f"obs/{layout.CAMERAS[camera.name]}", shape=(episode.length, *shape), dtype=np.uint8
        )
        for i, image in enumerate(episode.images[camera.name]):
            assert image.shape == shape and image.dtype == np.uint8, f"{image.shape} {image.dtype}"
            stored[i] = layout.turned(image)

    def _join(self, task: str, files: Sequence[Path]) -> None:
        """One task's file: written under a temporary name, then moved."""
        partial = self._staging / ".task.part"
        with h5py.File(partial, "w") as out:
            data = out.create_group("data")
            total, instruction = 0, ""
            attributes: dict[str, str] = {}
            for number, file in enumerate(files):
                with h5py.File(file, "r") as staged:
                    said = str(staged["demo"].attrs["instruction"])
                    if number and said != instruction:
                        raise refuse(
                            f"Task {task!r} has two instructions: {instruction!r} and {said!r}",
                            possible="one instruction per task: LIBERO's files have one place for it",
                            todo="Give each instruction a task of its own, or write the format lerobot_v3.",
                        )
                    instruction = said
                    out.copy(staged["demo"], data, name=f"demo_{number}")
                    attributes |= json.loads(staged["demo"].attrs["attributes"])
                    for name in ("instruction", "attributes"):
                        del data[f"demo_{number}"].attrs[name]
                    total += int(staged["demo"].attrs["num_samples"])
            told = {"macros_image_convention": "opengl", **attributes}
            problem = json.loads(told.get("problem_info", "{}")) | {"language_instruction": instruction}
            told["problem_info"] = json.dumps(problem)
            told[layout.ATTRIBUTE] = json.dumps(self._plan, sort_keys=True)
            for name, value in told.items():
                data.attrs[name] = value
            data.attrs["num_demos"], data.attrs["total"] = len(files), total
        with partial.open("rb") as f:
            os.fsync(f.fileno())
        partial.replace(self.root / f"{task}{layout.SUFFIX}")
