"""LIBERO files from strangers: links, foreign storage, objects, absurd shapes, damage."""

from collections.abc import Callable

import h5py
import numpy as np
import pytest
from libero_files import SIZE, official

from vlm4vla.data.readers.libero_hdf5 import Reader
from vlm4vla.types import UserError

PICTURES = "data/demo_1/obs/agentview_rgb"


def _virtual(f: h5py.File) -> None:
    source = h5py.VirtualLayout(shape=(9, SIZE, SIZE, 3), dtype=np.uint8)
    source[:] = h5py.VirtualSource("other.hdf5", PICTURES, shape=(9, SIZE, SIZE, 3))
    del f[PICTURES]
    f.create_virtual_dataset(PICTURES, source)


def _external_storage(f: h5py.File) -> None:
    del f[PICTURES]
    size = 9 * SIZE * SIZE * 3
    f.create_dataset(PICTURES, shape=(9, SIZE, SIZE, 3), dtype=np.uint8, external=[("/etc/passwd", 0, size)])


def _replace(name: str, **options) -> Callable[[h5py.File], None]:
    def change(f: h5py.File) -> None:
        del f[name]
        f.create_dataset(name, **options)

    return change


def _link(name: str, link: object) -> Callable[[h5py.File], None]:
    def change(f: h5py.File) -> None:
        del f[name]
        f[name] = link

    return change


def _attribute(name: str, value: object) -> Callable[[h5py.File], None]:
    return lambda f: f["data"].attrs.__setitem__(name, value)


HOSTILE = {
    "an external link": (_link(PICTURES, h5py.ExternalLink("other.hdf5", PICTURES)), "link to another place"),
    "an external group": (_link("data/demo_1", h5py.ExternalLink("other.hdf5", "/data/demo_1")), "link to another"),
    "a soft link": (_link(PICTURES, h5py.SoftLink("/data/demo_0/obs/agentview_rgb")), "link to another place"),
    "a virtual dataset": (_virtual, "stand in another file"),
    "external storage": (_external_storage, "stand in another file"),
    "objects": (_replace("data/demo_1/actions", data=["x"] * 9), "not plain numbers"),
    "references": (_replace("data/demo_1/actions", shape=(9, 7), dtype=h5py.ref_dtype), "not plain numbers"),
    "other sizes": (_replace(PICTURES, data=np.zeros((9, 8, 8, 3), np.uint8)), "its shape is"),
    "a row too few": (_replace(PICTURES, data=np.zeros((8, SIZE, SIZE, 3), np.uint8)), "its shape is"),
    "floats as pictures": (_replace(PICTURES, data=np.zeros((9, SIZE, SIZE, 3), np.float32)), "uint8"),
    "an absurd length": (
        _replace("data/demo_1/actions", shape=(2**40, 7), dtype=np.float64, chunks=(1024, 7)),
        "beyond reason",
    ),
    "an absurd chunk": (
        _replace(
            PICTURES,
            shape=(9, SIZE, SIZE, 3),
            maxshape=(None, None, None, 3),
            dtype=np.uint8,
            chunks=(2**15, 64, 64, 3),
        ),
        "beyond reason",
    ),
    "nothing ever written": (_replace(PICTURES, shape=(9, SIZE, SIZE, 3), dtype=np.uint8), "never written"),
    "no pictures": (lambda f: f.__delitem__(PICTURES), "there is none"),
    "a group for pictures": (lambda f: (f.__delitem__(PICTURES), f.create_group(PICTURES)), "no dataset"),
    "not a number": (lambda f: f["data/demo_1/actions"].__setitem__((3, 2), np.nan), "action of frame 3 is not finite"),
    "another gripper": (lambda f: f["data/demo_1/actions"].__setitem__((3, 6), 2.0), "gripper action of demo_1"),
    "no instruction": (_attribute("problem_info", '{"problem_name": "toy"}'), "no language_instruction"),
    "no JSON": (_attribute("problem_info", "{"), "no JSON object"),
    "numbers for texts": (_attribute("problem_info", np.zeros(3)), "it is no text"),
    "other pictures": (_attribute("macros_image_convention", "opencv"), "opencv"),
    "other members": (lambda f: f["data"].create_group("mask"), "holds mask"),
    "huge pictures": (
        _replace("data/demo_0/obs/agentview_rgb", data=np.zeros((6, 5000, 1, 3), np.uint8)),
        "1 to 4096 pixels",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path, name):
    official(tmp_path / "elsewhere").rename(tmp_path / "other.hdf5")
    path = official(tmp_path)
    change, match = HOSTILE[name]
    with h5py.File(path, "r+") as f:
        change(f)
    with pytest.raises(UserError, match=match):
        Reader(path, instruction="attribute").episode(1)


@pytest.mark.parametrize("part", [0, 10, 3000, -100])
def test_cut_files_are_refused(tmp_path, part):
    path = official(tmp_path)
    path.write_bytes(path.read_bytes()[:part])
    with pytest.raises(UserError, match="cannot be read"):
        Reader(path)


def test_damage_that_shows_late_is_a_sentence(tmp_path):
    path = official(tmp_path)
    with h5py.File(path, "r+") as f:
        del f[PICTURES]
        stored = f.create_dataset(
            PICTURES, data=np.ones((9, SIZE, SIZE, 3), np.uint8), chunks=(1, SIZE, SIZE, 3), compression="gzip"
        )
        place = stored.id.get_chunk_info(5)
    data = bytearray(path.read_bytes())
    data[place.byte_offset : place.byte_offset + place.size] = b"\xff" * place.size
    path.write_bytes(data)
    frames = Reader(path).episode(1).images["agentview"]
    assert frames[4].max() == 1
    with pytest.raises(UserError, match="cannot be read"):
        list(frames)
