"""Writes data sets in CALVIN's layout, recording by recording, resumably; every recording is one annotated window.

A finished recording is one staged file (frames already compressed); :meth:`Writer.finish` lays them out frame by frame
in the order of scenes and keys, so the same recordings give the same bytes whoever brought them when. The folder of the
split moves into its place last: a data set without it is not finished.

Frames are ``np.savez_compressed`` archives of float64 vectors as CALVIN's own renderer writes them, without depth and
tactile pictures. Official tools also find recordings, lengths, scenes, statistics and annotations. ``emb`` of the
annotations is empty, (0, 1, 384): there is no language model here, and a tool that wants embeddings shall fail and not
train on zeros (CALVIN's ``relabel_with_new_lang_model.py`` fills them in). ``embeddings.npy``, ``.hydra`` are absent.
"""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from vlm4vla.data.base import Frames, RawEpisode
from vlm4vla.data.formats import calvin_layout as layout
from vlm4vla.data.formats.calvin_rule import reached, relative_actions
from vlm4vla.records import disk_error, write_atomic
from vlm4vla.types import ActionSpec, CameraSpec, refuse

SETTINGS = "vlm4vla.json"  # what only we know; other tools do not look at it
_VERSION = 1
_FIXED = (1980, 1, 1, 0, 0, 0)  # as numpy dates the members of its archives
_EMBEDDING = (0, 1, 384)
_STAGED_HEADER, _STAGED_VECTORS = "header.json", "vectors.npz"


@dataclass(frozen=True, eq=False)
class Recording:
    """N frames of one task in one scene.

    ``actions`` (N, 7): absolute targets in the world frame, m and rad, gripper +1 open and -1 closed; in CALVIN these
    are the poses that the next frame has (``calvin_rule.reached``). ``robot_obs`` (N, 15), ``scene_obs`` (N, 24).
    ``images``: "static" (200, 200, 3) and "gripper" (84, 84, 3), uint8. ``rel_actions`` follow from the rule.
    """

    instruction: str
    task: str
    scene: str
    images: Mapping[str, Frames]
    actions: npt.NDArray[np.floating]
    robot_obs: npt.NDArray[np.floating]
    scene_obs: npt.NDArray[np.floating]


class Writer:
    """One split of a data set in ``root``. ``section`` is plain JSON data that travels with it (benchmark id, ...).

    Refuses a folder that holds the split with other settings, finished or staged, or of somebody else.
    """

    def __init__(
        self,
        root: Path,
        *,
        action_spec: ActionSpec = layout.SPECS["relative"],
        cameras: tuple[CameraSpec, ...] = tuple(layout.CAMERAS.values()),
        state_names: tuple[str, ...] = layout.STATE_NAMES,
        split: str = "training",
        section: Mapping[str, Any],
    ) -> None:
        if split not in layout.SPLITS:
            raise refuse(f"Unknown split {split!r}", given=split, possible=layout.SPLITS, todo="Choose one of these.")
        found = action_spec.differences(layout.SPECS["relative"])
        found += [f"camera {c}" for c in cameras if c not in layout.CAMERAS.values()]
        if state_names != layout.STATE_NAMES:
            found.append(f"state {', '.join(state_names)}")
        if found:
            raise refuse(
                f"CALVIN's layout has no place for {'; '.join(found)}",
                possible=f"its own relative actions, cameras {', '.join(layout.CAMERAS)} and state",
                todo="Write the data set with the format lerobot_v3.",
            )
        self.root, self.folder = root, root / split
        self._staging, self._work = root / f".staging-{split}", root / f".assembly-{split}"
        self._settings = json.loads(json.dumps({"version": _VERSION, "split": split, "section": dict(section)}))
        self._claim()

    def _claim(self) -> None:
        """Stake out the folder for these settings, or refuse one that was begun with others."""
        file = (self.folder if self.finished else self._staging) / SETTINGS
        if not file.is_file() and not self.finished:
            write_atomic(file, json.dumps(self._settings, sort_keys=True))
        if not file.is_file() or json.loads(file.read_text()) != self._settings:
            raise refuse(
                f"{self.folder} holds a data set of other settings",
                possible="an empty folder, or one that was begun with the same settings",
                todo="Choose another --out, or remove the folder.",
            )

    @property
    def finished(self) -> bool:
        return self.folder.exists()

    def staged(self) -> list[str]:
        """Sorted keys of the recordings that are safely on disk and wait for :meth:`finish`."""
        return sorted(f.stem for f in self._staging.glob("*.zip"))

    def counts(self) -> tuple[int, int]:
        """Recordings and frames of the finished data set."""
        lengths = np.load(self.folder / layout.LENGTHS, allow_pickle=False)
        return len(lengths), int(lengths.sum())

    def add(self, key: str, episode: RawEpisode, vectors: Mapping[str, npt.NDArray[Any]]) -> None:
        """Stage an episode of N frames. ``vectors``: "robot_obs" (N + 1, 15) and "scene_obs" (N + 1, 24), one more
        than there are frames: the last one is where the last action led. ``episode.info`` names the "scene".

        As in the official files, actions are the poses that were reached, and not what the expert asked for.
        """
        robot, scene = (np.asarray(vectors[name], np.float64) for name in (layout.STATE, layout.SCENE_STATE))
        recording = Recording(
            instruction=episode.instruction,
            task=episode.task,
            scene=layout.SCENE + str(episode.info["scene"]),
            images=episode.images,
            actions=reached(robot),
            robot_obs=robot[:-1],
            scene_obs=scene[:-1],
        )
        self.stage(key, recording)

    def stage(self, key: str, recording: Recording) -> None:
        """Stage one recording under a key (a file name). Atomic. Refuses what the layout cannot hold."""
        vectors = _vectors(recording)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as out:
            for i in range(len(recording.actions)):
                frame: dict[str, Any] = {name: v[i] for name, v in vectors.items()} | _pictures(recording, i)
                packed = io.BytesIO()
                np.savez_compressed(packed, **frame)
                out.writestr(zipfile.ZipInfo(f"{i:07d}.npz", _FIXED), packed.getvalue())
            header = {"instruction": recording.instruction, "task": recording.task, "scene": recording.scene}
            out.writestr(zipfile.ZipInfo(_STAGED_HEADER, _FIXED), json.dumps(header, sort_keys=True))
            stored = io.BytesIO()
            np.savez(stored, allow_pickle=False, **vectors)
            out.writestr(zipfile.ZipInfo(_STAGED_VECTORS, _FIXED), stored.getvalue())
        write_atomic(self._staging / f"{key}.zip", buffer.getvalue())

    def finish(self, keys: Sequence[str] | None = None) -> None:
        """Lay out the staged recordings (all, or those of ``keys``) and remove the staging folder.

        On a finished data set it removes what a kill during the removal left behind, and nothing else.
        """
        if not self.finished:
            chosen = sorted(self.staged() if keys is None else keys)
            assert chosen, "a data set without recordings"
            try:
                shutil.rmtree(self._work, ignore_errors=True)
                self._work.mkdir(parents=True)
                _Assembly(self._work, self._staging).write(chosen)
                write_atomic(self._work / SETTINGS, json.dumps(self._settings, sort_keys=True))
                os.sync()  # once for all frames
                self._work.rename(self.folder)
            except OSError as error:
                raise disk_error(self.root, error) from error
        for leftover in (self._work, self._staging):
            shutil.rmtree(leftover, ignore_errors=True)


class _Assembly:
    """The final files under ``work``. Scenes are ranges of frames in this layout, so recordings are sorted by scene."""

    def __init__(self, work: Path, staging: Path) -> None:
        self._work, self._staging = work, staging
        self._ends: list[tuple[int, int]] = []
        self._headers: list[dict[str, str]] = []
        self._vectors: dict[str, list[npt.NDArray[np.float64]]] = {}

    def write(self, keys: Sequence[str]) -> None:
        for key in sorted(keys, key=lambda key: (self._header(key)["scene"], key)):
            self._recording(key)
        ends = np.array(self._ends, np.int64)
        self._save(layout.RECORDINGS, ends)
        self._save(layout.LENGTHS, ends[:, 1] - ends[:, 0] + 1)
        self._save(layout.SCENES, self._scenes())
        self._save(layout.ANNOTATIONS, self._annotations())
        write_atomic(self._work / layout.STATISTICS, yaml.safe_dump(self._statistics(), sort_keys=False))

    def _header(self, key: str) -> dict[str, str]:
        with zipfile.ZipFile(self._staging / f"{key}.zip") as staged:
            header: dict[str, str] = json.loads(staged.read(_STAGED_HEADER))
        return header

    def _recording(self, key: str) -> None:
        first = self._ends[-1][1] + 1 if self._ends else 0
        with zipfile.ZipFile(self._staging / f"{key}.zip") as staged:
            frames = [name for name in staged.namelist() if name not in (_STAGED_HEADER, _STAGED_VECTORS)]
            if first + len(frames) > layout.FRAMES:
                raise refuse(f"More than {layout.FRAMES} frames", todo="Write several data sets.")
            for i, name in enumerate(frames):
                layout.frame_file(self._work, first + i).write_bytes(staged.read(name))
            with np.load(io.BytesIO(staged.read(_STAGED_VECTORS)), allow_pickle=False) as vectors:
                for name in vectors.files:
                    self._vectors.setdefault(name, []).append(vectors[name])
        self._headers.append(self._header(key))
        self._ends.append((first, first + len(frames) - 1))

    def _save(self, name: str, value: Any) -> None:
        buffer = io.BytesIO()
        np.save(buffer, value)  # a dict becomes the pickle that official tools expect
        write_atomic(self._work / name, buffer.getvalue())

    def _scenes(self) -> dict[str, list[int]]:
        out: dict[str, list[int]] = {}
        for header, (first, last) in zip(self._headers, self._ends, strict=True):
            out.setdefault(header["scene"], [first, last])[1] = last
        return out

    def _annotations(self) -> dict[str, Any]:
        return {
            "language": {
                "ann": [h["instruction"] for h in self._headers],
                "task": [h["task"] for h in self._headers],
                "emb": np.zeros(_EMBEDDING, np.float32),
            },
            "info": {"episodes": [], "indx": list(self._ends)},
        }

    def _statistics(self) -> dict[str, Any]:
        """Mean and deviation for the official ``NormalizeVector``, and the bounds of the absolute actions.

        (As ``calvin_agent/utils/compute_proprioception_statistics.py`` of mees/calvin computes them.)
        """
        every = {name: np.concatenate(parts) for name, parts in self._vectors.items()}
        out: dict[str, Any] = {}
        for name in (layout.STATE, layout.SCENE_STATE):
            mean, std = every[name].mean(0).tolist(), every[name].std(0).tolist()
            out[name] = [{"_target_": "calvin_agent.utils.transforms.NormalizeVector", "mean": mean, "std": std}]
        bounds = {"act_max_bound": every["actions"].max(0), "act_min_bound": every["actions"].min(0)}
        return out | {name: bound.tolist() for name, bound in bounds.items()}


def _vectors(recording: Recording) -> dict[str, npt.NDArray[np.float64]]:
    """The vectors of all frames as they are stored; refuses what is not of the layout."""
    n = len(recording.actions)
    given = {
        "actions": (recording.actions, layout.ACTION_SIZE),
        layout.STATE: (recording.robot_obs, len(layout.STATE_NAMES)),
        layout.SCENE_STATE: (recording.scene_obs, layout.SCENE_SIZE),
    }
    found = [
        f"{name} {values.shape} instead of ({n}, {size})"
        for name, (values, size) in given.items()
        if values.shape != (n, size)
    ]
    found += [f"{name} that is not finite" for name, (values, _) in given.items() if not np.isfinite(values).all()]
    if n == 0:
        found.append("no frames")
    if set(recording.images) != set(layout.CAMERAS):
        found.append(f"cameras {sorted(recording.images)} instead of {sorted(layout.CAMERAS)}")
    found += [f"{len(f)} pictures of {name} for {n} actions" for name, f in recording.images.items() if len(f) != n]
    if not found and (np.abs(recording.actions[:, 6]) != 1).any():
        found.append("a gripper action other than -1 and +1")
    found += [
        f"the {name} {text!r}"
        for name, text in (("instruction", recording.instruction), ("task", recording.task), ("scene", recording.scene))
        if not text.strip()
    ]
    if found:
        raise refuse(
            f"A recording cannot be written in CALVIN's layout: {'; '.join(found)}",
            possible="N frames with actions (N, 7), robot_obs (N, 15), scene_obs (N, 24), both cameras, and texts",
            todo="Mend the recording.",
        )
    actions, states = recording.actions.astype(np.float64), recording.robot_obs.astype(np.float64)
    return {
        "actions": actions,
        "rel_actions": relative_actions(actions, states),
        layout.STATE: states,
        layout.SCENE_STATE: recording.scene_obs.astype(np.float64),
    }


def _pictures(recording: Recording, frame: int) -> dict[str, npt.NDArray[np.uint8]]:
    out: dict[str, npt.NDArray[np.uint8]] = {}
    for camera in layout.CAMERAS:
        picture = recording.images[camera][frame]
        expected = layout.picture_shape(camera)
        if picture.shape != expected or picture.dtype != np.uint8:
            raise refuse(
                f"Picture {frame} of camera {camera!r} is {picture.shape} {picture.dtype}",
                possible=f"{expected} uint8",
                todo="Render it in CALVIN's size: the layout knows no other.",
            )
        out[layout.PICTURE + camera] = picture
    return out
