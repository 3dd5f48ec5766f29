"""Takes a pickle of plain containers and numpy arrays apart without executing anything of it.

``np.save`` stores a dict as a pickle, and a pickle is a program. Here it meets the standard unpickler with everything
dangerous taken out:

* the instructions are an allow-list, and no length or memo index exceeds the file (checked before a thing is built);
* the few names that numpy itself writes stand for functions of this file, which check shapes, types and lengths and
  call nothing else: numpy's own reconstruction (``dtype.__setstate__`` believes any itemsize, ``_reconstruct`` makes
  arrays of any size) is never reached. Any other name, and every persistent id, is refused.

What is built is no larger than the file: arrays of numbers share its bytes, and a budget of a few times its length
holds down what a short stream could repeat (texts, objects, bytes that are named many times over).
"""

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm4vla.types import UserError, refuse

Shape = tuple[int, ...]
_CORES = ("core", "_core")  # numpy 1 and 2
_FAULTS = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OverflowError,
    RecursionError,
)


def load(file: Path, data: bytes) -> Any:
    """The content of a pickle of protocol 2 to 4 as plain dicts, lists, tuples, texts, numbers and arrays (read-only).

    ``file`` names it in refusals. Refuses whatever is anything else, or spoilt.
    """
    _check_opcodes(file, data)
    budget = _Budget(file, len(data))
    try:
        return _Plain(file, budget).of(_Unpickler(file, data, budget).load())
    except UserError:
        raise
    except _FAULTS as error:
        raise _refused(file, f"cannot be read ({type(error).__name__}: {error})") from error


# What protocols 2 to 4 need for plain containers and numpy arrays. Not among them: persistent ids, the registry of
# extensions, objects by class (INST, OBJ, NEWOBJ), buffers (they allocate what they declare) and the text protocol 0.
_OPCODES = frozenset(
    {"PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE"}
    | {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"}
    | {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
    | {"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"}
    | {"EMPTY_DICT", "SETITEM", "SETITEMS", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
    | {"GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"}
)


def _check_opcodes(file: Path, data: bytes) -> None:
    """Refuse a stream that the unpickler must not see: ``genops`` reads it without building anything."""
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("PERSID", "BINPERSID"):
                raise _refused(file, "refers to an object outside of itself (a persistent id)")
            if opcode.name not in _OPCODES:
                raise _refused(file, f"uses the pickle instruction {opcode.name}")
            if opcode.name == "LONG_BINPUT" and isinstance(argument, int) and argument > len(data):
                raise _refused(file, f"asks for a memo of {argument} entries")
    except UserError:
        raise
    except ValueError as error:
        raise _refused(file, f"is cut or spoilt ({error})") from error


class _Budget:
    """What may be copied out of one file: its bytes as texts, once more as objects, and the same in reserve."""

    def __init__(self, file: Path, size: int) -> None:
        self._file, self._left = file, 4 * size

    def spend(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise _refused(self._file, "unfolds into more than it holds")


class _Refusing:
    """A thing on the unpickler's stack that no instruction of the stream can change."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("an object that has no state is given one")


class _Function(_Refusing):
    """One of numpy's names: calls a function of this file."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)


class _ArrayType(_Refusing):
    """Stands for the class ``numpy.ndarray``, which numpy hands to its ``_reconstruct``."""

    __slots__ = ()


class _Type:
    """Stands for a dtype: a plain number, text or object type whose byte order comes with its state."""

    __slots__ = ("code", "order")
    _CODE = re.compile(r"(b1|[iu][1248]|f[248]|[US][1-9][0-9]{0,5}|O8?)", re.ASCII)

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or self._CODE.fullmatch(code) is None:
            raise pickle.UnpicklingError(f"array type {code!r:.60}")
        self.code, self.order = code, "|"

    def __setstate__(self, state: Any) -> None:
        _version, order, subarray, names, fields = state[:5]
        if order not in ("<", ">", "|", "=") or (subarray, names, fields) != (None, None, None):
            raise pickle.UnpicklingError("an array type with fields")
        self.order = order

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(object) if self.code[0] == "O" else np.dtype(self.order + self.code)


class _Array:
    """Stands for an array: its state says the ``items`` of an object array, or the ``values``."""

    __slots__ = ("items", "shape", "values")

    def __init__(self) -> None:
        self.shape: Shape = ()
        self.items: list[Any] | None = None
        self.values: npt.NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, fortran, raw = state
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 8:
            raise pickle.UnpicklingError(f"array shape {shape!r:.60}")
        if not isinstance(kind, _Type):
            raise pickle.UnpicklingError("an array without a type")
        dtype, count = kind.dtype, math.prod(shape)
        self.shape = shape
        if dtype.hasobject:
            if type(raw) is not list or len(raw) != count:
                raise pickle.UnpicklingError(f"an object array of shape {shape} without its {count} objects")
            self.items = raw
        elif type(raw) is not bytes or len(raw) != count * dtype.itemsize:
            raise pickle.UnpicklingError(f"an array of shape {shape} {dtype} without its data")
        else:
            self.values = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran is True else "C")


def _reconstruct(kind: Any, shape: Any, _code: Any) -> _Array:
    if not isinstance(kind, _ArrayType) or shape != (0,):
        raise pickle.UnpicklingError("an array of another class")
    return _Array()


def _scalar(budget: _Budget, kind: Any, raw: Any) -> Any:
    if not isinstance(kind, _Type) or kind.dtype.hasobject or type(raw) is not bytes:
        raise pickle.UnpicklingError("a number without its bytes")
    if len(raw) != kind.dtype.itemsize:
        raise pickle.UnpicklingError(f"a number of {len(raw)} bytes")
    budget.spend(len(raw))
    return _checked(np.frombuffer(raw, kind.dtype))[0].item()


def _checked(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``values``, if they are numbers or sound text: numpy's conversion of spoilt text is not to be relied on."""
    if values.dtype.kind == "U":
        codec = "utf-32-be" if values.dtype.str[0] == ">" else "utf-32-le"
        values.tobytes().decode(codec)  # raises
    return values


def _encode(budget: _Budget, text: Any, codec: Any) -> bytes:
    if type(text) is not str or codec not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes by codec {codec!r:.60}")
    budget.spend(len(text))
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    return b""


# Bytes are a call of _codecs.encode in protocol 2, and empty ones a call of bytes.
_NAMES: dict[tuple[str, str], Callable[[_Budget], _Refusing]] = {
    ("numpy", "ndarray"): lambda _: _ArrayType(),
    ("numpy", "dtype"): lambda _: _Function(_Type),
    ("_codecs", "encode"): lambda budget: _Function(partial(_encode, budget)),
    ("__builtin__", "bytes"): lambda _: _Function(_no_bytes),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): lambda _: _Function(_reconstruct) for core in _CORES},
    **{(f"numpy.{core}.multiarray", "scalar"): lambda b: _Function(partial(_scalar, b)) for core in _CORES},
}


class _Unpickler(pickle.Unpickler):
    """Knows numpy's names and no other."""

    def __init__(self, file: Path, data: bytes, budget: _Budget) -> None:
        super().__init__(io.BytesIO(data), fix_imports=False)
        self._file, self._budget = file, budget

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise _refused(self._file, f"wants to run {f'{module}.{name}'[:100]!r}")
        return _NAMES[module, name](self._budget)

    def persistent_load(self, _pid: Any) -> Any:
        raise _refused(self._file, "refers to an object outside of itself (a persistent id)")


class _Plain:
    """Replaces the stand-ins by arrays. Containers are visited once each, however often they are named."""

    def __init__(self, file: Path, budget: _Budget) -> None:
        self._file, self._budget = file, budget
        self._seen: dict[int, tuple[Any, Any]] = {}  # id -> the object itself (kept alive) and what became of it

    def of(self, value: Any) -> Any:
        if value is None or type(value) in (bool, int, float, bytes):
            return value
        if id(value) in self._seen:
            return self._seen[id(value)][1]
        result: Any
        if type(value) is str:
            value.encode()  # raises for halves of characters, which no file or terminal takes
            result = self._keep(value, value)
        elif type(value) is list:
            result = self._keep(value, [])
            result.extend([self.of(v) for v in value])
        elif type(value) is dict:
            result = self._keep(value, {})
            result.update({self.of(k): self.of(v) for k, v in value.items()})
        elif type(value) is tuple:
            result = self._keep(value, tuple(self.of(v) for v in value))
        elif isinstance(value, _Array):
            result = self._keep(value, self._array(value))
        else:
            raise _refused(self._file, f"holds {'a function' if isinstance(value, _Refusing) else 'a bare type'}")
        return result

    def _keep(self, value: Any, result: Any) -> Any:
        self._seen[id(value)] = (value, result)
        return result

    def _array(self, array: _Array) -> npt.NDArray[Any]:
        if array.values is not None:
            if array.values.dtype.kind == "U":
                self._budget.spend(array.values.nbytes)
            return _checked(array.values)
        if array.items is None:
            raise _refused(self._file, "holds an array without content")
        self._budget.spend(len(array.items))
        out = np.empty(len(array.items), dtype=object)
        for i, item in enumerate(array.items):
            out[i] = self.of(item)
        return out.reshape(array.shape)


def _refused(file: Path, what: str) -> UserError:
    return refuse(
        f"{file} {what}; nothing of it was executed",
        possible="plain dicts, lists, tuples, texts, numbers and numpy arrays of numbers or texts",
        todo="Fetch the file again from where the data set comes from; do not let numpy unpickle it.",
    )
