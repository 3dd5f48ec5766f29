import os
import pickle
import struct
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
from npy_data import header

from vlm4vla.data.formats.safe_numpy import read_pickled
from vlm4vla.types import UserError


def pickled(tmp_path, stream: bytes):
    """A file as ``np.save`` would lay it out, around any pickle."""
    file = tmp_path / "hostile.npy"
    file.write_bytes(header((), "|O") + stream)
    return file


def saved(content: object, protocol: int) -> bytes:
    outer = np.empty((), object)
    outer[()] = content
    return pickle.dumps(outer, protocol=protocol)


class Reduce:
    def __init__(self, function, *arguments):
        self.what = (function, arguments)

    def __reduce__(self):
        return self.what


CONTENT = {
    "numbers": [1, -3, 2**40, -(2**70), 0.5, True, None],
    "texts": ["push the door", "größer", ""],
    "bytes": b"\x00\xff",
    "pairs": [(np.int64(3), np.int64(67)), (np.int32(1), 2), (np.float32(0.25), np.bool_(True))],
    "array": np.arange(12, dtype=np.float32).reshape(3, 1, 4),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big endian": np.arange(3, dtype=">i4"),
    "sentences": np.array(["a", "bcd"]),
    "objects": np.array(["a", (1, 2), None], object),
    "empty": np.zeros((0, 1, 384), np.float32),
    "nested": {"a": {"b": [[], {}, ()]}, 7: "x"},
}


def same(found, expected):
    if isinstance(expected, np.ndarray):
        assert isinstance(found, np.ndarray) and found.dtype == expected.dtype and found.shape == expected.shape
        same(found.tolist(), expected.tolist())
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert type(found) is type(expected) and len(found) == len(expected)
        for f, e in zip(found, expected, strict=True):
            same(f, e)
    else:
        assert found == expected and type(found) in (int, float, bool, str, bytes, type(None))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_numpy_saves_is_read_as_numpy_reads_it(tmp_path, protocol):
    same(read_pickled(pickled(tmp_path, saved(CONTENT, protocol))), CONTENT)


def test_files_of_numpy_itself_and_of_numpy_1(tmp_path):
    np.save(tmp_path / "a.npy", CONTENT)
    same(read_pickled(tmp_path / "a.npy"), CONTENT)
    old = saved(CONTENT, 3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core" in old
    same(read_pickled(pickled(tmp_path, old)), CONTENT)
    np.save(tmp_path / "list.npy", np.array([{"a": 1}, [2]], object))
    assert read_pickled(tmp_path / "list.npy").tolist() == [{"a": 1}, [2]]


def test_containers_named_twice_and_within_themselves_are_no_trouble(tmp_path):
    shared = [1, 2]
    loop: list = [shared, shared]
    loop.append(loop)
    found = read_pickled(pickled(tmp_path, saved(loop, 4)))
    assert found[0] is found[1] and found[2] is found


@pytest.mark.parametrize(
    ("evil", "named"),
    [
        (lambda ran: Reduce(os.system, f"touch {ran}"), "posix.system'"),
        (lambda ran: Reduce(eval, f"open({ran!r}, 'w')"), ".eval'"),
        (lambda ran: Reduce(exec, f"open({ran!r}, 'w')"), ".exec'"),
        (lambda ran: Reduce(subprocess.Popen, ["touch", ran]), ".Popen'"),
        (lambda ran: Reduce(getattr, "", "format"), ".getattr'"),
        (lambda ran: Reduce(np.save, ran, 1), "numpy.save'"),
        (lambda ran: Reduce(bytearray, 10**12), ".bytearray'"),
        (lambda ran: OrderedDict(a=1), "collections.OrderedDict'"),
        (lambda ran: np.ma.masked_array([1]), "_mareconstruct'"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("place", ["itself", "nested", "array"])
def test_programs_are_named_and_not_run(tmp_path, evil, named, protocol, place):
    ran = tmp_path / "ran"
    content = evil(str(ran))
    if place == "nested":
        content = {"language": {"ann": ["x", (content, 1)]}}
    elif place == "array":
        content = [np.array([None, content, 1], object)]
    with pytest.raises(UserError, match="nothing of it was executed") as caught:
        read_pickled(pickled(tmp_path, saved(content, protocol)))
    assert named in str(caught.value) and "wants to run" in str(caught.value) and not ran.exists()


def reconstruct(kind: bytes, shape: bytes, state: bytes) -> bytes:
    """numpy's own recipe with other ingredients; protocol 2."""
    return b"\x80\x02cnumpy._core.multiarray\n_reconstruct\n" + kind + shape + b"C\x01b\x87R(K\x01" + state + b"tb."


DTYPE = (
    b"cnumpy\ndtype\nX\x02\x00\x00\x00%s\x89\x88\x87R"
    b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
NDARRAY = b"cnumpy\nndarray\n"
ZERO = b"K\x00\x85"
F8 = DTYPE % b"f8"


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (reconstruct(NDARRAY, b"J\x00\x00\x00\x40\x85", b"K\x00\x85" + F8 + b"\x89C\x00"), "another class"),
        (reconstruct(b"cnumpy\ndtype\n", ZERO, b"K\x00\x85" + F8 + b"\x89C\x00"), "another class"),
        (reconstruct(NDARRAY, ZERO, b"\x8a\x06\x00\x00\x00\x00\x00\x10\x85" + F8 + b"\x89C\x08" + bytes(8)), "without"),
        (reconstruct(NDARRAY, ZERO, b"J\xff\xff\xff\xff\x85" + F8 + b"\x89C\x08" + bytes(8)), "array shape"),
        (reconstruct(NDARRAY, ZERO, b"K\x01\x85N\x89C\x08" + bytes(8)), "without a type"),
        (reconstruct(NDARRAY, ZERO, b"K\x02\x85" + DTYPE % b"O8" + b"\x89]"), "without its 2 objects"),
        (reconstruct(NDARRAY, ZERO, b"K\x01\x85" + DTYPE % b"O8" + b"\x89C\x08" + bytes(8)), "without its 1 objects"),
        (reconstruct(NDARRAY, ZERO, b"K\x01\x85" + DTYPE % b"V8" + b"\x89C\x08" + bytes(8)), "array type 'V8'"),
        (reconstruct(NDARRAY, ZERO, b"K\x01\x85" + DTYPE % b"M8" + b"\x89C\x08" + bytes(8)), "array type 'M8'"),
        (reconstruct(NDARRAY, ZERO, b"K\x01\x85" + DTYPE % b"U1" + b"\x89C\x04\xff\xff\xff\xff"), "UnicodeDecodeError"),
        (b"\x80\x02" + F8.replace(b"NNN", b"NX\x01\x00\x00\x00aN") + b".", "with fields"),
        (b"\x80\x02" + F8 + b".", "holds a bare type"),
        (b"\x80\x02" + NDARRAY + b".", "holds a function"),
        (b"\x80\x02cnumpy._core.multiarray\n_reconstruct\n}b.", "no state"),
        (b"\x80\x02cnumpy._core.multiarray\nscalar\n" + F8 + b"C\x04abcd\x86R.", "a number of 4 bytes"),
        (b"\x80\x02cnumpy._core.multiarray\nscalar\n" + DTYPE % b"O8" + b"C\x08" + bytes(8) + b"\x86R.", "its bytes"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00punyc\x86R.", "by codec"),
        (b"\x80\x02c_codecs\ndecode\nX\x01\x00\x00\x00a\x85R.", "'_codecs.decode'"),
        (b"\x80\x02cnumpy\ndtype\n]b.", "no state"),
        (b"\x80\x02X\x03\x00\x00\x00\xed\xa0\x80.", "UnicodeEncodeError"),
        (b"\x80\x02X\x01\x00\x00\x00aQ.", "persistent id"),
        (b"Pabc\n.", "persistent id"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"(ios\nsystem\n.", "INST"),
        (b"(cos\nsystem\no.", "OBJ"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "NEWOBJ"),
        (b"\x80\x05\x96\x00\x00\x00\x00\x00\x00\x00\x40.", "spoilt|BYTEARRAY8"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc.", "spoilt"),
        (b"\x80\x02]r\xff\xff\xff\x7f.", "a memo of 2147483647 entries"),
        (b"\x80\x02]q\x00", "spoilt"),
        (b"\x80\x02h\x07.", "cannot be read"),
        (b"\x80\x02R.", "cannot be read"),
        (b"", "spoilt"),
        (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "RecursionError"),
        (saved({"a": 1}, 4)[:-9], "spoilt"),
        (pickle.dumps({"a": 1}, 4), "does not hold the array"),
        (pickle.dumps(np.arange(3), 4), "does not hold the array"),
    ],
)
def test_crooked_streams_are_refused(tmp_path, stream, reason):
    with pytest.raises(UserError, match=reason):
        read_pickled(pickled(tmp_path, stream))


OBJECTS = NDARRAY + b"K\x00\x85C\x01b\x87R(K\x01M\xe8\x03\x85h\x01\x89h\x00tb"
TEXTS = NDARRAY + b"K\x00\x85C\x01b\x87R(K\x01M\xe8\x03\x85h\x01\x89h\x00tb"


@pytest.mark.parametrize(
    ("shared", "kind", "each"),
    [
        (b"(" + b"N" * 1000, b"O8", b"cnumpy._core.multiarray\n_reconstruct\n" + OBJECTS),
        (
            b"B" + struct.pack("<I", 4000) + b"a\x00\x00\x00" * 1000,
            b"U1",
            b"cnumpy._core.multiarray\n_reconstruct\n" + TEXTS,
        ),
        (b"B" + struct.pack("<I", 396) + b"a\x00\x00\x00" * 99, b"U99", b"h\x02h\x01h\x00\x86R"),
        (b"X" + struct.pack("<I", 1000) + b"a" * 1000, b"f8", b"h\x03h\x00X\x06\x00\x00\x00latin1\x86R"),
    ],
)
def test_a_small_file_cannot_unfold_into_a_large_one(tmp_path, shared, kind, each):
    """One list, array or text of a thousand, named by a thousand others, would be a million."""
    stream = b"\x80\x02"
    stream += (b"]" + shared + b"e" if shared[:1] == b"(" else shared) + b"q\x00"
    stream += (DTYPE.replace(b"\x02\x00\x00\x00%s", bytes([len(kind)]) + b"\x00\x00\x00%s") % kind) + b"q\x01"
    stream += b"cnumpy._core.multiarray\nscalar\nq\x02c_codecs\nencode\nq\x03](" + each * 1000 + b"e."
    with pytest.raises(UserError, match="unfolds into more than it holds"):
        read_pickled(pickled(tmp_path, stream))


def test_a_hostile_file_runs_nothing_in_a_fresh_process(tmp_path):
    """The process would be gone: the recipe is ``os._exit(7)``."""
    file = pickled(tmp_path, saved({"language": Reduce(os._exit, 7)}, 4))
    script = (
        "import sys; from pathlib import Path\nfrom vlm4vla.data.formats.safe_numpy import read_pickled\n"
        "try: read_pickled(Path(sys.argv[1]))\nexcept ValueError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, text=True)
    assert done.returncode == 0 and "posix._exit" in done.stdout
