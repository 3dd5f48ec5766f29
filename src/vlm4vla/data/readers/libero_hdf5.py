"""Reads LIBERO's demonstration files (HDF5, one per task), the official ones and those of OpenVLA's script.

The layout, the turned pictures and the gripper sense: see ``data.libero_layout``.
"""

import hashlib
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from vlm4vla.data.base import RawEpisode, check_episode
from vlm4vla.data.formats import libero_layout as layout
from vlm4vla.data.readers import _hdf5 as hdf5
from vlm4vla.data.readers._digest import digest
from vlm4vla.types import CameraSpec, Image, refuse

_WHAT_TO_DO = "Give a folder of LIBERO's TASK_demo.hdf5 files, or one such file."
_INSTRUCTIONS = ("file_name", "attribute")
_NO_MOTION = 1e-4
_MAX_SIDE = 4096  # pixels


class Reader:
    """The demonstrations in ``root``: a folder of ``*_demo.hdf5`` (in order of names) or one file.

    Pictures come out upright (turned by 180 degrees) and grippers as +1 open, -1 closed. Options:

    * ``cameras``: "agentview", "eye_in_hand" or both with a comma;
    * ``state``: obs vectors with commas, or "none"; the default is what OpenVLA and openpi use;
    * ``drop_noops``: leave out rows by the rule of openvla's regenerate_libero_dataset.py: the first six numbers have
      a norm below 1e-4 and the gripper number is that of the last row kept (of the first row only the norm counts).
      That script plays the shortened actions again in the simulator; here pictures and states stay as recorded.
      ``info["dropped_noops"]`` counts them;
    * ``align``: pair action t with the picture and state of row t - 1 and leave the first row out: official files hold
      what was seen after the action, and the picture before it is what a policy acts on. Not for regenerated files;
    * ``instruction``: "file_name", the words of the file's name after the part that holds SCENE, as OpenVLA's RLDS
      builder takes them, or "attribute", the sentence in the file (of the BDDL file; regenerated files have none).
      Evaluations, published ones and ours, tell a policy the former; the two differ in all tasks of libero_spatial,
      libero_object and libero_goal and in four of libero_90. The default is what evaluations tell: "file_name", but
      "attribute" for files of our own writer, where the sentence is the benchmark's. Where the other one was chosen
      and differs, ``info["evaluated_as"]`` is that of evaluations, of which ``data check`` warns.
    """

    action_spec = layout.SPEC

    def __init__(
        self,
        root: Path,
        *,
        cameras: str = "agentview",
        state: str = "ee_states,gripper_states",
        drop_noops: bool = False,
        align: bool = False,
        instruction: str | None = None,
    ) -> None:
        self.root = Path(root)
        if instruction not in (None, *_INSTRUCTIONS):
            raise refuse(
                f"Unknown instruction {instruction!r}",
                given=instruction,
                possible=_INSTRUCTIONS,
                todo="Choose one of these, or leave it out.",
            )
        names = _words("cameras", cameras, list(layout.CAMERAS))
        self._vectors = _words("state", state, list(layout.VECTORS)) if state != "none" else ()
        self.state_names = layout.state_names(self._vectors)
        self._files = _files(self.root)
        self._demos: list[tuple[Path, int]] = []
        sizes: dict[Path, tuple[CameraSpec, ...]] = {}
        own: list[bool] = []
        for file in self._files:
            with hdf5.opened(file) as f:
                demos = _demos(f)
                sizes[file] = tuple(_camera(_obs(f, demos[0]), name) for name in names)
                own.append(layout.ATTRIBUTE in hdf5.group(f, "data").attrs)
            self._demos += [(file, number) for number in demos]
        self._drop, self._align = drop_noops, align
        self._evaluated = "attribute" if all(own) else "file_name"
        self._instruction = instruction or self._evaluated
        self._options: dict[str, Any] = {
            "cameras": cameras,
            "state": state,
            "drop_noops": drop_noops,
            "align": align,
            "instruction": self._instruction,
        }
        self.cameras = sizes[self._files[0]]
        for file, found in sizes.items():
            if found != self.cameras:
                raise refuse(
                    f"The pictures of {file} are {found}, those of {self._files[0]} {self.cameras}",
                    possible="pictures of one size",
                    todo="Read the files one by one, or render them anew at one size.",
                )

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return partial(type(self), **self._options), (self.root,)

    def __len__(self) -> int:
        return len(self._demos)

    def episode(self, index: int) -> RawEpisode:
        """Demonstration ``index``: by file name, then by number; pictures are read when they are looked at."""
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        file, number = self._demos[index]
        with hdf5.opened(file) as f:
            data = hdf5.group(f, "data")
            demo, obs = hdf5.group(data, f"demo_{number}"), _obs(f, number)
            raw = np.asarray(hdf5.numbers(demo, "actions", (None, layout.SPEC.size))[()], np.float64)
            states = [hdf5.float32(hdf5.numbers(obs, v, (len(raw), len(layout.VECTORS[v])))) for v in self._vectors]
            for camera in self.cameras:
                _pictures(obs, camera, len(raw))
            text, told = _text(data, file, self._instruction), _text(data, file, self._evaluated)
            own = hdf5.document(demo, layout.ATTRIBUTE)
        if self._align and own is not None:
            raise refuse(
                f"{file} was written by vlm4vla, with what was seen before each action",
                possible="align for official files only",
                todo="Leave the option align out.",
            )
        rows, dropped = self._rows(raw)
        seen = rows - 1 if self._align else rows
        name = file.name.removesuffix(".hdf5").removesuffix("_demo")
        found = own or {"task": name, "source": index, "info": {"file": file.name, "demo": f"demo_{number}"}}
        episode = RawEpisode(
            instruction=text,
            images={c.name: _Pictures(file, number, c, seen, len(raw)) for c in self.cameras},
            actions=self._actions(raw[rows], file, number),
            states=np.concatenate(states, axis=1)[seen] if states else None,
            task=found["task"],
            source=found["source"],
            info=found["info"]
            | ({"dropped_noops": dropped} if self._drop else {})
            | ({"evaluated_as": told} if told != text else {}),
        )
        check_episode(episode, self.action_spec, self.cameras, self.state_names)
        return episode

    def digest(self) -> str:
        """SHA-256 over options, all actions and the files (see ``readers._digest``: large ones by name and size)."""
        actions = hashlib.sha256()
        for file in self._files:
            with hdf5.opened(file) as f:
                for number in _demos(f):
                    demo = hdf5.group(hdf5.group(f, "data"), f"demo_{number}")
                    actions.update(hdf5.float32(hdf5.numbers(demo, "actions", (None, layout.SPEC.size))).tobytes())
        folder = self.root if self.root.is_dir() else self.root.parent
        return digest(folder, [self._options, actions.hexdigest()], (), self._files)

    def _rows(self, raw: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], int]:
        """The rows of ``raw`` (N, 7) that are kept, and how many no-ops are not."""
        rows = np.arange(1 if self._align else 0, len(raw))
        if not self._drop:
            return rows, 0
        kept: list[int] = []
        for row in rows:
            still = np.linalg.norm(raw[row, :-1]) < _NO_MOTION
            if not (still and (not kept or raw[row, -1] == raw[kept[-1], -1])):
                kept.append(int(row))
        return np.array(kept, np.int64), len(rows) - len(kept)

    def _actions(self, raw: npt.NDArray[np.float64], file: Path, number: int) -> npt.NDArray[np.float32]:
        """In the house's gripper sense."""
        grip = np.abs(raw[:, layout.SPEC.gripper])
        if grip.size and grip.max() > 1 + 1e-5:
            raise refuse(
                f"A gripper action of demo_{number} in {file} is {grip.max()}",
                possible="-1 (open) to +1 (closed), as LIBERO has it",
                todo="Restore the file from where it came from.",
            )
        return layout.flipped(raw.astype(np.float32))


class _Pictures:
    """The pictures of some rows of one demonstration, upright; the file is open only while it is read."""

    def __init__(self, file: Path, demo: int, camera: CameraSpec, rows: npt.NDArray[np.int64], length: int) -> None:
        self._file, self._demo, self._camera, self._rows, self._length = file, demo, camera, rows, length

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int, /) -> Image:
        return next(self._read([self._rows[index]]))

    def __iter__(self) -> Iterator[Image]:
        return self._read(self._rows)

    def _read(self, rows: Any) -> Iterator[Image]:
        with hdf5.opened(self._file) as f:
            stored = _pictures(_obs(f, self._demo), self._camera, self._length)
            for row in rows:
                yield layout.turned(stored[int(row)])


def _files(root: Path) -> list[Path]:
    if (root / layout.STAGING).exists():
        raise refuse(
            f"{root} is not finished: it was being written",
            possible="a finished data set",
            todo="Run the command that writes it again: it goes on where it stopped.",
        )
    files = sorted(root.glob(f"*{layout.SUFFIX}")) if root.is_dir() else [root]
    if not files or not all(file.is_file() for file in files):
        raise refuse(f"{root} has no LIBERO demonstrations", possible=f"files *{layout.SUFFIX}", todo=_WHAT_TO_DO)
    return files


def _text(data: h5py.Group, file: Path, instruction: str) -> str:
    """One of ``_INSTRUCTIONS`` of the demonstrations in a file."""
    if instruction == "file_name":
        words = file.name.removesuffix(".hdf5").removesuffix("_demo").split("_")
        scenes = [i for i, word in enumerate(words) if "SCENE" in word]
        return " ".join(words[scenes[-1] + 1 if scenes else 0 :])
    problem = hdf5.document(data, "problem_info") or {}
    said = problem.get("language_instruction")
    if not isinstance(said, str) or not said.strip(' "'):
        raise refuse(
            f"{file} does not say what its task is: problem_info has no language_instruction",
            possible="an official file, or one whose name says it",
            todo="Leave the option instruction out: the name of the file is the instruction then.",
        )
    return said.strip(' "')


def _demos(file: h5py.File) -> list[int]:
    """Sorted numbers of the demonstrations of a file; refuses what its reader would read wrongly."""
    data = hdf5.group(file, "data")
    convention = hdf5.text(data, "macros_image_convention")
    if convention not in (None, "opengl"):
        raise refuse(
            f"The pictures of {file.filename} follow the convention {convention!r}",
            possible="opengl (upside down), which robosuite has by default",
            todo="Render the demonstrations anew with robosuite's macros.IMAGE_CONVENTION = 'opengl'.",
        )
    names = list(data)
    odd = [name for name in names if not re.fullmatch(r"demo_\d{1,9}", name)]
    if odd or not names:
        raise refuse(
            f"{file.filename} holds {', '.join(odd[:3]) or 'nothing'} in its group data",
            possible="demo_0, demo_1, ...",
            todo=_WHAT_TO_DO,
        )
    return sorted(int(name.removeprefix("demo_")) for name in names)


def _obs(file: h5py.File, demo: int) -> h5py.Group:
    return hdf5.group(hdf5.group(hdf5.group(file, "data"), f"demo_{demo}"), "obs")


def _camera(obs: h5py.Group, name: str) -> CameraSpec:
    shape = hdf5.numbers(obs, layout.CAMERAS[name], (None, None, None, 3)).shape
    if not 0 < min(shape[1:3]) <= max(shape[1:3]) <= _MAX_SIDE:
        raise refuse(
            f"The pictures of {obs.file.filename} are {shape[1]} x {shape[2]}",
            possible=f"1 to {_MAX_SIDE} pixels a side",
            todo=_WHAT_TO_DO,
        )
    return CameraSpec(name, int(shape[1]), int(shape[2]))


def _pictures(obs: h5py.Group, camera: CameraSpec, length: int) -> h5py.Dataset:
    """The stored pictures (N, H, W, 3) uint8 of a camera, as they lie in the file."""
    found = hdf5.numbers(obs, layout.CAMERAS[camera.name], (length, camera.height, camera.width, 3))
    if found.dtype != np.uint8:
        raise refuse(
            f"The pictures {found.name} of {obs.file.filename} are {found.dtype}", possible="uint8", todo=_WHAT_TO_DO
        )
    return found


def _words(option: str, text: str, possible: list[str]) -> tuple[str, ...]:
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in possible or words.count(word) > 1:
            raise refuse(
                f"The option {option}={text} names {word!r}" + (" twice" if words.count(word) > 1 else ""),
                given=word,
                possible=possible,
                todo=f"Give {option}= one of these, or several with commas.",
            )
    return tuple(words)
