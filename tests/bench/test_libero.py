"""What the main environment sees of the benchmark: no simulator is imported here."""

import hashlib
import io
import json
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vlm4vla.bench.libero import files, protocol, starts, variants
from vlm4vla.bench.libero.env import SUITES_SETTING, Benchmark, decides_scores
from vlm4vla.bench.libero.tasks import DEFAULT, SUITE_OF, SUITES, instruction
from vlm4vla.data.formats import libero_layout as layout
from vlm4vla.types import SPLITS, UserError, step_limit_of

BOWL = "pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate"


def test_forty_tasks_each_with_the_instruction_of_published_evaluations():
    bench = Benchmark()
    assert bench.tasks() == tuple(task for suite in DEFAULT for task in SUITES[suite]) and len(bench.tasks()) == 40
    assert [len(names) for names in SUITES.values()] == [10, 10, 10, 10, 90] and len(SUITE_OF) == 130
    texts = [bench.instruction(task) for task in bench.tasks()]
    assert len(set(texts)) == 40
    for text in texts:
        assert text == text.lower() and text.replace(" ", "").isalpha(), text
    assert instruction("KITCHEN_SCENE8_put_both_moka_pots_on_the_stove") == "put both moka pots on the stove"
    assert not {"mujoco", "robosuite", "libero"} & set(sys.modules)


def test_its_numbers_mean_what_those_of_its_data_files_mean():
    """Benchmark and data rooms do not import each other, so this is stated twice."""
    bench = Benchmark()
    assert bench.action_spec.differences(layout.SPEC) == []
    assert [camera.name for camera in bench.cameras] == list(layout.CAMERAS)
    assert bench.state_names == layout.state_names(("ee_states", "gripper_states"))
    opening = np.array([[0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, -1]], np.float32)
    assert layout.flipped(opening)[:, 6].tolist() == [protocol.OPEN, protocol.CLOSE]
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert protocol.HALF_TURN and np.array_equal(layout.turned(picture), picture[::-1, ::-1])


def test_each_suite_has_its_published_step_limit():
    bench = Benchmark()
    limits = {suite: {step_limit_of(bench, task) for task in names} for suite, names in SUITES.items()}
    four = {"libero_10": {520}, "libero_goal": {300}, "libero_object": {280}, "libero_spatial": {220}}
    assert limits == four | {"libero_90": {400}}
    assert bench.step_limit == 520


def test_other_suites_are_listed_when_asked_for(monkeypatch):
    monkeypatch.setenv(SUITES_SETTING, "libero_90")
    bench = Benchmark()
    assert len(bench.tasks()) == 90 and bench.step_limit == 400 and bench.id == "libero-v1"
    assert bench.instruction("KITCHEN_SCENE8_turn_off_the_stove") == "turn off the stove"
    monkeypatch.setenv(SUITES_SETTING, "libero_goal,libero_90")
    assert Benchmark().tasks()[:10] == SUITES["libero_goal"]
    monkeypatch.setenv(SUITES_SETTING, "libero_9")
    with pytest.raises(UserError, match="Did you mean 'libero_90'"):
        Benchmark()


def test_protocols_of_other_tools_are_versions_of_their_own(monkeypatch):
    ours = Benchmark()
    monkeypatch.setenv(variants.SETTING, "lerobot")
    theirs = Benchmark()
    assert theirs.id == "libero-v1+lerobot" and theirs.episodes("eval", BOWL, 1)[0].benchmark == theirs.id
    changed = {SUITE_OF[task] for task, limit in theirs.step_limits.items() if limit != ours.step_limits[task]}
    assert changed == {"libero_spatial"} and step_limit_of(theirs, BOWL) == 280 and theirs.cameras == ours.cameras
    monkeypatch.setenv(variants.SETTING, "original")
    first = Benchmark()
    assert first.id == "libero-v1+original" and set(first.step_limits.values()) == {600} == {first.step_limit}
    assert {(camera.height, camera.width) for camera in first.cameras} == {(128, 128)}
    assert [camera.name for camera in first.cameras] == [camera.name for camera in ours.cameras]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("openpi", "once per task, with 7.*where a seed of 0 puts them at every start"),
        ("openvla-oft", "once per task, with 0"),
        ("lerobo", "Did you mean 'lerobot'"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(monkeypatch, name, said):
    monkeypatch.setenv(variants.SETTING, name)
    with pytest.raises(UserError, match=said):
        Benchmark()


def test_tasks_whose_files_are_missing_are_refused_together_before_any_is_played(monkeypatch, tmp_path):
    monkeypatch.setenv("VLM4VLA_HOME", str(tmp_path))
    monkeypatch.setenv(SUITES_SETTING, "libero_90")
    bench = Benchmark()
    Benchmark().must_have_assets([task for suite in DEFAULT for task in SUITES[suite]])  # needs no folder yet
    plan = json.loads(Path(files.__file__).with_name("assets.json").read_text())
    there, lacking = plan["only_libero_90"]["wooden_tray"]["model"], plan["only_libero_90"]["white_bowl"]["model"]
    for name in (*plan["required"], *(thing["model"] for thing in plan["only_libero_90"].values())):
        file = tmp_path / "assets/libero" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    bench.must_have_assets(bench.tasks())
    (tmp_path / "assets/libero" / lacking).unlink()
    (tmp_path / "assets/libero" / there).write_text('<mesh file="visual/gone.msh"/>')
    with pytest.raises(UserError) as told:
        bench.must_have_assets(bench.tasks())
    problem, possible = str(told.value).split(" Possible: ")
    refused = [task for task in bench.tasks() if task in problem]
    assert refused == [
        task
        for task in bench.tasks()
        if task.startswith(("KITCHEN_SCENE7", "KITCHEN_SCENE9", "LIVING_ROOM_SCENE3", "LIVING_ROOM_SCENE4"))
    ]
    assert lacking in problem and f"{Path(there).parent}/visual/gone.msh" in problem and there not in problem
    assert all(task in possible for task in set(bench.tasks()) - set(refused)) and "--tasks" in possible
    with pytest.raises(UserError, match="LIBERO's own repository"):
        bench.must_have_assets(refused[:1])


def test_starts_are_fixed_disjoint_and_grow_at_the_end():
    bench = Benchmark()
    for task in bench.tasks():
        seeds = [e.seed for split in SPLITS for e in bench.episodes(split, task, 60)]
        assert len(set(seeds)) == len(seeds) == 60 + 60 + 50
    assert [e.seed for e in bench.episodes("eval", BOWL, 99)] == list(range(50))  # the states that come with it
    assert bench.episodes("dev", BOWL, 3) == bench.episodes("dev", BOWL, 8)[:3]
    # Pinned: another numpy or a slip in the key would silently be another benchmark.
    assert starts.start_seed("train", BOWL, 0) == 8744406579575403
    assert bench.episodes("dev", BOWL, 1)[0].benchmark == "libero-v1"


def test_unknown_names_are_refused():
    bench = Benchmark()
    with pytest.raises(UserError, match=f"Did you mean '{BOWL}'"):
        bench.instruction(BOWL[:-1])
    with pytest.raises(UserError, match="train, dev, eval"):
        bench.episodes("test", BOWL, 1)
    with pytest.raises(UserError, match="bench install libero"):
        bench.make(BOWL)  # no simulator in the main environment


def digest():
    return hashlib.sha256(json.dumps(decides_scores(), sort_keys=True).encode()).hexdigest()


def test_what_decides_scores_is_pinned_to_the_id():
    assert digest() == protocol.DIGEST, (
        "Something that decides scores has changed: results of before and after must not be compared. Give the "
        f"benchmark a new ID in bench/libero/protocol.py, write DIGEST = {digest()!r} beside it, mend the README."
    )


@pytest.mark.parametrize("name", [n for n in vars(protocol) if n.isupper() and n not in ("ID", "DIGEST")])
def test_every_constant_of_the_protocol_changes_the_digest(monkeypatch, name):
    value = getattr(protocol, name)
    if name == "STEP_LIMITS":
        changed = value | {"libero_10": 600}
    elif name == "CAMERAS":
        changed = value | {"agentview": "frontview"}
    else:
        changed = 12345
    monkeypatch.setattr(protocol, name, changed)
    assert digest() != protocol.DIGEST


def archive(path, content):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content)
    return path


def test_initial_states_are_read_without_torch(tmp_path):
    states = np.random.default_rng(0).normal(size=(protocol.EVAL_STARTS, 7))
    written = pickle.dumps(states, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert np.array_equal(starts.initial_states(archive(tmp_path / "a", written)), states)


def test_a_file_of_states_can_run_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    written = io.BytesIO()
    pickle.dump(Evil(), written, protocol=2)
    with pytest.raises(UserError, match="nothing of it was executed"):
        starts.initial_states(archive(tmp_path / "a", written.getvalue()))
