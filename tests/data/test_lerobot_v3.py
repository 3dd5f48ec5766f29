import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_data import cameras, dataset, episode, spec, writer

from vlm4vla.data.formats import lerobot_layout as layout
from vlm4vla.data.readers.lerobot_v3 import Reader
from vlm4vla.types import UserError


def contents(root: Path) -> dict[str, bytes]:
    return {str(f.relative_to(root)): f.read_bytes() for f in sorted(root.rglob("*")) if f.is_file()}


def assert_same(read, written):
    assert (read.instruction, read.task, read.source) == (written.instruction, written.task, written.source)
    assert dict(read.info) == dict(written.info)
    assert read.actions.dtype == np.float32 and np.array_equal(read.actions, written.actions)
    assert (read.states is None) == (written.states is None)
    if written.states is not None:
        assert np.array_equal(read.states, written.states)
    assert set(read.images) == set(written.images)
    for name, frames in written.images.items():
        assert np.array_equal(np.stack(list(read.images[name])), frames)
        assert np.array_equal(read.images[name][len(frames) - 1], frames[-1])


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    arm=st.integers(1, 4),
    gripper=st.booleans(),
    states=st.integers(0, 3),
    views=st.integers(1, 3),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    hz=st.sampled_from([20.0, 3.0, 12.5]),
)
def test_what_is_written_is_read_back(lengths, arm, gripper, states, views, size, hz):
    action_spec, seen = spec(arm, gripper, hz), cameras(*"abc"[:views], size=size)
    written = [episode(n, length, action_spec, seen, states) for n, length in enumerate(lengths)]
    with TemporaryDirectory() as folder:
        out = writer(Path(folder) / "set", action_spec, seen, states)
        for n, e in enumerate(written):
            out.add(f"{n:03d}", e)
        out.finish()
        reader = Reader(Path(folder) / "set")
        assert len(reader) == len(written)
        assert reader.action_spec == action_spec and reader.cameras == seen
        assert reader.state_names == tuple(f"s{i}" for i in range(states))
        for n in reversed(range(len(written))):
            assert_same(reader.episode(n), written[n])


def test_bytes_do_not_depend_on_order_of_arrival_or_on_a_kill(tmp_path):
    action_spec, views = spec(), cameras("front")
    episodes = {f"{n:03d}": episode(n, 3 + n, action_spec, views) for n in range(4)}
    straight = writer(tmp_path / "a", action_spec, views)
    for key, e in episodes.items():
        straight.add(key, e)
    straight.finish()

    writer(tmp_path / "b", action_spec, views).add("002", episodes["002"])
    (tmp_path / "b" / ".staging" / ".001.parquet.1.part").write_bytes(b"torn")  # what a kill leaves
    (tmp_path / "b" / "data").mkdir()  # of a run killed between the two last moves
    again = writer(tmp_path / "b", action_spec, views)
    assert again.staged() == ["002"] and not again.finished
    for key in ("003", "000", "001"):
        again.add(key, episodes[key])
    again.finish()
    assert again.finished and contents(tmp_path / "a") == contents(tmp_path / "b")
    assert Reader(tmp_path / "a").digest() == Reader(tmp_path / "b").digest()


def test_only_chosen_keys_are_joined(tmp_path):
    action_spec, views = spec(), cameras("front")
    out = writer(tmp_path / "set", action_spec, views)
    for n in range(3):
        out.add(f"{n}", episode(n, 2, action_spec, views))
    out.finish(["2", "0"])
    assert [Reader(tmp_path / "set").episode(i).source for i in range(2)] == [100, 102]


def test_a_folder_of_other_settings_is_refused(tmp_path):
    writer(tmp_path, spec(), cameras("front"), noise=0.1)
    writer(tmp_path, spec(), cameras("front"), noise=0.1)
    with pytest.raises(UserError, match="other settings"):
        writer(tmp_path, spec(), cameras("front"), noise=0.2)
    dataset(tmp_path / "done")
    with pytest.raises(UserError, match="other settings"):
        writer(tmp_path / "done", spec(), cameras("front"))


def test_the_layout_is_that_of_lerobot(tmp_path):
    dataset(tmp_path, lengths=(5, 3))
    info = json.loads((tmp_path / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["fps"] == 20 and info["splits"] == {"train": "0:2"}
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (2, 8, 2)
    assert info["features"]["observation.images.front"] == {
        "dtype": "image",
        "shape": [8, 12, 3],
        "names": ["height", "width", "channels"],
    }
    table = pq.read_table(tmp_path / info["data_path"].format(chunk_index=0, file_index=0))
    assert table.column("index").to_pylist() == list(range(8))
    assert table.column("frame_index").to_pylist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert np.allclose(table.column("timestamp").to_numpy(), [0, 0.05, 0.1, 0.15, 0.2, 0, 0.05, 0.1])
    assert table.schema.field("observation.images.front").type == pa.struct({"bytes": pa.binary(), "path": pa.string()})
    assert isinstance(datasets.Features.from_arrow_schema(table.schema)["observation.images.front"], datasets.Image)
    rows = pq.read_table(tmp_path / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(r["dataset_from_index"], r["dataset_to_index"], r["length"]) for r in rows] == [(0, 5, 5), (5, 8, 3)]
    assert rows[1]["tasks"] == ["do thing 1"] and rows[1]["data/file_index"] == 0
    tasks = pq.read_table(tmp_path / "meta/tasks.parquet").to_pandas()
    assert tasks.index.tolist() == ["do thing 0", "do thing 1"] and tasks.task_index.tolist() == [0, 1]


def test_statistics_are_those_of_the_numbers(tmp_path):
    reader = dataset(tmp_path, lengths=(6, 9))
    stats = json.loads((tmp_path / "meta/stats.json").read_text())
    actions = np.concatenate([reader.episode(i).actions for i in range(2)]).astype(float)
    pixels = np.concatenate([np.stack(list(reader.episode(i).images["wrist"])) for i in range(2)]) / 255.0
    assert np.allclose(stats["action"]["std"], actions.std(0)) and stats["action"]["count"] == [15]
    assert np.allclose(stats["action"]["q01"], np.quantile(actions, 0.01, axis=0))
    found = stats["observation.images.wrist"]
    assert np.shape(found["mean"]) == (3, 1, 1) and found["count"] == [15]
    for name, value in (("mean", pixels.mean((0, 1, 2))), ("std", pixels.std((0, 1, 2)))):
        assert np.allclose(np.ravel(found[name]), value)
    assert np.allclose(np.ravel(found["max"]), pixels.max((0, 1, 2)))
    flat = pixels.reshape(-1, 3)
    assert np.allclose(np.ravel(found["q90"]), np.quantile(flat, 0.9, axis=0, method="inverted_cdf"))


def test_statistics_of_pictures_of_few_values():
    pictures = np.array([51, 51, 51, 102], np.uint8).reshape(1, 2, 2, 1).repeat(3, 3)
    stats = layout.image_stats(layout.image_histogram(pictures), 1)
    expected = {"min": 0.2, "max": 0.4, "mean": 0.25, "q01": 0.2, "q50": 0.2, "q90": 0.4}
    for name, value in expected.items():
        assert np.allclose(stats[name].ravel(), value), name


def test_large_sets_are_split_into_files(tmp_path, monkeypatch):
    monkeypatch.setattr("vlm4vla.data.formats.lerobot_layout.DATA_FILE_MB", 0.005)
    monkeypatch.setattr("vlm4vla.data.formats.lerobot_layout.CHUNK_FILES", 2)
    reader = dataset(tmp_path, lengths=(4, 4, 4, 4, 4))
    files = sorted(f.relative_to(tmp_path).as_posix() for f in (tmp_path / "data").rglob("*.parquet"))
    assert len(files) > 2 and files[2] == "data/chunk-001/file-000.parquet"
    for n in (4, 0, 2):
        assert_same(reader.episode(n), episode(n, 4, spec(), cameras("front", "wrist")))


def foreign(root: Path) -> Path:
    """The same data set as somebody else would have written it: nothing of ours in info.json."""
    dataset(root)
    info = json.loads((root / "meta/info.json").read_text())
    del info["vlm4vla"]
    info["features"]["observation.state"]["names"] = {"motors": ["hip", "knee"]}
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


def test_without_an_action_spec_a_foreign_set_is_refused(tmp_path):
    root = foreign(tmp_path / "set")
    with pytest.raises(UserError, match="what its action numbers mean"):
        Reader(root)
    given_spec = Reader(root, spec())
    assert given_spec.action_spec == spec() and given_spec.state_names == ("hip", "knee")
    assert given_spec.episode(1).task == given_spec.episode(1).instruction == "do thing 1"
    with pytest.raises(UserError, match="4 numbers, the action spec 3"):
        Reader(root, spec(arm=2))


def test_a_camera_gets_the_name_of_a_simulator(tmp_path):
    root = foreign(tmp_path / "set")
    plain = Reader(root, spec())
    renamed = Reader(root, spec(), cameras="observation.images.wrist=eye_in_hand, front")
    assert [c.name for c in plain.cameras] == ["front", "wrist"]
    assert [c.name for c in renamed.cameras] == ["eye_in_hand", "front"]
    a, b = plain.episode(1).images, renamed.episode(1).images
    assert np.array_equal(np.stack(list(a["wrist"])), np.stack(list(b["eye_in_hand"])))
    assert np.array_equal(np.stack(list(a["front"])), np.stack(list(b["front"])))
    assert renamed.digest() != plain.digest()
    for named, told in (("front=a,wrist=a", "one name"), ("front=", "or one none"), ("frnt=a", "'frnt'")):
        with pytest.raises(UserError, match=told):
            Reader(root, spec(), cameras=named)


def test_an_action_spec_file_converts_the_gripper(tmp_path):
    root = foreign(tmp_path / "set")
    straight = Reader(root, spec()).episode(0).actions
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(json.loads(json.dumps(spec().to_dict())) | {"gripper": {"open": -1, "closed": 1}}))
    flipped = Reader(root, spec=file)
    assert flipped.action_spec == spec()
    assert np.array_equal(flipped.episode(0).actions[:, 3], -straight[:, 3])
    assert np.array_equal(flipped.episode(0).actions[:, :3], straight[:, :3])
    assert flipped.digest() != Reader(root, spec()).digest()
    file.write_text(yaml.safe_dump(json.loads(json.dumps(spec().to_dict())) | {"gripper": {"open": 0.5, "closed": 0}}))
    with pytest.raises(UserError, match=r"-1 \(closed\) to \+1 \(open\)"):
        Reader(root, spec=file).episode(0)
    file.write_text("dimensions: 3")
    with pytest.raises(UserError, match="not an action spec"):
        Reader(root, spec=file)


def test_damage_and_wrong_versions_are_refused(tmp_path):
    root = tmp_path / "set"
    before = dataset(root).digest()
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v2.1"}))
    with pytest.raises(UserError, match=r"v2\.1"):
        Reader(root)
    (root / "meta/info.json").write_text(json.dumps(info | {"data_path": "../outside.parquet"}))
    shutil.copy(root / "data/chunk-000/file-000.parquet", tmp_path / "outside.parquet")
    with pytest.raises(UserError, match="has no file"):
        Reader(root).episode(0)
    (root / "meta/info.json").write_text(json.dumps(info, indent=4))
    file = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.slice(1), file)
    assert Reader(root).digest() != before
    with pytest.raises(UserError, match="not where meta/episodes says"):
        Reader(root).episode(0)
    with pytest.raises(UserError, match=r"no meta/info\.json"):
        Reader(tmp_path)


def test_a_later_tasks_table_and_other_row_groups_are_read(tmp_path):
    root = tmp_path / "set"
    expected = [dataset(root).episode(i) for i in range(3)]
    table = pq.read_table(root / "meta/tasks.parquet").rename_columns(["task_index", "task"]).replace_schema_metadata()
    pq.write_table(table, root / "meta/tasks.parquet")
    file = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(file), file, row_group_size=4)  # episodes start and end inside groups
    for i, e in enumerate(expected):
        assert_same(Reader(root).episode(i), replace(e, images={k: np.stack(list(v)) for k, v in e.images.items()}))


def test_an_instruction_that_changes_on_the_way_is_refused(tmp_path):
    dataset(tmp_path, lengths=(4, 4))
    file = tmp_path / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    place = table.schema.get_field_index("task_index")
    pq.write_table(table.set_column(place, "task_index", pa.array([0, 1, 1, 0, 1, 1, 1, 1])), file)
    with pytest.raises(UserError, match="changes its instruction"):
        Reader(tmp_path).episode(0)
    assert Reader(tmp_path).episode(1).instruction == "do thing 1"


def test_a_reader_travels_to_another_process(tmp_path):
    reader = dataset(tmp_path)
    reader.episode(0)
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.digest() == reader.digest() and np.array_equal(copy.episode(2).actions, reader.episode(2).actions)


def test_a_moved_data_set_has_the_same_digest(tmp_path):
    before = dataset(tmp_path / "a").digest()
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert Reader(tmp_path / "b").digest() == before
