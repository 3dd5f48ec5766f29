"""Reads robot data in RLDS form as TFDS prepared it (TFRecord shards), without TensorFlow.

Variants: ``bridge`` (bridge_orig of BridgeData V2, and Octo's debug copy), ``libero`` (OpenVLA's modified_libero_rlds;
its pictures were rotated by 180 degrees when it was written, and are handed on as stored) and ``plain`` (any other one,
with an action spec beside it). What they do is in ``data/formats/rlds_variants.py``.
"""

import hashlib
import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from vlm4vla.data.action_spec import load_spec
from vlm4vla.data.base import RawEpisode, check_episode
from vlm4vla.data.formats import rlds_variants as variants
from vlm4vla.data.formats import tfds, tfrecord
from vlm4vla.data.formats.tf_example import Example
from vlm4vla.data.options import renamed
from vlm4vla.types import ActionSpec, CameraSpec, UserError, refuse

ACTION, STATE, TEXT = "steps/action", "steps/observation/state", "steps/language_instruction"
_OBSERVATION = "steps/observation/"
_Variant = Literal["bridge", "libero", "plain"]
_Unlabeled = Literal["refuse", "skip"]
_PRIMARY = ("image_0", "image")
_WHOLE = 1 << 30  # bytes of shards up to which the digest reads all of them


class Reader:
    """One split of the data set in ``root``, the folder that holds features.json.

    ``variant`` says what the numbers mean; nothing in the files does. ``cameras``: names of observation images, comma
    separated, ``STORED=NAME`` to rename one; without it the primary one. ``spec``: a YAML/JSON file of an action spec,
    for the variant plain.
    ``relabel``: Bridge actions from the reached states; False keeps the recorded movements. ``unlabeled``: what
    becomes of episodes without an instruction: "refuse" stops there, "skip" leaves them out. Each episode's ``info``
    names its shard and record, and says how many episodes were left out; ``source`` counts all of them.
    """

    def __init__(
        self,
        root: Path,
        *,
        variant: _Variant,
        split: str = "train",
        cameras: str | None = None,
        spec: Path | None = None,
        relabel: bool = True,
        unlabeled: _Unlabeled = "refuse",
    ) -> None:
        self.root = Path(root)
        self._options: dict[str, Any] = {
            "variant": variant,
            "split": split,
            "cameras": cameras,
            "spec": spec,
            "relabel": relabel,
            "unlabeled": unlabeled,
        }
        for name, given, possible in (("variant", variant, _Variant), ("unlabeled", unlabeled, _Unlabeled)):
            if given not in get_args(possible):
                raise refuse(
                    f"Unknown {name} {given!r}", given=given, possible=get_args(possible), todo="Choose one of these."
                )
        if not relabel and variant != "bridge":
            raise refuse(
                f"relabel=False was given for the variant {variant!r}, whose actions are the recorded ones anyway",
                possible="relabel with variant bridge",
                todo="Leave it out.",
            )
        self._variant, self._relabel, self._skip = variant, relabel, unlabeled == "skip"
        self._folder = tfds.Folder(self.root, split)
        self._action = self._folder.feature(ACTION, ("tensor",))
        self._text = self._folder.feature(TEXT, ("text", "tensor"))
        self._gripper: tuple[float, float] | None = None
        self.action_spec = self._find_spec(spec)
        self._images = self._find_images(cameras)
        self.cameras = tuple(CameraSpec(name, f.shape[0], f.shape[1]) for name, f in self._images.items())
        self._state, self.state_names = self._find_state()
        self._labeled: npt.NDArray[np.int64] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # the found episodes travel along: finding them reads something of every record
        return _again, (type(self), self.root, self._options), {"_labeled": self._labeled}

    def __len__(self) -> int:
        return len(self._numbers()) if self._skip else len(self._folder)

    @property
    def skipped(self) -> int:
        """How many episodes without instruction are left out."""
        return len(self._folder) - len(self)

    def episode(self, index: int) -> RawEpisode:
        """Episode ``index``; its pictures are decoded when they are looked at."""
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        number = int(self._numbers()[index]) if self._skip else index
        example = self._folder.example(number)
        actions = tfds.numbers(example, self._action)
        states = tfds.numbers(example, self._state) if self._state is not None else None
        pictures = {name: tfds.pictures(example, feature) for name, feature in self._images.items()}
        counts = {ACTION: len(actions), TEXT: len(tfds.strings(example, self._text))}
        counts |= {self._images[name].name: len(found) for name, found in pictures.items()}
        counts |= {STATE: len(states)} if states is not None else {}
        if len(set(counts.values())) != 1:
            told = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise self._bad(example, f"differs in the number of steps: {told}", "one value per step for each feature")
        steps, made = self._steps(actions.astype(np.float32), states, example)
        shard, record = self._folder.place(number)
        instruction = self._instruction(example)
        episode = RawEpisode(
            instruction=instruction,
            images={name: found.part(steps) for name, found in pictures.items()},
            actions=made,
            states=states[steps].astype(np.float32) if states is not None else None,
            task=instruction,
            source=number,
            info={"shard": self._folder.shards[shard].name, "record": record, "skipped_unlabeled": self.skipped},
        )
        check_episode(episode, self.action_spec, self.cameras, self.state_names)
        return episode

    def digest(self) -> str:
        """SHA-256 over both JSON files, the options, and the shards of the split: their bytes up to 1 GiB in all.

        Beyond, their names, sizes, and the length and stored CRC-32C of every record: reading an episode compares the
        data with the latter, so other data would be another digest or a refusal.
        """
        own = {k: v for k, v in self._options.items() if k != "spec"} | {"action_spec": self.action_spec.to_dict()}
        whole = hashlib.sha256(json.dumps([own, self._gripper], sort_keys=True).encode())
        for name in (tfds.FEATURES, tfds.INFO):
            whole.update((self.root / name).read_bytes())
        small = sum(file.stat().st_size for file in self._folder.shards) <= _WHOLE
        for number, file in enumerate(self._folder.shards):
            whole.update(f"\n{file.name} {file.stat().st_size}\n".encode())
            if small:
                with file.open("rb") as f:
                    whole.update(hashlib.file_digest(f, "sha256").digest())
            else:
                records = self._folder.records(number)
                whole.update(records.tobytes() + tfrecord.checksums(file, records))
        return whole.hexdigest()

    def _find_spec(self, file: Path | None) -> ActionSpec:
        if self._variant != "plain":
            if file is not None:
                raise refuse(
                    f"An action spec was given for the variant {self._variant!r}, which has its own",
                    possible="spec with variant plain",
                    todo="Leave one of the two out.",
                )
            spec = variants.BRIDGE if self._variant == "bridge" else variants.LIBERO
        elif file is None:
            raise refuse(
                f"{self.root} does not say what its action numbers mean",
                possible="the variants bridge and libero, or plain with spec",
                todo="Give spec: a YAML file with units, frames, limits, rotation and control rate.",
            )
        else:
            spec, self._gripper = load_spec(Path(file))
        if self._action.shape != (spec.size,):
            raise refuse(
                f"{ACTION} of {self.root} has shape {list(self._action.shape)}, the action spec {spec.size} numbers",
                possible=f"shape [{spec.size}] for the variant {self._variant!r}",
                todo="Choose the variant or the spec that belongs to the data set.",
            )
        return spec

    def _find_images(self, names: str | None) -> dict[str, tfds.Feature]:
        known = [
            f.name.removeprefix(_OBSERVATION)
            for f in self._folder.features.values()
            if f.kind == "image" and f.name.startswith(_OBSERVATION)
        ]
        primary = [n for n in _PRIMARY if n in known] or (known if len(known) == 1 else [])
        pairs = renamed(names) if names is not None else [(n, None) for n in primary[:1]]
        wanted = [stored for stored, _ in pairs]
        for name in wanted or [""]:
            if name not in known or wanted.count(name) > 1:
                raise refuse(
                    f"{self.root} has no camera {name!r}" if name not in known else f"Camera {name!r} is named twice",
                    given=name,
                    possible=known,
                    todo="Name one or more of these, comma separated.",
                )
        features = [self._folder.feature(_OBSERVATION + stored, ("image",)) for stored in wanted]
        found = {stored if given is None else given: f for (stored, given), f in zip(pairs, features, strict=True)}
        if len(found) < len(pairs) or "" in found:
            raise refuse(
                f"cameras {names!r} gives two cameras one name, or one none",
                possible="STORED=NAME, each name once",
                todo="Choose other names.",
            )
        for feature in found.values():
            if len(feature.shape) != 3 or min(feature.shape) < 1 or feature.shape[2] != 3 or feature.dtype != "uint8":
                raise refuse(
                    f"{feature.name} of {self.root} has shape {list(feature.shape)} of {feature.dtype}",
                    possible="height, width and 3 channels of uint8, equal for all pictures",
                    todo="Choose another camera, or convert the data set.",
                )
        return found

    def _find_state(self) -> tuple[tfds.Feature | None, tuple[str, ...]]:
        if self._variant == "plain" and STATE not in self._folder.features:
            return None, ()
        feature = self._folder.feature(STATE, ("tensor",))
        names = {"bridge": variants.BRIDGE_STATE, "libero": variants.LIBERO_STATE}.get(self._variant)
        if names is None and len(feature.shape) == 1:
            names = tuple(str(i) for i in range(feature.shape[0]))
        if names is None or feature.shape != (len(names),):
            raise refuse(
                f"{STATE} of {self.root} has shape {list(feature.shape)}",
                possible=f"{len(names)} numbers: {', '.join(names)}" if names else "a vector",
                todo="Choose the variant that belongs to the data set.",
            )
        return feature, names

    def _steps(
        self, recorded: variants.Floats, states: npt.NDArray[Any] | None, example: Example
    ) -> tuple[slice, variants.Floats]:
        """The steps of the record that stay, and their actions."""
        if self._variant == "libero":
            return slice(None), variants.libero(recorded)
        if self._variant == "bridge":
            shortest = 3 if self._relabel else 2
            if len(recorded) < shortest or states is None:
                raise self._bad(example, f"has {len(recorded)} steps", f"at least {shortest} steps")
            return slice(1, -1 if self._relabel else None), variants.bridge(recorded, states, self._relabel)
        for g in self.action_spec.gripper:
            if self._gripper is not None:
                opened, closed = self._gripper
                recorded[:, g] = 2 * (recorded[:, g] - closed) / (opened - closed) - 1
            if len(recorded) and np.abs(recorded[:, g]).max() > 1 + 1e-5:
                worst = recorded[np.abs(recorded[:, g]).argmax(), g]
                raise self._bad(example, f"has a gripper action of {worst}", "-1 (closed) to +1 (open) after 'gripper'")
        return slice(None), recorded

    def _instruction(self, example: Example) -> str:
        found = sorted(set(tfds.texts(example, self._text)))
        if len(found) > 1:
            raise self._bad(example, f"changes its instruction: {', '.join(found)}", "one instruction per episode")
        if not found or not found[0].strip():
            raise self._bad(example, "has no instruction", "an instruction, or the option unlabeled=skip")
        return found[0]

    def _numbers(self) -> npt.NDArray[np.int64]:
        """Records with an instruction. Their pictures are not read and their checksums not compared for this."""
        if self._labeled is None:
            self._labeled = np.array([n for n, labeled in enumerate(self._labels()) if labeled], np.int64)
        return self._labeled

    def _labels(self) -> Iterator[bool]:
        for number, file in enumerate(self._folder.shards):
            records = self._folder.records(number).tolist()
            if not records:
                continue  # an empty file cannot be mapped
            with file.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                for offset, length in records:
                    with memoryview(mapped) as view, view[offset : offset + length] as data:
                        found = tfds.texts(Example(data, file, offset), self._text)
                    yield any(text.strip() for text in found)

    def _bad(self, example: Example, what: str, possible: str) -> UserError:
        return refuse(
            f"The episode at byte {example.offset} of {example.file} {what}",
            possible=possible,
            todo="Mend or remove it in the data set; nothing is skipped silently.",
        )


def _again(kind: type[Reader], root: Path, options: dict[str, Any]) -> Reader:
    return kind(root, **options)
