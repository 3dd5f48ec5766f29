"""Small made-up TFDS folders, written by code of their own: nothing here is shared with the reader.

Messages are built with the protobuf package; CRC-32C is computed by table.
"""

import io
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from PIL import Image


def _message_class() -> Any:
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, int, int, str]) -> Any:
        made = file.message_type.add(name=name)
        for label, number, kind, repeated, kind_name in fields:
            made.field.add(name=label, number=number, type=kind, label=repeated, type_name=kind_name or None)
        return made

    message("BytesList", ("value", 1, field.TYPE_BYTES, 3, ""))
    message("FloatList", ("value", 1, field.TYPE_FLOAT, 3, ""))
    message("Int64List", ("value", 1, field.TYPE_INT64, 3, ""))
    lists = ("BytesList", "FloatList", "Int64List")
    feature = message("Feature", *((n[:-4].lower(), k, 11, 1, f".t.{n}") for k, n in enumerate(lists, 1)))
    feature.oneof_decl.add(name="kind")
    for one in feature.field:
        one.oneof_index = 0
    features = message("Features", ("feature", 1, 11, 3, ".t.Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=9, label=1)
    entry.field.add(name="value", number=2, type=11, label=1, type_name=".t.Feature")
    message("Example", ("features", 1, 11, 1, ".t.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


Example = _message_class()


def decode(data: bytes) -> dict[str, list[Any]]:
    """The protobuf package's view of a serialised Example: values by name."""
    found = Example.FromString(data).features.feature
    return {
        name: list(getattr(f, f.WhichOneof("kind")).value) if f.WhichOneof("kind") else [] for name, f in found.items()
    }


def encode(features: Mapping[str, Sequence[Any]]) -> bytes:
    example = Example()
    for name, values in features.items():
        feature = example.features.feature[name]
        kind = {bytes: "bytes", float: "float", int: "int64"}[type(values[0]) if len(values) else bytes]
        getattr(feature, kind).value.extend(values)
        getattr(feature, kind).SetInParent()
    return example.SerializeToString(deterministic=True)


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _table()


def masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15) | (crc << 17)) + 0xA282EAD8 & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def picture(seed: int, size: tuple[int, int] = (6, 8), form: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def tensor(dtype: str, *shape: int) -> dict[str, Any]:
    dimensions = {"dimensions": [str(n) for n in shape]} if shape else {}
    return {"pythonClassName": "x.Tensor", "tensor": {"shape": dimensions, "dtype": dtype, "encoding": "none"}}


def image(*shape: int, form: str = "jpeg") -> dict[str, Any]:
    return {
        "pythonClassName": "x.Image",
        "image": {"shape": {"dimensions": [str(n) for n in shape]}, "dtype": "uint8", "encodingFormat": form},
    }


TEXT: dict[str, Any] = {"pythonClassName": "x.Text", "text": {}}


def mapping(**features: Any) -> dict[str, Any]:
    return {"pythonClassName": "x.FeaturesDict", "featuresDict": {"features": features}}


def layout(observation: dict[str, Any], action: dict[str, Any] | None = None) -> dict[str, Any]:
    steps = mapping(
        action=action or tensor("float32", 7),
        is_first=tensor("bool"),
        language_instruction=TEXT,
        observation=mapping(**observation),
    )
    sequence = {"feature": steps, "length": "-1"}
    return mapping(
        steps={"pythonClassName": "x.Dataset", "sequence": sequence}, episode_metadata=mapping(file_path=TEXT)
    )


BRIDGE = {"image_0": image(6, 8, 3), "image_1": image(6, 8, 3), "state": tensor("float32", 7)}
LIBERO = {
    "image": image(6, 8, 3),
    "wrist_image": image(6, 8, 3),
    "state": tensor("float32", 8),
    "joint_state": tensor("float32", 7),
}


def record(number: int, steps: int, observation: Mapping[str, Any], text: str | None = None) -> dict[str, list[Any]]:
    """The features of one random episode; the gripper passes through intermediate openings."""
    random = np.random.default_rng(number)
    actions = random.uniform(-1, 1, (steps, 7)).astype(np.float32)
    actions[:, 6] = random.choice([-1, 1] if "joint_state" in observation else [0, 0.02, 0.3, 0.96, 1], steps)
    said = f"do thing {number % 3}" if text is None else text
    out: dict[str, list[Any]] = {
        "steps/action": actions.ravel().tolist(),
        "steps/is_first": [1] + [0] * (steps - 1),
        "steps/language_instruction": [said.encode()] * steps,
        "episode_metadata/file_path": [f"/data/{number}".encode()],
    }
    for name, feature in observation.items():
        if "image" in feature:
            form = "JPEG" if feature["image"]["encodingFormat"] == "jpeg" else "PNG"
            out[f"steps/observation/{name}"] = [picture(1000 * number + t, form=form) for t in range(steps)]
        else:
            size = int(feature["tensor"]["shape"]["dimensions"][0])
            out[f"steps/observation/{name}"] = random.normal(size=steps * size).astype(np.float32).tolist()
    return out


def write(
    root: Path,
    shards: Sequence[Sequence[Mapping[str, Sequence[Any]]]],
    features: dict[str, Any],
    name: str = "toy",
    split: str = "train",
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "features.json").write_text(json.dumps(features))
    lengths = [str(len(shard)) for shard in shards]
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    described = {"name": split, "shardLengths": lengths, "filepathTemplate": template}
    info = {"name": name, "fileFormat": "tfrecord", "splits": [described], "version": "1.0.0"}
    (root / "dataset_info.json").write_text(json.dumps(info))
    for k, shard in enumerate(shards):
        data = b"".join(frame(encode(features)) for features in shard)
        (root / f"{name}-{split}.tfrecord-{k:05d}-of-{len(shards):05d}").write_bytes(data)
    return root
