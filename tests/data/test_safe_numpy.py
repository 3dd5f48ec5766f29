import io
import zipfile

import numpy as np
import pytest
from npy_data import HEADER, header

from vlm4vla.data.formats.safe_numpy import read_npy, read_npz, read_pickled
from vlm4vla.types import UserError

WANTED = {"x": ((3,), ("float64", "float32")), "p": ((2, 2, 3), ("uint8",))}


def archive(file, **members: bytes):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return file


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


X, P = npy(np.arange(3.0)), npy(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_are_read(tmp_path, save):
    p = np.asfortranarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    save(tmp_path / "a.npz", x=np.arange(3, dtype=np.float32), p=p, other=np.array([{}]))
    found = read_npz(tmp_path / "a.npz", WANTED)
    assert set(found) == {"x", "p"} and found["x"].dtype == np.float32
    assert np.array_equal(found["x"], [0, 1, 2]) and np.array_equal(found["p"], p)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"x.npy": X}, "no array 'p'.*Possible: x"),
        ({"x.npy": X, "p.npy": P, "../../evil.npy": X}, "'../../evil.npy' instead of a plain name"),
        ({"x.npy": X, "p.npy": P, "/etc/evil": X}, "'/etc/evil' instead of a plain name"),
        ({"x.npy": X, "p.npy": P, "..\\evil": X}, "instead of a plain name"),
        ({"x.npy": npy(np.array([{}, 1, 2], object)), "p.npy": P}, "pickled objects"),
        ({"x.npy": npy(np.arange(4.0)), "p.npy": P}, r"shape \(4,\) of float64.*shape \(3,\) of float64 or float32"),
        ({"x.npy": npy(np.arange(3)), "p.npy": P}, "of int64"),
        ({"x.npy": X[:-8], "p.npy": P}, "not as long"),
        ({"x.npy": X + bytes(50_000_000), "p.npy": P}, "not as long"),
        ({"x.npy": header((10**12,), "<f8") + bytes(24), "p.npy": P}, "shape \\(1000000000000,\\)"),
        ({"x.npy": header((-3,), "<f8") + bytes(24), "p.npy": P}, "broken header"),
        ({"x.npy": HEADER + b"\x05\x00hello", "p.npy": P}, "broken header"),
        ({"x.npy": HEADER.replace(b"\x01", b"\x02") + b"\xff\xff\xff\xff", "p.npy": P}, "format 1.0"),
        ({"x.npy": b"text", "p.npy": P}, "no numpy array"),
    ],
)
def test_spoilt_archives_are_refused(tmp_path, members, reason):
    with pytest.raises(UserError, match=reason):
        read_npz(archive(tmp_path / "a.npz", **members), WANTED)


def test_damage_and_absence_are_named(tmp_path):
    file = archive(tmp_path / "a.npz", **{"x.npy": X, "p.npy": P})
    whole = file.read_bytes()
    for spoilt in (b"", whole[:50], whole[:-30], b"PK" + bytes(100)):
        file.write_bytes(spoilt)
        with pytest.raises(UserError, match=r"a\.npz cannot be read"):
            read_npz(file, WANTED)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as packed:
        packed.writestr("x.npy", X)
    with pytest.raises(UserError, match="packed by method 14"):
        read_npz(file, WANTED)
    np.savez(file, x=np.arange(3.0), p=np.zeros((2, 2, 3), np.uint8))
    stored = file.read_bytes()
    at = stored.index(np.arange(3.0).tobytes())
    file.write_bytes(stored[:at] + b"\x01" + stored[at + 1 :])
    with pytest.raises(UserError, match="CRC"):
        read_npz(file, WANTED)
    with pytest.raises(UserError, match=r"b\.npz is missing"):
        read_npz(tmp_path / "b.npz", WANTED)


def test_plain_arrays(tmp_path):
    file = tmp_path / "a.npy"
    np.save(file, np.asfortranarray(np.arange(6).reshape(3, 2)))
    assert np.array_equal(read_npy(file), np.arange(6).reshape(3, 2))
    for content, reason in [
        (file.read_bytes()[:-1], "47 bytes for shape"),
        (npy(np.array([{}])), "pickled objects"),
        (header((2, 10**15), "<i8") + bytes(16), "16 bytes for shape"),
        (header((2,), "|V0"), "for shape"),
    ]:
        file.write_bytes(content)
        with pytest.raises(UserError, match=reason):
            read_npy(file)
    np.save(file, np.arange(3))
    with pytest.raises(UserError, match="no dict"):
        read_pickled(file)
    for read in (read_npy, read_pickled):
        with pytest.raises(UserError, match="is missing"):
            read(tmp_path / "absent.npy")
