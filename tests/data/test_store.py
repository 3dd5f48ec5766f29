import json
import pickle
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_data import cameras, dataset, episode, spec

from vlm4vla.data import build as building
from vlm4vla.data.build import build
from vlm4vla.data.pictures import EncodedFrames, decode, decode_any, encode, resize
from vlm4vla.data.store import Store
from vlm4vla.types import RunFailed, UserError

LENGTHS = (5, 1, 9, 4)


@pytest.fixture
def reader(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "_MAX_GROUPS", 2)
    monkeypatch.setattr(building, "_MIN_GROUP", 2)  # two groups of two episodes
    return dataset(tmp_path / "set", LENGTHS)


def square(image, size=8):
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_frames_actions_and_texts_come_back(reader, tmp_path, encoding):
    store = build(reader, tmp_path / "store", 8, encoding)
    assert len(store) == sum(LENGTHS) and [e.length for e in store.episodes] == list(LENGTHS)
    assert store.action_spec == spec() and store.state_names == ("s0", "s1")
    assert store.cameras == cameras("front", "wrist", size=(8, 8))
    for n, entry in enumerate(store.episodes):
        e = episode(n, LENGTHS[n], spec(), reader.cameras)
        assert (entry.instruction, entry.task, entry.source) == (e.instruction, e.task, e.source)
        assert np.array_equal(store.actions[entry.start : entry.stop], e.actions)
        assert np.array_equal(store.states[entry.start : entry.stop], e.states)
        for t in range(entry.length):
            assert store.episode_of(entry.start + t) == entry
            for name in ("front", "wrist"):
                assert np.array_equal(store.image(entry.start + t, name), square(e.images[name][t]))
    store.verify()


def test_pictures_of_equal_size_keep_every_byte(tmp_path):
    from synthetic_data import writer

    views = cameras("front", size=(8, 8))
    out = writer(tmp_path / "set", spec(), views)
    out.add("0", episode(0, 4, spec(), views))
    out.finish()
    from vlm4vla.data.readers.lerobot_v3 import Reader

    reader = Reader(tmp_path / "set")
    store = build(reader, tmp_path / "store", 8, "png")
    frames = reader.episode(0).images["front"]
    assert isinstance(frames, EncodedFrames)
    stored = [store._pictures["front"][i]["image.front"] for i in range(4)]
    assert stored == list(frames.encoded)  # not even encoded anew
    assert np.array_equal(store.image(2, "front"), episode(0, 4, spec(), views).images["front"][2])


def test_jpeg_is_close_and_smaller_and_unknown_encodings_are_refused(reader, tmp_path):
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None], (64, 64, 3)).copy()
    data = encode(ramp, "jpeg")
    assert len(data) < ramp.nbytes / 4 and np.abs(decode(data, "jpeg", 64, 64).astype(int) - ramp).max() <= 3
    with pytest.raises(UserError, match="Did you mean 'jpeg'"):
        build(reader, tmp_path / "store", 8, "jpg")


def test_resize_leaves_equal_sizes_alone():
    image = np.zeros((8, 12, 3), np.uint8)
    assert resize(image, 8, 12) is image and resize(image, 4, 6).shape == (4, 6, 3)


def files(root: Path) -> dict[str, bytes]:
    return {str(f.relative_to(root)): f.read_bytes() for f in sorted(root.rglob("*")) if f.is_file()}


def test_a_killed_build_goes_on_and_gives_the_same_store(reader, tmp_path, monkeypatch):
    whole = build(reader, tmp_path / "a", 8, "png")

    class Killed(Exception):
        pass

    read: list[int] = []

    class Dying:
        def __init__(self, last):
            self.last = last

        def __getattr__(self, name):
            return getattr(reader, name)

        def __len__(self):
            return len(reader)

        def episode(self, index):
            read.append(index)
            if index >= self.last:
                raise Killed
            return reader.episode(index)

    with pytest.raises(Killed):
        build(Dying(3), tmp_path / "b", 8, "png")
    assert not (tmp_path / "b/manifest.json").exists()
    with pytest.raises(UserError, match="not a finished store"):
        Store.open(tmp_path / "b")
    read.clear()
    again = build(Dying(99), tmp_path / "b", 8, "png")
    assert read == [2, 3]  # the finished group is not made again
    assert again.digest == whole.digest and files(tmp_path / "a") == files(tmp_path / "b")


def test_worker_processes_give_the_same_store(reader, tmp_path):
    assert files(build(reader, tmp_path / "a", 8, "raw").path) == files(
        build(reader, tmp_path / "b", 8, "raw", workers=2).path
    )


def test_a_second_build_returns_at_once_and_other_settings_are_refused(reader, tmp_path, monkeypatch):
    first = build(reader, tmp_path / "store", 8, "png")
    monkeypatch.setattr(building, "_group", lambda job: pytest.fail("built again"))
    assert build(reader, tmp_path / "store", 8, "png").digest == first.digest
    with pytest.raises(UserError, match="different: encoding"):
        build(reader, tmp_path / "store", 8, "raw")
    with pytest.raises(UserError, match="different: cameras"):
        build(reader, tmp_path / "store", 6, "png")
    other = dataset(tmp_path / "other", (5, 1, 9))
    with pytest.raises(UserError, match="different: source"):
        build(other, tmp_path / "store", 8, "png")


def test_the_digest_is_that_of_the_content(reader, tmp_path):
    digests = {
        "plain": build(reader, tmp_path / "a", 8, "png").digest,
        "size": build(reader, tmp_path / "b", 6, "png").digest,
        "episodes": build(dataset(tmp_path / "x", (5, 1, 9, 3)), tmp_path / "c", 8, "png").digest,
    }
    assert len(set(digests.values())) == 3
    other = dataset(tmp_path / "z", LENGTHS)
    inner = other.episode

    class Recoloured(type(other)):
        def episode(self, index):
            e = inner(index)
            return replace(e, images={k: [255 - f for f in v] for k, v in e.images.items()})

    assert build(Recoloured(other.root), tmp_path / "e", 8, "png").digest not in digests.values()
    assert build(dataset(tmp_path / "y", LENGTHS), tmp_path / "d", 8, "png").digest == digests["plain"]


def test_damage_is_seen(reader, tmp_path):
    store = build(reader, tmp_path / "store", 8, "raw")
    file = store.path / store.manifest["groups"][0]["file"]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="SHA-256 differs"):
        Store.open(store.path).verify()
    file.write_bytes(data[:-1])
    with pytest.raises(UserError, match="missing or was cut"):
        Store.open(store.path)
    manifest = json.loads((store.path / "manifest.json").read_text())
    (store.path / "manifest.json").write_text(json.dumps(manifest | {"version": 0}))
    with pytest.raises(UserError, match="version 0"):
        Store.open(store.path)


def test_a_store_travels_to_another_process(reader, tmp_path):
    store = build(reader, tmp_path / "store", 8, "png")
    copy = pickle.loads(pickle.dumps(store))
    assert copy.digest == store.digest and np.array_equal(copy.image(7, "wrist"), store.image(7, "wrist"))


def test_statistics_are_exact(reader, tmp_path):
    store = build(reader, tmp_path / "store", 8, "raw")
    found, actions = store.statistics(), store.actions.astype(float)
    assert found.count == sum(LENGTHS)
    for name, value in (("min", actions.min(0)), ("max", actions.max(0)), ("mean", actions.mean(0))):
        assert np.allclose(getattr(found, name), value)
    assert np.allclose(found.std, actions.std(0)) and np.allclose(found.q99, np.quantile(actions, 0.99, axis=0))
    assert np.allclose(found.q01, np.quantile(actions, 0.01, axis=0))


def test_a_full_disk_is_told_in_a_sentence(reader, tmp_path, monkeypatch):
    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RunFailed, match="the disk is full"):
        build(reader, tmp_path / "store", 8, "raw")


def test_a_build_is_not_continued_by_other_code_or_in_other_groups(reader, tmp_path, monkeypatch):
    """Half of a store by a reader with a fault and half by the mended one would be worse than either."""
    whole = build(reader, tmp_path / "a", 8, "png")
    (tmp_path / "b/groups").mkdir(parents=True)
    plan = {**whole.provenance, "code": "of another day"}
    (tmp_path / "b/plan.json").write_text(json.dumps(plan))
    with pytest.raises(UserError, match="different: code"):
        build(reader, tmp_path / "b", 8, "png")
    (tmp_path / "b/plan.json").write_text(json.dumps(dict(whole.provenance)))
    wrong = {"first": 0, "last": 3, "file": "groups/group-00000.arrow", "bytes": 1, "sha256": "", "episodes": []}
    (tmp_path / "b/groups/group-00000.json").write_text(json.dumps(wrong))
    assert build(reader, tmp_path / "b", 8, "png").digest == whole.digest


def test_a_finished_store_stays_when_the_code_moves_on(reader, tmp_path, monkeypatch):
    whole = build(reader, tmp_path / "a", 8, "png")
    monkeypatch.setattr(building, "code", lambda: "newer")
    again = build(reader, tmp_path / "a", 8, "png")
    assert again.digest == whole.digest and again.provenance["code"] != "newer"


def test_long_episodes_are_written_in_slices(reader, tmp_path, monkeypatch):
    """The slices are not in the content: the digest is that of the uncut episode."""
    whole = build(reader, tmp_path / "a", 8, "png")
    monkeypatch.setattr(building, "_BATCH", 2)
    cut = build(reader, tmp_path / "b", 8, "png")
    assert [e.length for e in cut.episodes] == [e.length for e in whole.episodes]
    for frame in range(len(whole)):
        for camera in whole.cameras:
            assert np.array_equal(whole.image(frame, camera.name), cut.image(frame, camera.name))
    assert np.array_equal(whole.actions, cut.actions)


def test_nothing_and_no_size_are_refused(reader, tmp_path):
    with pytest.raises(UserError, match="Picture size 0"):
        build(reader, tmp_path / "a", 0, "png")

    class Empty:
        def __getattr__(self, name):
            return getattr(reader, name)

        def __len__(self):
            return 0

    with pytest.raises(UserError, match="no episodes"):
        build(Empty(), tmp_path / "a", 8, "png")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("data", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", b"junk", b""])
def test_only_png_and_jpeg_are_opened(data, monkeypatch):
    """Pillow hands EPS to Ghostscript, a program that a data set must not start."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(UserError, match="are no picture that can be read"):
        decode_any(data)
