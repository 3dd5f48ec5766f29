"""Reads .npy and .npz files of strangers: nothing in them is executed, and no array is larger than its file says.

Members of an .npz are read only after their header has the shape and type that the caller expects; what ``np.save``
made of a dict, a pickle, goes through :mod:`vlm4vla.safe_pickle`.
"""

import io
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from vlm4vla import safe_pickle
from vlm4vla.types import UserError, refuse

Shape = tuple[int, ...]
_ARCHIVE = "a .npz archive as numpy writes it, cut or altered by nobody"
_MEND = "Fetch the file again from where the data set comes from; do not let numpy unpickle it."
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)


def read_npz(file: Path, wanted: Mapping[str, tuple[Shape, Sequence[str]]]) -> dict[str, npt.NDArray[Any]]:
    """The ``wanted`` arrays (name -> shape and accepted types, "float64" ...) of an .npz file; others stay unread."""
    if not file.is_file():
        raise refuse(f"{file} is missing", possible=_ARCHIVE, todo="Fetch the whole data set.")
    try:
        with zipfile.ZipFile(file) as archive:
            _check_members(file, archive.infolist())
            return {name: _member(file, archive, name, *expected) for name, expected in wanted.items()}
    except UserError:
        raise
    except _BROKEN as error:
        raise refuse(f"{file} cannot be read: {type(error).__name__} {error}", possible=_ARCHIVE, todo=_MEND) from error


def read_npy(file: Path) -> npt.NDArray[Any]:
    """The numbers of an .npy file; object arrays, and arrays that are not as long as their header says, are refused."""
    with _open(file) as f:
        shape, fortran, dtype = _header(f, file.name)
        if dtype.hasobject:
            raise refuse(f"{file} holds pickled objects", possible="an array of numbers", todo=_MEND)
        data = f.read()
    if len(data) != math.prod(shape) * dtype.itemsize or dtype.itemsize == 0:
        raise refuse(f"{file} has {len(data)} bytes for shape {shape} {dtype}", possible="a whole file", todo=_MEND)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def read_pickled(file: Path) -> Any:
    """What ``np.save(file, object)`` stored, as plain dicts, lists, tuples, texts, numbers and arrays.

    Arrays of numbers are read-only. Protocols 2 to 4 are read, which numpy has written since Python 3.
    """
    with _open(file) as f:
        shape, _, dtype = _header(f, file.name)
        if not dtype.hasobject:
            raise refuse(f"{file} holds numbers of shape {shape}, no dict", possible="a saved dict", todo=_MEND)
        data = f.read()
    # np.save stores a dict as a pickle, which is a program; this reader takes it apart and executes none of it.
    outer = safe_pickle.load(file, data)
    if not isinstance(outer, np.ndarray) or outer.shape != shape:
        raise refuse(
            f"{file} does not hold the array of shape {shape} of its header", possible="a whole file", todo=_MEND
        )
    return outer.item() if outer.shape == () else outer


def _open(file: Path) -> IO[bytes]:
    if not file.is_file():
        raise refuse(f"{file} is missing", possible="an .npy file", todo="Fetch the whole data set.")
    return file.open("rb")


def _header(f: IO[bytes], name: str) -> tuple[Shape, bool, np.dtype[Any]]:
    """Shape, order and type of an .npy stream. Version 1.0 only: its header is at most 64 KiB, later ones are not."""
    start = f.read(10)
    if start[:8] != b"\x93NUMPY\x01\x00" or len(start) < 10:
        raise refuse(f"{name} is no numpy array", possible="numpy's file format 1.0", todo=_MEND)
    text = f.read(int.from_bytes(start[8:], "little"))
    try:
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(start[8:] + text))
        if any(n < 0 for n in shape):
            raise ValueError(f"shape {shape}")
        return shape, fortran, dtype
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise refuse(f"{name} has a broken header: {error}", possible="numpy's file format 1.0", todo=_MEND) from error


def _check_members(file: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Plain names, and numpy's own two ways to store (others may ask for gigabytes before the first byte)."""
    for member in members:
        path = PurePosixPath(member.filename)
        if path.is_absolute() or "\\" in member.filename or len(path.parts) != 1 or path.parts == ("..",):
            raise refuse(
                f"{file} holds a member {member.filename!r} instead of a plain name",
                possible="rgb_static.npy ...",
                todo=_MEND,
            )
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise refuse(f"{file} is packed by method {member.compress_type}", possible="0 or 8", todo=_MEND)


def _member(file: Path, archive: zipfile.ZipFile, name: str, shape: Shape, dtypes: Sequence[str]) -> npt.NDArray[Any]:
    """One array, whose header is compared before its data are inflated; the archive's checksum is checked."""
    if f"{name}.npy" not in archive.namelist():
        known = [n.removesuffix(".npy") for n in archive.namelist()]
        raise refuse(f"{file} has no array {name!r}", given=name, possible=known, todo=_MEND)
    expected = f"shape {shape} of {' or '.join(dtypes)}"
    with archive.open(f"{name}.npy") as f:
        found, fortran, dtype = _header(f, f"{file}: {name}")
        if dtype.hasobject:
            raise refuse(f"{name!r} of {file} holds pickled objects", possible=expected, todo=_MEND)
        if found != shape or dtype.name not in dtypes:
            raise refuse(f"{name!r} of {file} has shape {found} of {dtype}", possible=expected, todo=_MEND)
        size = math.prod(shape) * dtype.itemsize
        data = f.read(size) + f.read(1)  # the read beyond the end makes zipfile compare the checksum
    if len(data) != size:
        raise refuse(f"{name!r} of {file} is not as long as its header says", possible=expected, todo=_MEND)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
