"""The folder of a prepared TFDS data set: features.json, dataset_info.json, TFRecord shards; without TensorFlow.

Sources: ``tensorflow_datasets/core/features/*.py`` (JSON of the features; a nested data set's values are concatenated
over its steps under names joined by ``/``) and ``core/naming.py`` (names of shards) of tensorflow/datasets.
"""

import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image

from vlm4vla.data.formats import tfrecord
from vlm4vla.data.formats.tf_example import Example
from vlm4vla.data.pictures import EncodedFrames, decode_any
from vlm4vla.types import Image, UserError, refuse

FEATURES = "features.json"
INFO = "dataset_info.json"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # TFDS's own default
_MEND = "Give the version folder of a prepared TFDS data set, such as bridge_dataset/1.0.0, with all of its files."
_INTEGERS = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "int64")
_FLOATS = ("float16", "float32", "float64")  # all of them are stored as float32


@dataclass(frozen=True)
class Feature:
    """One value of a step or of an episode. ``kind``: "tensor", "image", "text", or the name of TFDS's class.

    ``shape`` and ``dtype`` are as features.json has them; -1 in a shape is a size that differs between values.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    encoding: str


class Folder:
    """One split of a data set: its features, and its records by number."""

    def __init__(self, root: Path, split: str) -> None:
        self.root, self.split = root, split
        self.features = {f.name: f for f in _features(_json(root / FEATURES), "")}
        info = _json(root / INFO)
        self.shards, self.lengths = _shards(root, info, split)
        self._starts = np.concatenate(([0], np.cumsum(self.lengths)))
        self._index: dict[int, npt.NDArray[np.int64]] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def place(self, number: int) -> tuple[int, int]:
        """Shard and record within it."""
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        return shard, number - int(self._starts[shard])

    def example(self, number: int) -> Example:
        """A record, read whole and with its checksum compared."""
        shard, record = self.place(number)
        offset, length = self.records(shard)[record].tolist()
        return Example(tfrecord.read(self.shards[shard], offset, length), self.shards[shard], offset)

    def records(self, shard: int) -> npt.NDArray[np.int64]:
        """Offset and length of a shard's records; refuses a shard that holds more or fewer than dataset_info says."""
        if shard not in self._index:
            found = tfrecord.index(self.shards[shard])
            if len(found) != self.lengths[shard]:
                raise refuse(
                    f"{self.shards[shard]} holds {len(found)} records ({self.shards[shard].stat().st_size} bytes), "
                    f"{INFO} says {self.lengths[shard]}",
                    possible="shards and a dataset_info.json of the same version",
                    todo="Fetch the data set again.",
                )
            self._index[shard] = found
        return self._index[shard]

    def feature(self, name: str, kinds: tuple[str, ...]) -> Feature:
        """A feature by name; refuses an unknown one, and one of another kind."""
        if name not in self.features:
            raise refuse(f"{self.root} has no feature {name!r}", given=name, possible=self.features, todo=_MEND)
        feature = self.features[name]
        if feature.kind not in kinds or feature.encoding not in ("none", "jpeg", "png"):
            raise refuse(
                f"The feature {name!r} of {self.root} is {feature.kind} (encoding {feature.encoding})",
                possible=f"{' or '.join(kinds)}, not compressed",
                todo="Choose another variant or camera, or convert the data set.",
            )
        return feature


def numbers(example: Example, feature: Feature) -> npt.NDArray[Any]:
    """The values of a tensor as (steps, *shape) in its own dtype; refuses values that do not fill whole steps."""
    values = _values(example, feature)
    whole = feature.dtype in _INTEGERS
    if isinstance(values, list) or not (whole or feature.dtype in _FLOATS) or (values.dtype == np.int64) != whole:
        stored = "strings" if isinstance(values, list) else str(values.dtype)
        raise _wrong(example, feature, f"holds {stored}, {FEATURES} says {feature.dtype}")
    size = math.prod(feature.shape)
    if min(feature.shape, default=1) < 1 or len(values) % size:
        raise _wrong(example, feature, f"holds {len(values)} numbers, {FEATURES} says shape {list(feature.shape)}")
    dtype = np.dtype(feature.dtype)
    if whole and len(values):
        low, high = (0, 1) if dtype == np.bool_ else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        if not low <= values.min() <= values.max() <= high:
            raise _wrong(example, feature, f"holds {values.min()} to {values.max()}, {FEATURES} says {feature.dtype}")
    return values.reshape(-1, *feature.shape).astype(dtype)


def strings(example: Example, feature: Feature) -> list[bytes]:
    """The values of a text or image feature: bytes, one per step."""
    values = _values(example, feature)
    if not isinstance(values, list):
        raise _wrong(example, feature, f"holds {values.dtype} numbers, {FEATURES} says {feature.kind}")
    return values


def texts(example: Example, feature: Feature) -> list[str]:
    try:
        return [value.decode() for value in strings(example, feature)]
    except UnicodeDecodeError:
        raise _wrong(example, feature, "is not UTF-8 text") from None


class Pictures(EncodedFrames):
    """The pictures of one record; one that cannot be decoded is refused with its place."""

    def __init__(self, encoded: list[bytes], where: str, first: int = 0) -> None:
        super().__init__(encoded)
        self._where, self._first = where, first

    def __getitem__(self, index: int, /) -> Image:
        try:
            return decode_any(self.encoded[index])
        except UserError as error:
            raise _undecodable(self._where, self._first + index % len(self), error) from error

    def __iter__(self) -> Iterator[Image]:
        return (self[i] for i in range(len(self)))

    def part(self, steps: slice) -> "Pictures":
        """The pictures of some steps in a row."""
        return Pictures(list(self.encoded[steps]), self._where, self._first + (steps.start or 0))


def pictures(example: Example, feature: Feature) -> Pictures:
    """Refuses what is no JPEG or PNG picture of the size that features.json says (headers are read, no pixels)."""
    where = f"{feature.name} in the record at byte {example.offset} of {example.file}"
    encoded = strings(example, feature)
    said = " x ".join(map(str, feature.shape))
    for number, data in enumerate(encoded):
        try:
            with PIL.Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as picture:
                height, width = picture.height, picture.width
        except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            raise _undecodable(where, number, error) from error
        if (height, width) != feature.shape[:2]:
            raise _wrong(example, feature, f"holds a picture {number} of {height} x {width}, {FEATURES} says {said}")
    return Pictures(encoded, where)


def _undecodable(where: str, number: int, error: Exception) -> UserError:
    return refuse(
        f"Picture {number} of {where} cannot be decoded: {error}",
        possible="JPEG or PNG",
        todo="Fetch the file again, or ask whoever wrote it.",
    )


def _values(example: Example, feature: Feature) -> list[bytes] | npt.NDArray[Any]:
    if feature.name not in example:
        raise _wrong(example, feature, f"is absent, {FEATURES} has it")
    return example[feature.name]


def _wrong(example: Example, feature: Feature, what: str) -> UserError:
    return refuse(
        f"{example.file}: in the record at byte {example.offset}, {feature.name} {what}",
        possible=f"records that agree with {FEATURES}",
        todo=f"Use the {FEATURES} that was written together with the shards.",
    )


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise refuse(f"{file} is missing", possible=f"a folder with {FEATURES}, {INFO} and shards", todo=_MEND)
    try:
        data = json.loads(file.read_text())
    except ValueError as error:
        raise refuse(f"{file} is not valid JSON: {error}", todo=_MEND) from None
    if not isinstance(data, dict):
        raise refuse(f"{file} is a {type(data).__name__}", possible="a JSON object", todo=_MEND)
    return data


def _features(node: Mapping[str, Any], name: str) -> Iterator[Feature]:
    """All features below a node of features.json, with their names joined by ``/``."""
    try:
        kind = str(node["pythonClassName"]).rpartition(".")[2]
        if "featuresDict" in node:
            for key, below in node["featuresDict"]["features"].items():
                yield from _features(below, f"{name}/{key}" if name else key)
        elif kind == "Dataset":
            yield from _features(node["sequence"]["feature"], name)
        elif "text" in node:
            yield Feature(name, "text", (), "string", "none")
        elif "tensor" in node or "image" in node:
            part = node.get("tensor") or node["image"]
            shape = tuple(int(size) for size in part["shape"].get("dimensions", ()))
            encoding = part["encoding"] if "tensor" in node else part.get("encodingFormat", "none")
            yield Feature(name, "tensor" if "tensor" in node else "image", shape, str(part["dtype"]), encoding)
        else:
            yield Feature(name, kind, (), "", "none")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise refuse(
            f"{FEATURES} cannot be understood at {name or 'its top'!r}: {type(error).__name__} {error}",
            possible="nested features, each with pythonClassName and featuresDict, tensor, image or text",
            todo=_MEND,
        ) from None


def _shards(root: Path, info: Mapping[str, Any], split: str) -> tuple[tuple[Path, ...], tuple[int, ...]]:
    """The files of a split, and how many records each has; refuses missing shards, and others of the same split."""
    try:
        splits = {str(s["name"]): s for s in info["splits"]}
        name, form = str(info["name"]), str(info.get("fileFormat", "tfrecord"))
        if split in splits:
            lengths = tuple(int(n) for n in splits[split]["shardLengths"])
            template = str(splits[split].get("filepathTemplate", _TEMPLATE))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise refuse(
            f"{root / INFO} cannot be understood: {type(error).__name__} {error}",
            possible="name, and splits with name and shardLengths",
            todo=_MEND,
        ) from None
    if split not in splits:
        raise refuse(f"{root} has no split {split!r}", given=split, possible=splits, todo="Name one of these splits.")
    if (
        form != "tfrecord"
        or template != _TEMPLATE
        or re.search(r"[^\w.+-]", name + split)
        or min(lengths, default=0) < 0
    ):
        raise refuse(
            f"{root / INFO} describes shards of format {form!r}, named {template!r} with {name!r} and {split!r}",
            possible=f"TFRecord files named {_TEMPLATE!r}",
            todo=_MEND,
        )
    names = [f"{name}-{split}.{form}-{k:05d}-of-{len(lengths):05d}" for k in range(len(lengths))]
    present = {f.name for f in root.glob(f"{name}-{split}.{form}*")}
    for what, differing in (("is missing", set(names) - present), ("is none of its shards", present - set(names))):
        if differing:
            first = sorted(differing)[0]
            raise refuse(
                f"{root / first} {what} ({len(differing)} such file{'s' * (len(differing) > 1)})",
                possible=f"{len(names)} shards of the split {split!r}, as {INFO} says",
                todo="Fetch the data set again into an empty folder.",
            )
    return tuple(root / n for n in names), lengths
