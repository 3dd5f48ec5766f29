"""The RLDS reader: the real Octo sample against an independent decode, made-up Bridge and LIBERO folders, damage."""

import io
import pickle
import struct

import numpy as np
import pytest
import tfds_files as made
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from samples import robot_data

from vlm4vla.data.build import build
from vlm4vla.data.formats import rlds_variants as variants
from vlm4vla.data.formats import tfds
from vlm4vla.data.readers import rlds
from vlm4vla.data.readers.rlds import Reader
from vlm4vla.types import UserError


def octo():
    return robot_data("octo_bridge_debug") / "bridge_dataset/1.0.0"


def independent(file):
    """Records of a shard, by a walk and a CRC of the tests' own and the protobuf package."""
    data, at = file.read_bytes(), 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        body = data[at + 12 : at + 12 + length]
        assert data[at : at + 16 + length] == made.frame(body)
        yield made.decode(body)
        at += 16 + length


def rows(features, name, size):
    return np.array(features[name], np.float32).reshape(-1, size)


def by_hand(gripper):
    """Step by step from the last one: what is open or closed stays, and everything before it goes there."""
    out, carried = [], gripper[-1]
    for opening in reversed(gripper):
        if opening > 0.95 or opening < 0.05:
            carried = 1.0 if opening > 0.95 else 0.0
        out.append(carried)
    return np.array(out[::-1], np.float32)


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_real_sample_equals_an_independent_decode(split):
    reader = Reader(octo(), variant="bridge", split=split, cameras="image_0, image_2")
    recorded = Reader(octo(), variant="bridge", split=split, relabel=False)
    found = list(independent(octo() / f"bridge_dataset-{split}.tfrecord-00000-of-00001"))
    assert len(reader) == len(recorded) == len(found) == 25 and reader.skipped == 0
    for n, features in enumerate(found):
        episode, plain = reader.episode(n), recorded.episode(n)
        actions, states = rows(features, "steps/action", 7), rows(features, "steps/observation/state", 7)
        gripper = 2 * by_hand(actions[1:, 6]) - 1
        assert np.array_equal(episode.actions[:, :6], np.diff(states[1:, :6], axis=0))
        assert np.array_equal(episode.actions[:, 6], gripper[:-1])
        assert np.array_equal(plain.actions, np.column_stack([actions[1:, :6], gripper]))
        assert np.array_equal(episode.states, states[1:-1]) and np.array_equal(plain.states, states[1:])
        assert {episode.instruction.encode()} == set(features["steps/language_instruction"])
        assert episode.source == episode.info["record"] == n and episode.length == 8 and plain.length == 9
        for name in ("image_0", "image_2"):
            pictures = features[f"steps/observation/{name}"][1:-1]
            assert episode.images[name].encoded == pictures
            for seen, data in zip(episode.images[name], pictures, strict=True):
                assert seen.shape == (64, 64, 3) and np.array_equal(seen, Image.open(io.BytesIO(data)).convert("RGB"))


def test_every_value_of_the_real_sample_is_read_as_protobuf_reads_it():
    folder = tfds.Folder(octo(), "train")
    for n, features in enumerate(independent(octo() / "bridge_dataset-train.tfrecord-00000-of-00001")):
        example = folder.example(n)
        assert set(example) == set(features) == set(folder.features)
        for name, feature in folder.features.items():
            if feature.kind == "tensor":
                values = tfds.numbers(example, feature)
                assert values.dtype == feature.dtype and values.ravel().tolist() == features[name]
            else:
                assert tfds.strings(example, feature) == features[name]


@given(st.lists(st.sampled_from([0.0, 0.04, 0.05, 0.3, 0.95, 0.96, 1.0]), min_size=1, max_size=12))
def test_the_gripper_looks_ahead(openings):
    gripper = np.array(openings, np.float32)
    found = variants.binarized(gripper)
    assert found.dtype == np.float32 and np.array_equal(found, by_hand(gripper))


def test_the_gripper_by_example():
    found = variants.binarized(np.array([1, 0.8, 0.4, 0, 0.1, 0.6, 1, 0.5, 0.7], np.float32))
    assert np.allclose(found, [1, 0, 0, 0, 1, 1, 1, 0.7, 0.7])
    assert np.array_equal(variants.of_house(np.array([0, 1, 0.5])), [-1, 1, 0])


def test_the_published_bridge_layout(tmp_path):
    records = [made.record(n, 4 + n, made.BRIDGE) for n in range(5)]
    made.write(tmp_path, [records[:3], [], records[3:]], made.layout(made.BRIDGE), "bridge_dataset")
    reader = Reader(tmp_path, variant="bridge", cameras="image_1,image_0")
    assert reader.action_spec == variants.BRIDGE and reader.state_names[-1] == "gripper_open"
    assert [(c.name, c.height, c.width) for c in reader.cameras] == [("image_1", 6, 8), ("image_0", 6, 8)]
    assert [c.name for c in Reader(tmp_path, variant="bridge").cameras] == ["image_0"]
    for n in (4, 0, 3, 1, 2):
        episode = reader.episode(n)
        assert episode.length == 2 + n and episode.instruction == episode.task == f"do thing {n % 3}"
        assert episode.info["shard"].endswith(f"{0 if n < 3 else 2:05d}-of-00003")
        assert episode.images["image_1"].encoded == records[n]["steps/observation/image_1"][1:-1]
        moved = np.diff(rows(records[n], "steps/observation/state", 7)[1:, :6], axis=0)
        assert np.array_equal(episode.actions[:, :6], moved)
    with pytest.raises(IndexError):
        reader.episode(5)


def test_the_libero_layout(tmp_path):
    observation = made.LIBERO | {"image": made.image(6, 8, 3, form="png")}
    records = [made.record(n, 3 + n, observation) for n in range(3)]
    made.write(tmp_path, [records], made.layout(observation), "liber_o10")
    reader = Reader(tmp_path, variant="libero", cameras="image,wrist_image")
    assert [c.name for c in Reader(tmp_path, variant="libero").cameras] == ["image"]
    assert reader.action_spec.rotation == "axis_angle" and reader.action_spec.control_hz == 20
    for n, features in enumerate(records):
        episode, actions = reader.episode(n), rows(features, "steps/action", 7)
        assert np.array_equal(episode.actions[:, :6], actions[:, :6])
        assert np.array_equal(episode.actions[:, 6], -actions[:, 6])  # recorded: -1 opens; the house: +1 opens
        assert np.array_equal(episode.states, rows(features, "steps/observation/state", 8))
        assert episode.images["image"].encoded == features["steps/observation/image"]
        assert episode.images["wrist_image"].encoded == features["steps/observation/wrist_image"]


def test_half_a_gripper_command_of_libero_is_clipped_as_published():
    actions = np.zeros((3, 7), np.float32)
    actions[:, 6] = [-0.4, 0.25, 1]
    assert np.allclose(variants.libero(actions)[:, 6], [1, 0.5, -1])


def spec_file(folder, gripper=None):
    names = ("a", "b", "c", "d", "e", "f")
    dimensions = [{"name": n, "unit": "m", "kind": "delta", "frame": "base", "low": -2, "high": 2} for n in names]
    dimensions.append({"name": "g", "unit": "", "kind": "gripper", "frame": "gripper", "low": -1, "high": 1})
    spec = {"dimensions": dimensions, "rotation": "none", "control_hz": 5.0} | ({"gripper": gripper} if gripper else {})
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    return folder / "spec.yaml"


def test_the_plain_variant(tmp_path):
    observation = {"front": made.image(6, 8, 3), "state": made.tensor("float64", 3)}
    records = [made.record(n, 3, observation) for n in range(2)]
    made.write(tmp_path, [records], made.layout(observation))
    reader = Reader(tmp_path, variant="plain", spec=spec_file(tmp_path, {"open": 0.0, "closed": 1.0}))
    episode, actions = reader.episode(1), rows(records[1], "steps/action", 7)
    assert reader.state_names == ("0", "1", "2") and [c.name for c in reader.cameras] == ["front"]
    assert np.array_equal(episode.actions[:, :6], actions[:, :6]) and episode.states.dtype == np.float32
    assert np.allclose(episode.actions[:, 6], 1 - 2 * actions[:, 6])
    del observation["state"]
    made.write(tmp_path / "b", [[made.record(5, 3, observation)]], made.layout(observation))
    bare = Reader(tmp_path / "b", variant="plain", spec=spec_file(tmp_path))
    assert bare.state_names == () and bare.episode(0).states is None
    with pytest.raises(UserError, match=r"gripper action of .*'gripper'"):
        Reader(tmp_path, variant="plain", spec=spec_file(tmp_path, {"open": 0.1, "closed": 0.2})).episode(0)
    with pytest.raises(UserError, match="does not say what its action numbers mean"):
        Reader(tmp_path, variant="plain")
    with pytest.raises(UserError, match="which has its own"):
        Reader(tmp_path, variant="bridge", spec=tmp_path / "spec.yaml")


def test_episodes_without_instruction_are_refused_or_left_out(tmp_path, monkeypatch):
    texts = [None, "", "  ", None, ""]
    records = [made.record(n, 4, made.BRIDGE, text) for n, text in enumerate(texts)]
    made.write(tmp_path, [records[:2], [], records[2:]], made.layout(made.BRIDGE))
    strict = Reader(tmp_path, variant="bridge")
    assert len(strict) == 5 and strict.skipped == 0 and strict.episode(3).source == 3
    with pytest.raises(UserError, match=r"byte 12 of .*00002-of-00003 has no instruction.*unlabeled=skip"):
        strict.episode(2)
    reader = Reader(tmp_path, variant="bridge", unlabeled="skip")
    assert len(reader) == 2 and reader.skipped == 3
    assert [reader.episode(k).source for k in range(2)] == [0, 3]
    assert reader.episode(1).info == {"shard": "toy-train.tfrecord-00002-of-00003", "record": 1, "skipped_unlabeled": 3}
    copy = pickle.loads(pickle.dumps(reader))
    monkeypatch.setattr(Reader, "_labels", lambda self: pytest.fail("looked for them again"))
    assert len(copy) == 2 and copy.episode(1).source == 3 and copy.digest() == reader.digest()


def test_a_changing_instruction_is_refused(tmp_path):
    record = made.record(0, 4, made.BRIDGE)
    record["steps/language_instruction"][2] = b"something else"
    made.write(tmp_path, [[record]], made.layout(made.BRIDGE))
    with pytest.raises(UserError, match=r"byte 12 .*changes its instruction: do thing 0, something else"):
        Reader(tmp_path, variant="bridge").episode(0)


def test_the_digest_is_that_of_content_and_options(tmp_path, monkeypatch):
    records = [made.record(n, 4, made.BRIDGE) for n in range(4)]
    folders = [made.write(tmp_path / k, [records[:2], records[2:]], made.layout(made.BRIDGE)) for k in "abc"]
    file = folders[1] / "toy-train.tfrecord-00001-of-00002"
    other = made.record(3, 4, made.BRIDGE, "do thing 9")
    file.write_bytes(b"".join(made.frame(made.encode(r)) for r in (records[2], other)))
    for whole in (1 << 30, 0):  # all bytes, or the stored checksums
        monkeypatch.setattr(rlds, "_WHOLE", whole)
        first, changed, same = (Reader(folder, variant="bridge").digest() for folder in folders)
        assert first == same != changed
        assert Reader(folders[0], variant="bridge", relabel=False).digest() != first


def test_a_store_is_built_of_it_by_two_processes_as_by_one(tmp_path):
    records = [made.record(n, 5, made.BRIDGE) for n in range(9)]
    made.write(tmp_path / "set", [records], made.layout(made.BRIDGE))
    reader = Reader(tmp_path / "set", variant="bridge", unlabeled="skip")
    one = build(reader, tmp_path / "one", 6, "png")
    two = build(reader, tmp_path / "two", 6, "png", workers=2)
    assert one.digest == two.digest and len(one) == 27
    assert np.array_equal(one.actions[3:6], reader.episode(1).actions)
