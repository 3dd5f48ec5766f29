"""What the RLDS reader refuses: damage, files that do not belong together, hostile ones, mistakes in options."""

import json

import pytest
import tfds_files as made

from vlm4vla.data.formats import tfds
from vlm4vla.data.readers.rlds import Reader
from vlm4vla.types import UserError


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path):
    record = made.record(0, 5, made.BRIDGE)
    pictures = record["steps/observation/image_0"]
    pictures[2] = pictures[2][:-40]
    made.write(tmp_path, [[record]], made.layout(made.BRIDGE))
    frames = Reader(tmp_path, variant="bridge").episode(0).images["image_0"]
    assert frames[0].shape == (6, 8, 3)
    with pytest.raises(UserError, match=r"Picture 2 of steps/observation/image_0 in the record at byte 12 of .*toy-"):
        list(frames)
    for junk in (b"", b"GIF89a", b"no picture"):
        pictures[2] = junk
        made.write(tmp_path, [[record]], made.layout(made.BRIDGE))
        with pytest.raises(UserError, match=r"Picture 2 of .*image_0 .*cannot be decoded"):
            Reader(tmp_path, variant="bridge").episode(0)


def edited(folder, name, change):
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))


def steps(features):
    return features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]


def observation(features):
    return steps(features)["observation"]["featuresDict"]["features"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda f: observation(f).update(image_0=made.image(6, 9, 3)),
            r"image_0 holds a picture 0 of 6 x 8.* 6 x 9 x 3",
        ),
        (lambda f: observation(f).update(image_0=made.image(-1, -1, 3)), r"image_0 of .* has shape \[-1, -1, 3\]"),
        (lambda f: observation(f).update(image_0=made.image(6, 8, 1)), r"image_0 of .* has shape \[6, 8, 1\]"),
        (lambda f: observation(f).update(state=made.tensor("float32", 8)), r"has shape \[8\].*7 numbers: x, y, z"),
        (lambda f: steps(f).update(action=made.tensor("float32", 4)), r"shape \[4\], the action spec 7"),
        (lambda f: steps(f).update(action=made.tensor("int32", 7)), r"steps/action holds float32, .* says int32"),
        (lambda f: steps(f).update(action=made.tensor("string", 7)), r"steps/action holds float32, .* says string"),
        (lambda f: steps(f).update(action=made.TEXT), "'steps/action' of .* is text"),
        (lambda f: steps(f)["action"]["tensor"].update(encoding="zlib"), "encoding zlib"),
        (
            lambda f: steps(f).update(language_instruction=made.image(6, 8, 3)),
            "'steps/language_instruction' .* is image",
        ),
        (lambda f: steps(f).pop("language_instruction"), "no feature 'steps/language_instruction'"),
        (lambda f: observation(f).clear(), "no camera ''"),
        (lambda f: f["featuresDict"]["features"]["steps"].pop("sequence"), "cannot be understood at 'steps'"),
        (lambda f: f.clear(), "cannot be understood at 'its top'"),
    ],
)
def test_a_wrong_features_json_is_refused(tmp_path, change, said):
    made.write(tmp_path, [[made.record(0, 5, made.BRIDGE)]], made.layout(made.BRIDGE))
    edited(tmp_path, "features.json", change)
    with pytest.raises(UserError, match=said):
        Reader(tmp_path, variant="bridge").episode(0)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("steps/action", [0.0] * 34, r"byte 12, steps/action holds 34 numbers, .* says shape \[7\]"),
        ("steps/action", [0.0] * 28, "byte 12 .*differs in the number of steps: steps/action 4, .*_instruction 5"),
        ("steps/action", [b"x"], "steps/action holds strings"),
        ("steps/observation/image_0", [1.0], "image_0 holds float32 numbers"),
        ("steps/observation/state", None, "steps/observation/state is absent"),
        ("steps/language_instruction", [b"\xff"] * 5, "is not UTF-8 text"),
        ("steps/action", [float("nan")] * 35, "the action of frame 0 is not finite"),
    ],
)
def test_a_record_unlike_features_json_is_refused(tmp_path, name, values, said):
    record = made.record(0, 5, made.BRIDGE)
    record[name] = values
    if values is None:
        del record[name]
    made.write(tmp_path, [[record]], made.layout(made.BRIDGE))
    with pytest.raises(UserError, match=said):
        Reader(tmp_path, variant="bridge", relabel=False).episode(0)


def test_integers_outside_their_type_are_refused(tmp_path):
    record = made.record(0, 3, made.BRIDGE)
    record["steps/is_first"] = [0, 1, 2]
    made.write(tmp_path, [[record]], made.layout(made.BRIDGE))
    folder = tfds.Folder(tmp_path, "train")
    with pytest.raises(UserError, match=r"steps/is_first holds 0 to 2, features.json says bool"):
        tfds.numbers(folder.example(0), folder.features["steps/is_first"])


def test_too_short_episodes_are_refused(tmp_path):
    made.write(tmp_path, [[made.record(0, 2, made.BRIDGE)]], made.layout(made.BRIDGE))
    with pytest.raises(UserError, match=r"byte 12 .* has 2 steps. Possible: at least 3"):
        Reader(tmp_path, variant="bridge").episode(0)
    assert Reader(tmp_path, variant="bridge", relabel=False).episode(0).length == 1


def test_shards_that_are_missing_or_too_many_are_named(tmp_path):
    records = [made.record(n, 4, made.BRIDGE) for n in range(3)]
    made.write(tmp_path, [[r] for r in records], made.layout(made.BRIDGE))
    extra = tmp_path / "toy-train.tfrecord-00003-of-00004"
    extra.write_bytes(b"")
    with pytest.raises(UserError, match=r"toy-train.tfrecord-00003-of-00004 is none of its shards"):
        Reader(tmp_path, variant="bridge")
    extra.unlink()
    (tmp_path / "toy-train.tfrecord-00001-of-00003").unlink()
    with pytest.raises(UserError, match=r"toy-train.tfrecord-00001-of-00003 is missing"):
        Reader(tmp_path, variant="bridge")


def test_a_shard_with_another_number_of_records_is_named(tmp_path):
    made.write(tmp_path, [[made.record(n, 4, made.BRIDGE) for n in range(2)]], made.layout(made.BRIDGE))
    edited(tmp_path, "dataset_info.json", lambda info: info["splits"][0].update(shardLengths=["3"]))
    with pytest.raises(UserError, match=r"00000-of-00001 holds 2 records \(\d+ bytes\), dataset_info.json says 3"):
        Reader(tmp_path, variant="bridge").episode(0)


def test_damage_in_a_shard_is_named_with_file_and_byte(tmp_path):
    made.write(tmp_path, [[made.record(n, 4, made.BRIDGE) for n in range(2)]], made.layout(made.BRIDGE))
    file = tmp_path / "toy-train.tfrecord-00000-of-00001"
    data = bytearray(file.read_bytes())
    data[-30] ^= 1
    file.write_bytes(data)
    reader = Reader(tmp_path, variant="bridge")
    at = int(reader._folder.records(0)[1, 0])
    assert reader.episode(0).length == 2
    with pytest.raises(UserError, match=rf"{file.name} is damaged or cut at byte {at}: the checksum"):
        reader.episode(1)
    file.write_bytes(data[:-5])
    with pytest.raises(UserError, match=rf"{file.name} is damaged or cut at byte {at - 12}: a record"):
        Reader(tmp_path, variant="bridge").episode(0)


def test_a_record_that_cannot_be_searched_for_its_instruction_is_named(tmp_path):
    made.write(tmp_path, [[made.record(n, 4, made.BRIDGE) for n in range(2)]], made.layout(made.BRIDGE))
    file = tmp_path / "toy-train.tfrecord-00000-of-00001"
    for broken, said in (
        (b"\x0a\x2c\x0a\x2a\x0a\x1asteps/language_instruction\x12\x0c\x1a\x0a\x0a\x08" + b"\x80" * 8, "does not end"),
        (b"\x0a\x7f", "a field of 127 bytes where 0 are left"),
        (made.encode({"steps/language_instruction": [7]}), "holds int64 numbers"),
    ):
        file.write_bytes(made.frame(made.encode(made.record(0, 4, made.BRIDGE))) + made.frame(broken))
        reader = Reader(tmp_path, variant="bridge", unlabeled="skip")
        at = int(reader._folder.records(0)[1, 0])
        with pytest.raises(UserError, match=rf"record at byte {at}.*{said}"):
            len(reader)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i: i.update(name="../toy"), r"named .* with '\.\./toy'"),
        (lambda i: i.update(fileFormat="array_record"), "format 'array_record'"),
        (lambda i: i["splits"][0].update(filepathTemplate="{DATASET}.x"), "named '{DATASET}.x'"),
        (lambda i: i["splits"][0].update(shardLengths=["-1"]), "describes shards"),
        (lambda i: i["splits"][0].pop("shardLengths"), "cannot be understood: KeyError 'shardLengths'"),
        (lambda i: i.update(splits=7), "cannot be understood: TypeError"),
    ],
)
def test_a_hostile_dataset_info_is_refused(tmp_path, change, said):
    made.write(tmp_path, [[made.record(0, 4, made.BRIDGE)]], made.layout(made.BRIDGE))
    edited(tmp_path, "dataset_info.json", change)
    with pytest.raises(UserError, match=said):
        Reader(tmp_path, variant="bridge")


def test_mistakes_in_options_are_refused(tmp_path):
    made.write(tmp_path, [[made.record(0, 4, made.BRIDGE)]], made.layout(made.BRIDGE))
    for options, said in (
        ({"variant": "brigde"}, "Did you mean 'bridge'"),
        ({"variant": "bridge", "unlabeled": "drop"}, "refuse, skip"),
        ({"variant": "bridge", "split": "trian"}, "Did you mean 'train'"),
        ({"variant": "bridge", "cameras": "image_9"}, "no camera 'image_9'.*image_0, image_1"),
        ({"variant": "bridge", "cameras": "image_0,image_0"}, "named twice"),
        ({"variant": "libero"}, "8 numbers"),
        ({"variant": "libero", "relabel": False}, "relabel with variant bridge"),
    ):
        with pytest.raises(UserError, match=said):
            Reader(tmp_path, **options)
    with pytest.raises(UserError, match=r"features\.json is missing"):
        Reader(tmp_path / "absent", variant="bridge")
    (tmp_path / "features.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        Reader(tmp_path, variant="bridge")
