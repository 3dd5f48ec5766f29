"""TFRecord files: framing, checksums, and an index of offsets, without TensorFlow.

A record is: its length (8 bytes, little-endian), the masked CRC-32C of these 8 bytes (4), the data, the masked CRC-32C
of the data (4). Source: ``tensorflow/core/lib/io/record_writer.h`` (layout) and ``tensorflow/core/lib/hash/crc32c.h``
(the mask: rotate right by 15 bits, add 0xa282ead8) of tensorflow/tensorflow.
"""

import struct
from pathlib import Path

import google_crc32c
import numpy as np
import numpy.typing as npt

from vlm4vla.types import UserError, refuse

_HEADER = struct.Struct("<QI")  # length, masked checksum of the length
_FOOTER = struct.Struct("<I")  # masked checksum of the data
_MASK = 0xA282EAD8


def index(file: Path) -> npt.NDArray[np.int64]:
    """(records, 2) int64: byte offset of each record's data, and its length. Only headers are read.

    Refuses a file with a damaged length, or a record that does not lie wholly inside the file.
    """
    size = file.stat().st_size
    found: list[tuple[int, int]] = []
    at = 0
    with file.open("rb") as f:
        while at < size:
            f.seek(at)
            length = _length(f.read(_HEADER.size), file, at, size)
            found.append((at + _HEADER.size, length))
            at += _HEADER.size + length + _FOOTER.size
    return np.array(found, np.int64).reshape(-1, 2)


def read(file: Path, offset: int, length: int) -> bytes:
    """The data of one record as :func:`index` found it; refuses data whose checksum differs."""
    with file.open("rb") as f:
        f.seek(offset)
        block = f.read(length + _FOOTER.size)
    if len(block) < length + _FOOTER.size:
        raise _damaged(file, offset, f"a record of {length} bytes begins here, but the file ends before it does")
    data = block[:length]
    if _masked(data) != _FOOTER.unpack_from(block, length)[0]:
        raise _damaged(file, offset, f"the checksum of the {length} bytes from here on differs")
    return data


def checksums(file: Path, records: npt.NDArray[np.int64]) -> bytes:
    """The stored checksums of all records' data, one after the other: they name the content without reading it."""
    with file.open("rb") as f:
        parts: list[bytes] = []
        for offset, length in records.tolist():
            f.seek(offset + length)
            parts.append(f.read(_FOOTER.size))
    return b"".join(parts)


def _length(header: bytes, file: Path, at: int, size: int) -> int:
    if len(header) < _HEADER.size:
        raise _damaged(file, at, f"a record begins here, but only {len(header)} bytes of its header are left")
    length, checksum = _HEADER.unpack(header)
    if _masked(header[:8]) != checksum:
        raise _damaged(file, at, "the checksum of a record's length differs")
    left = size - at - _HEADER.size - _FOOTER.size
    if length > left:
        raise _damaged(file, at, f"a record declares {length} bytes, but the file has room for {max(left, 0)}")
    return int(length)


def _masked(data: bytes) -> int:
    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def _damaged(file: Path, offset: int, what: str) -> UserError:
    return refuse(
        f"{file} is damaged or cut at byte {offset}: {what}",
        possible="a whole TFRecord file whose checksums agree",
        todo="Fetch the file again; nothing of it is skipped.",
    )
