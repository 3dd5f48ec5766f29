"""HDF5 files from strangers: only plain numbers of sane size that stand in the file itself are read."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from vlm4vla.types import UserError, refuse

_RESTORE = "Restore the file from where it came from; it was not read any further."
_MAX_ROWS = 1_000_000
_MAX_ROW_BYTES = _MAX_CHUNK_BYTES = 2**27  # of one row, and of one chunk, which is decompressed as a whole


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file for reading; damage that HDF5 finds at any time inside the block becomes a sentence."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except UserError:
        raise
    except (OSError, RuntimeError, KeyError) as error:
        raise refuse(f"{path} cannot be read: {error}", possible="a whole HDF5 file", todo=_RESTORE) from error


def group(parent: h5py.Group, name: str) -> h5py.Group:
    found = _member(parent, name)
    if not isinstance(found, h5py.Group):
        raise _odd(parent, name, "it is no group")
    return found


def numbers(parent: h5py.Group, name: str, shape: tuple[int | None, ...]) -> h5py.Dataset:
    """A dataset of plain numbers of the given shape (None: any size); nothing of it is read yet.

    Refuses links, virtual and external storage (they lead into other files), other types (objects, references,
    strings), sizes beyond reason, and data that were never written.
    """
    found = _member(parent, name)
    if not isinstance(found, h5py.Dataset):
        raise _odd(parent, name, "it is no dataset")
    if found.is_virtual or found.external:
        raise _odd(parent, name, "its numbers stand in another file")
    if found.dtype.kind not in "biuf":
        raise _odd(parent, name, f"it holds {found.dtype}, not plain numbers")
    if len(found.shape or ()) != len(shape) or any(w not in (None, n) for w, n in zip(shape, found.shape, strict=True)):
        wanted = "x".join("any" if n is None else str(n) for n in shape)
        raise _odd(parent, name, f"its shape is {found.shape}, not {wanted}")
    size = found.dtype.itemsize
    row = size * int(np.prod([int(n) for n in found.shape[1:]], dtype=object))
    chunk = size * int(np.prod([int(n) for n in found.chunks or ()], dtype=object)) if found.chunks else 0
    if found.shape[0] > _MAX_ROWS or row > _MAX_ROW_BYTES or chunk > _MAX_CHUNK_BYTES:
        raise _odd(parent, name, f"a shape of {found.shape} in chunks of {found.chunks} is beyond reason")
    if found.size and not found.id.get_storage_size():
        raise _odd(parent, name, "it was never written")
    return found


def text(parent: h5py.Group, name: str) -> str | None:
    """A string attribute; None where there is none."""
    if name not in parent.attrs:
        return None
    kind = h5py.check_string_dtype(parent.attrs.get_id(name).dtype)
    value = parent.attrs[name] if kind is not None else None
    try:
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, str):
            value.encode()  # h5py hides bytes that are no UTF-8 in surrogates
            return value
    except UnicodeError:
        pass
    raise _odd(parent, f"attribute {name}", "it is no text in UTF-8")


def document(parent: h5py.Group, name: str) -> dict[str, Any] | None:
    """A JSON object in a string attribute; None where there is no such attribute."""
    said = text(parent, name)
    if said is None:
        return None
    try:
        found = json.loads(said)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise _odd(parent, f"attribute {name}", "it is no JSON object")
    return found


def float32(dataset: h5py.Dataset) -> npt.NDArray[np.float32]:
    return np.asarray(dataset[()], dtype=np.float32)


def _member(parent: h5py.Group, name: str) -> object:
    """A member by a hard link; other links lead elsewhere, in this file or in another one."""
    if not parent.id.links.exists(name.encode()):
        raise _odd(parent, name, "there is none")
    if parent.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise _odd(parent, name, "it is a link to another place")
    return parent[name]


def _odd(parent: h5py.Group, name: str, what: str) -> UserError:
    where = f"{parent.name.rstrip('/')}/{name}"
    return refuse(
        f"{parent.file.filename}: {where} cannot be used: {what}",
        possible="groups and arrays of numbers that stand in the file itself",
        todo=_RESTORE,
    )
