"""Reads CALVIN's official data sets (D, ABC, ABCD, debug): one .npz per frame, sentences in a pickle that is not run.

By default an episode is one language-annotated window, as in the paper; the rest of the play data has no sentences.
Relative actions are as stored: units of 0.02 m and 0.05 rad in the world frame at 30 Hz, differences of Euler angles.
CALVIN's gripper is +1 open and -1 closed already: nothing is converted. Depth and tactile pictures stay unread.
Layout and sources: ``data/formats/calvin_layout.py``.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vlm4vla.data.base import RawEpisode, check_episode
from vlm4vla.data.formats import calvin_layout as layout
from vlm4vla.data.formats.safe_numpy import read_npy, read_npz, read_pickled
from vlm4vla.data.readers._digest import digest
from vlm4vla.types import ActionSpec, Image, refuse

_WINDOWS = ("language", "all")
_RESTORE = "Fetch the file again from where the data set comes from."
_SENTENCES = "equally long lists of sentences, tasks and (first, last) frames"
_VECTORS = {
    **dict.fromkeys(layout.ACTIONS.values(), ((layout.ACTION_SIZE,), layout.FLOATS)),
    layout.STATE: ((len(layout.STATE_NAMES),), layout.FLOATS),
}
_Window = tuple[int, int, str, str, int]  # first and last frame, sentence, task, index in the data set


class Reader:
    """One split of the data set in ``root``.

    ``split``: "training" or "validation". ``actions``: "relative" (``rel_actions``) or "absolute" (``actions``).
    ``windows``: "language", the annotated windows; or "all", every recording as one episode: play data carry no
    sentence, so ``instruction`` has to give the one for all of them. ``cameras``: "static", "gripper" or both with a
    comma between. ``scene``: only what was recorded in this scene of scene_info.npy ("calvin_scene_A").

    Both ends of a window are read, as those of a recording. (The official annotator writes first frame and first +
    length, so that the last frame is the one that the window's last action reaches; it is of the same recording.)
    scene_info.npy of downloads before 24 Feb 2023 (D) or 16 Sep 2022 (ABC, ABCD) is wrong: see CALVIN's changelog.
    """

    def __init__(
        self,
        root: Path,
        *,
        split: Literal["training", "validation"] = "training",
        actions: Literal["relative", "absolute"] = "relative",
        windows: Literal["language", "all"] = "language",
        cameras: str = "static",
        scene: str | None = None,
        instruction: str | None = None,
    ) -> None:
        self.root = Path(root)
        self._options: dict[str, Any] = {
            "split": split,
            "actions": actions,
            "windows": windows,
            "cameras": cameras,
            "scene": scene,
            "instruction": instruction,
        }
        _one_of("split", split, layout.SPLITS)
        _one_of("actions", actions, layout.ACTIONS)
        _one_of("windows", windows, _WINDOWS)
        names = [name.strip() for name in cameras.split(",")]
        for name in names:
            _one_of("camera", name, layout.CAMERAS)
        if len(set(names)) != len(names):
            raise refuse(f"A camera is named twice: {cameras}", possible=layout.CAMERAS, todo="Name each once.")
        if (windows == "all") != (instruction is not None):
            raise refuse(
                f"windows={windows} with instruction={instruction!r}",
                possible="windows=all with an instruction, windows=language without one",
                todo="Play data have no sentences: give the one that all recordings shall have, or take the windows.",
            )
        self.folder = self.root / split
        if not self.folder.is_dir():
            raise refuse(
                f"{self.root} has no folder {split!r}",
                possible=[d.name for d in self.root.glob("*/")] if self.root.is_dir() else "an existing folder",
                todo="Give the folder that holds 'training' and 'validation' (task_ABC_D, ...).",
            )
        self.action_spec: ActionSpec = layout.SPECS[actions]
        self.cameras = tuple(layout.CAMERAS[name] for name in names)
        self.state_names = layout.STATE_NAMES
        self._wanted = {name: _VECTORS[name] for name in (layout.ACTIONS[actions], layout.STATE)}
        self._scenes = _read_scenes(self.folder / layout.SCENES, needed=scene is not None)
        found = _recordings(self.folder, instruction) if instruction is not None else _annotated(self.folder)
        self._windows = found if scene is None else self._of_scene(found, scene)
        if not self._windows:
            raise refuse(f"{self.folder} has no episode (scene: {scene})", todo="Take another split or scene.")

    def __reduce__(self) -> tuple[Callable[[], "Reader"], tuple[()]]:
        return partial(type(self), self.root, **self._options), ()

    def __len__(self) -> int:
        return len(self._windows)

    def episode(self, index: int) -> RawEpisode:
        """Episode ``index``: its vectors now, its pictures when they are looked at (13 % dearer than both at once)."""
        first, last, instruction, task, source = self._window(index)
        files = [layout.frame_file(self.folder, frame) for frame in range(first, last + 1)]
        rows = [read_npz(file, self._wanted) for file in files]
        name, state = self._wanted
        actions = np.stack([row[name] for row in rows]).astype(np.float32)
        self._check_actions(actions, name, files)
        info: dict[str, Any] = {"split": self._options["split"], "first_frame": first, "last_frame": last}
        scene = self._scene_of(first, last)
        if scene is not None:
            info["scene"] = scene
        episode = RawEpisode(
            instruction=instruction,
            images={c.name: NpzFrames(files, c.name) for c in self.cameras},
            actions=actions,
            states=np.stack([row[state] for row in rows]).astype(np.float32),
            task=task,
            source=source,
            info=info,
        )
        check_episode(episode, self.action_spec, self.cameras, self.state_names)
        return episode

    def vectors(self, index: int) -> dict[str, npt.NDArray[Any]]:
        """``rel_actions`` (N, 7), ``actions`` (N, 7) and ``robot_obs`` (N, 15) of an episode in the type on disk.

        For the rules in ``data/formats/calvin_rule.py``.
        """
        first, last, *_ = self._window(index)
        wanted = {name: _VECTORS[name] for name in (*layout.ACTIONS.values(), layout.STATE)}
        rows = [read_npz(layout.frame_file(self.folder, frame), wanted) for frame in range(first, last + 1)]
        return {name: np.stack([row[name] for row in rows]) for name in wanted}

    def digest(self) -> str:
        """SHA-256 over the options, the index files and all frame files; see ``readers/_digest.py``."""
        index = [self.folder / name for name in (layout.ANNOTATIONS, layout.RECORDINGS, layout.SCENES)]
        with os.scandir(self.folder) as entries:
            frames = [self.folder / entry.name for entry in entries if entry.name.endswith(".npz")]
        return digest(self.folder, self._options, [file for file in index if file.is_file()], frames)

    def _window(self, index: int) -> _Window:
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        return self._windows[index]

    def _scene_of(self, first: int, last: int) -> str | None:
        """The scene that holds all frames of a window."""
        inside = (name for name, (start, end) in self._scenes.items() if start <= first and last <= end)
        return next(inside, None)

    def _of_scene(self, found: list[_Window], scene: str) -> list[_Window]:
        """The windows of a scene. Refuses a scene file that does not know the scene of every window."""
        _one_of("scene", scene, self._scenes)
        scenes = [self._scene_of(window[0], window[1]) for window in found]
        if None in scenes:
            first, last, *_ = found[scenes.index(None)]
            raise refuse(
                f"Frames {first} to {last} lie in no scene of {self.folder / layout.SCENES}",
                possible=", ".join(f"{name}: {start} to {end}" for name, (start, end) in self._scenes.items()),
                todo="Old downloads have a wrong file: fetch the corrected one, see the changelog of CALVIN's README.",
            )
        return [window for window, name in zip(found, scenes, strict=True) if name == scene]

    def _check_actions(self, actions: npt.NDArray[np.float32], name: str, files: list[Path]) -> None:
        """Refuse what the format rules out: values beyond the limits, a gripper that is neither open nor closed."""
        dimensions = self.action_spec.dimensions
        low, high = np.array([d.low for d in dimensions]), np.array([d.high for d in dimensions])
        wrong = (actions < low - 1e-5) | (actions > high + 1e-5)
        for g in self.action_spec.gripper:
            wrong[:, g] |= np.abs(actions[:, g]) != 1
        if wrong.any():
            frame, place = np.argwhere(wrong)[0]
            d = dimensions[place]
            raise refuse(
                f"{name!r} of {files[frame]} has {d.name} {actions[frame, place]}",
                possible="-1 or +1" if d.kind == "gripper" else f"{d.low} to {d.high} {d.unit}",
                todo="The file is not of CALVIN's format (relative actions are clipped to -1 .. 1): mend the data set.",
            )


class NpzFrames:
    """A lazy sequence of the (H, W, 3) pictures of one camera, one .npz file each."""

    def __init__(self, files: list[Path], camera: str) -> None:
        self._files = files
        self._name = layout.PICTURE + camera
        self._wanted = {self._name: (layout.picture_shape(camera), ("uint8",))}

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int, /) -> Image:
        return read_npz(self._files[index], self._wanted)[self._name]

    def __iter__(self) -> Iterator[Image]:
        return (self[i] for i in range(len(self)))


def _one_of(what: str, given: str, possible: Any) -> None:
    if given not in possible:
        raise refuse(f"Unknown {what} {given!r}", given=given, possible=possible, todo="Choose one of these.")


def _annotated(folder: Path) -> list[_Window]:
    file = folder / layout.ANNOTATIONS
    if not file.is_file():
        raise refuse(
            f"{file} is missing",
            possible="a split with language annotations",
            todo="Fetch them, or read whole recordings with windows=all and an instruction.",
        )
    data = read_pickled(file)
    try:
        sentences, tasks = _texts(data["language"]["ann"]), _texts(data["language"]["task"])
        ends = _pairs(np.array(data["info"]["indx"]))
        return [
            (first, last, sentence, task, i)
            for i, ((first, last), sentence, task) in enumerate(zip(ends, sentences, tasks, strict=True))
        ]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise refuse(
            f"{file} holds no CALVIN annotations: {type(error).__name__} {error}", possible=_SENTENCES, todo=_RESTORE
        ) from error


def _recordings(folder: Path, instruction: str) -> list[_Window]:
    file = folder / layout.RECORDINGS
    ends = read_npy(file)
    try:
        return [(first, last, instruction, instruction, i) for i, (first, last) in enumerate(_pairs(ends))]
    except ValueError as error:
        raise refuse(f"{file} holds no recordings: {error}", possible="(first, last) frames", todo=_RESTORE) from error


def _read_scenes(file: Path, needed: bool) -> dict[str, tuple[int, int]]:
    """Scene -> first and last frame; {} for a split without the file, as the published validation split is."""
    if not needed and not file.is_file():
        return {}
    data = read_pickled(file)
    try:
        names = _texts(list(data))
        return dict(zip(names, _pairs(np.array(list(data.values()))), strict=True))
    except (TypeError, AttributeError, ValueError) as error:
        raise refuse(
            f"{file} holds no scenes: {type(error).__name__} {error}",
            possible="{scene: [first frame, last frame]}",
            todo=_RESTORE,
        ) from error


def _texts(values: Any) -> list[str]:
    """A list or array of sentences; refuses empty and other ones by ValueError."""
    texts = values.tolist() if isinstance(values, np.ndarray) else list(values)
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"text {i} is {text!r:.60}")
    return texts


def _pairs(values: npt.NDArray[Any]) -> list[tuple[int, int]]:
    """(N, 2) whole numbers as first and last frames."""
    if values.dtype.kind not in "iu" or values.ndim != 2 or values.shape[1] != 2:
        raise ValueError(f"frames of shape {values.shape} {values.dtype}")
    pairs = [(int(first), int(last)) for first, last in values]
    for first, last in pairs:
        if not 0 <= first <= last < layout.FRAMES:
            raise ValueError(f"frames {first} to {last}")
    return pairs
