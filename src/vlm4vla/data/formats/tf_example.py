"""``tf.train.Example`` messages, read straight from their bytes: no TensorFlow, no generated protobuf code.

Example{1: Features}, Features{1: map entry}*, entry{1: key, 2: Feature}, Feature{1: BytesList | 2: FloatList |
3: Int64List}, each list{1: value}*; numbers packed or not. Sources: ``tensorflow/core/example/{example,feature}.proto``
of tensorflow/tensorflow, and the protobuf encoding guide (protobuf.dev/programming-guides/encoding).

Stricter than protobuf where it would have to choose: a key, or a kind of list, that comes twice is refused.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from vlm4vla.types import refuse

Value = list[bytes] | npt.NDArray[np.float32] | npt.NDArray[np.int64]
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3  # field numbers in Feature
_LONGEST_VARINT = 10


class _Malformed(Exception):
    """Bytes that are no such message; ``at`` is their place in the buffer."""

    def __init__(self, at: int, what: str) -> None:
        super().__init__(what)
        self.at, self.what = at, what


class _Field(NamedTuple):
    number: int
    wire: int
    start: int  # of the payload
    stop: int


class Example(Mapping[str, Value]):
    """The features of one serialised Example by name; each is decoded when it is asked for.

    A value is a list of bytes, or a (n,) array of float32 or int64; a feature without any list is an empty list of
    bytes. ``file`` and ``offset`` (of ``data`` in it) say where the bytes came from: malformed ones are refused with
    both.
    """

    def __init__(self, data: bytes | memoryview, file: Path, offset: int = 0) -> None:
        self._data, self.file, self.offset = data, file, offset
        try:
            self._places = _places(data)
        except _Malformed as error:
            self._refuse(error, "it is no tf.train.Example")

    def __getitem__(self, name: str) -> Value:
        start, stop = self._places[name]
        try:
            return _value(self._data, start, stop)
        except _Malformed as error:
            self._refuse(error, f"its feature {name!r} is malformed")

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _refuse(self, error: _Malformed, what: str) -> NoReturn:
        raise refuse(
            f"{self.file}: the record at byte {self.offset} cannot be read: {what} (byte {self.offset + error.at}: "
            f"{error.what})",
            possible="records that are tf.train.Example messages",
            todo="Fetch the file again, or ask whoever wrote it.",
        ) from error


def _places(data: bytes | memoryview) -> dict[str, tuple[int, int]]:
    """Name -> where its Feature message lies."""
    found: dict[str, tuple[int, int]] = {}
    for features in _messages(data, 0, len(data), 1):
        for entry in _messages(data, features.start, features.stop, 1):
            key, at, stop = b"", entry.stop, entry.stop  # what is absent is empty
            for field in _fields(data, entry.start, entry.stop):
                if field.number in (1, 2) and field.wire != _BYTES:
                    raise _Malformed(field.start, f"wire type {field.wire} in a map entry")
                if field.number == 1:
                    key = bytes(data[field.start : field.stop])
                elif field.number == 2:
                    at, stop = field.start, field.stop
            try:
                name = key.decode()
            except UnicodeDecodeError:
                raise _Malformed(entry.start, "a name that is not UTF-8") from None
            if name in found:
                raise _Malformed(entry.start, f"the feature {name!r} comes twice")
            found[name] = at, stop
    return found


def _value(data: bytes | memoryview, start: int, stop: int) -> Value:
    lists = [f for f in _fields(data, start, stop) if f.number in (_BYTES_LIST, _FLOAT_LIST, _INT64_LIST)]
    if len(lists) > 1:
        raise _Malformed(lists[1].start, "a second list of values in one feature")
    if not lists:
        return []
    if lists[0].wire != _BYTES:
        raise _Malformed(lists[0].start, f"a list of wire type {lists[0].wire}")
    kind = lists[0].number
    values = [f for f in _fields(data, lists[0].start, lists[0].stop) if f.number == 1]
    if kind == _BYTES_LIST:
        for field in values:
            if field.wire != _BYTES:
                raise _Malformed(field.start, f"bytes of wire type {field.wire}")
        return [bytes(data[f.start : f.stop]) for f in values]
    if kind == _FLOAT_LIST:
        return np.concatenate([np.zeros(0, np.float32), *(_floats(data, field) for field in values)])
    return np.concatenate([np.zeros(0, np.int64), *(_int64s(data, field) for field in values)])


def _floats(data: bytes | memoryview, field: _Field) -> npt.NDArray[np.float32]:
    size = field.stop - field.start
    if field.wire not in (_BYTES, _FIXED32) or size % 4:
        raise _Malformed(field.start, f"floats of wire type {field.wire} in {size} bytes")
    return np.frombuffer(bytes(data[field.start : field.stop]), "<f4").astype(np.float32)


def _int64s(data: bytes | memoryview, field: _Field) -> npt.NDArray[np.int64]:
    """Varints: 7 bits a byte, lowest first, the high bit set on all bytes but the last; modulo 2^64 as in protobuf."""
    if field.wire not in (_BYTES, _VARINT):
        raise _Malformed(field.start, f"integers of wire type {field.wire}")
    given = np.frombuffer(bytes(data[field.start : field.stop]), np.uint8)
    last = np.flatnonzero(given < 0x80)
    if len(given) and (not len(last) or last[-1] != len(given) - 1):
        raise _Malformed(field.stop, "an integer that does not end")
    if not len(given):
        return np.zeros(0, np.int64)
    first = np.concatenate(([0], last[:-1] + 1))
    sizes = last - first + 1
    if sizes.max() > _LONGEST_VARINT:
        raise _Malformed(field.start + int(first[sizes.argmax()]), "an integer of more than 10 bytes")
    shifts = 7 * (np.arange(len(given)) - np.repeat(first, sizes))
    bits = (given & 0x7F).astype(np.uint64) << shifts.astype(np.uint64)
    return np.add.reduceat(bits, first).astype(np.uint64).view(np.int64)


def _messages(data: bytes | memoryview, start: int, stop: int, number: int) -> Iterator[_Field]:
    """The fields of one number, which must be messages."""
    for field in _fields(data, start, stop):
        if field.number == number:
            if field.wire != _BYTES:
                raise _Malformed(field.start, f"wire type {field.wire} instead of a message")
            yield field


def _fields(data: bytes | memoryview, at: int, stop: int) -> Iterator[_Field]:
    """All fields of the message in ``data[at:stop]``; nothing outside these bounds is looked at."""
    while at < stop:
        key, start = _varint(data, at, stop)
        number, wire = key >> 3, key & 7
        if not number:
            raise _Malformed(at, "field number 0")
        if wire == _VARINT:
            _, at = _varint(data, start, stop)
        elif wire == _BYTES:
            size, start = _varint(data, start, stop)
            at = start + size
        elif wire in (_FIXED64, _FIXED32):
            at = start + (8 if wire == _FIXED64 else 4)
        else:
            raise _Malformed(at, f"wire type {wire}")
        if at > stop:
            raise _Malformed(start, f"a field of {at - start} bytes where {max(stop - start, 0)} are left")
        yield _Field(number, wire, start, at)


def _varint(data: bytes | memoryview, at: int, stop: int) -> tuple[int, int]:
    """The integer at ``at``, and where it ends."""
    value = 0
    for k in range(_LONGEST_VARINT):
        if at + k >= stop:
            raise _Malformed(at, "an integer that does not end")
        byte = data[at + k]
        value |= (byte & 0x7F) << (7 * k)
        if byte < 0x80:
            return value, at + k + 1
    raise _Malformed(at, "an integer of more than 10 bytes")
