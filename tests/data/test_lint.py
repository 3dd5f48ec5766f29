"""``data check`` finds each seeded defect, and nothing in a clean set."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from moving_data import HZ, SPEC, Memory, moving_episode, moving_store, without_states
from samples import robot_data

from vlm4vla.cli.main import main
from vlm4vla.data.base import RawEpisode, open_reader
from vlm4vla.data.build import build
from vlm4vla.data.checks.check import Report, lint
from vlm4vla.data.checks.findings import Finding
from vlm4vla.types import ActionSpec


def found(report: Report) -> dict[str, str]:
    return {f.check: f.severity for f in report.findings}


def one(report: Report, check: str) -> Finding:
    (finding,) = [f for f in report.findings if f.check == check]
    assert finding.measured.endswith((".", "?")) and finding.todo.endswith(".")
    return finding


def actions(e: RawEpisode, change) -> RawEpisode:
    """``change`` works on a copy of the actions, in place."""
    values = e.actions.copy()
    change(values)
    return replace(e, actions=values.astype(np.float32))


def flip(e: RawEpisode) -> RawEpisode:
    return actions(e, lambda a: np.negative(a[:, 4], out=a[:, 4]))


def late(e: RawEpisode, frames: int = 3) -> RawEpisode:
    """Pictures that come ``frames`` steps after the numbers."""
    order = np.clip(np.arange(e.length) - frames, 0, e.length - 1)
    return replace(e, images={name: views[order] for name, views in e.images.items()})


@pytest.mark.parametrize("change", [None, without_states])
@pytest.mark.parametrize("numbers", [range(8), range(20, 32), range(1)])
def test_clean_sets_have_no_findings(tmp_path, change, numbers):
    store = moving_store(tmp_path / "a", change, numbers)
    val = moving_store(tmp_path / "b", change, range(100, 104))
    report = lint(store, val=val, against=("toy", SPEC), deep=True)
    assert report.findings == () and report.summary(store).startswith("no findings")


@pytest.mark.parametrize(
    ("name", "check", "severity", "words"),
    [
        ("flipped gripper", "gripper-sense", "error", "opposite ways"),
        ("gripper from 0 to 1", "gripper-range", "error", "never told to close"),
        ("millimetres", "unit", "error", "millimetres"),
        ("degrees", "unit", "error", "degrees"),
        ("slow millimetres", "unit", "error", "1000 times the motion of the state 'x_m'"),
        ("outside", "limits", "error", "dx is outside its limits"),
        ("cut off", "saturated", "warning", "data's own extremes"),
        ("at the limits", "saturated", "warning", "at its limits"),
        ("still dimension", "constant", "warning", "dz = 0"),
        ("hung recorder", "frozen", "warning", "no action changes"),
        ("pauses", "no-op", "warning", "command no motion"),
        ("late pictures", "time-shift", "error", "3 frames earlier"),
        ("early pictures", "time-shift", "error", "2 frames later"),
        ("late actions", "time-shift", "error", "before it is told to"),
        ("frozen camera", "camera-frozen", "error", "the same picture while the robot moves"),
        ("black camera", "camera-blank", "error", "black"),
        ("grey camera", "camera-blank", "error", "of one colour"),
        ("no words", "instruction-empty", "error", "no instruction"),
        ("one sentence", "instruction-same", "error", "All 3 tasks"),
        ("control characters", "instruction-characters", "warning", "do not print"),
        ("bytes as text", "instruction-characters", "warning", "do not print"),
        ("blanks at the end", "instruction-characters", "warning", "blanks"),
        ("another sentence", "instruction-evaluated", "warning", "8 of 8 episodes are told other words than eval"),
    ],
)
def test_seeded_defects(tmp_path, name, check, severity, words):
    def still_camera(e):
        return replace(e, images=e.images | {"wrist": np.repeat(e.images["wrist"][:1], e.length, axis=0)})

    def painted(e, level):
        return replace(e, images=e.images | {"wrist": np.full_like(e.images["wrist"], level)})

    def hang(a):
        a[10:] = a[10]

    def pause(a):
        a[5:29, :4] = 0

    def half(a):
        a[:, 4] = (a[:, 4] + 1) / 2

    def scale(a, columns, factor):
        a[:, columns] *= factor

    def slow(e):
        e = replace(e, states=e.states * np.float32([1e-3, 1, 1, 1, 1]))
        return replace(e, images=moving_episode(e.source).images)

    def at_limits(a):
        a[:, 1] = np.where(np.abs(a[:, 1]) > 0.001, np.sign(a[:, 1]) * 0.1, a[:, 1])

    def saying(text):
        return lambda e: replace(e, instruction=text.format(e.instruction))

    changes = {
        "flipped gripper": flip,
        "gripper from 0 to 1": lambda e: actions(e, half),
        "millimetres": lambda e: actions(e, lambda a: scale(a, slice(0, 3), 1000)),
        "degrees": lambda e: actions(e, lambda a: scale(a, 3, 180 / np.pi)),
        "slow millimetres": slow,
        "outside": lambda e: actions(e, lambda a: scale(a, 0, 4)),
        "cut off": lambda e: actions(e, lambda a: np.clip(a[:, 0], -0.005, 0.005, out=a[:, 0])),
        "at the limits": lambda e: actions(e, at_limits),
        "still dimension": lambda e: actions(e, lambda a: scale(a, 2, 0)),
        "hung recorder": lambda e: actions(e, hang),
        "pauses": lambda e: actions(e, pause),
        "late pictures": late,
        "early pictures": lambda e: late(e, -2),
        "late actions": lambda e: replace(e, actions=np.roll(e.actions, 3, axis=0)),
        "frozen camera": still_camera,
        "black camera": lambda e: painted(e, 0),
        "grey camera": lambda e: painted(e, 130),
        "no words": saying("  "),
        "one sentence": saying("do it"),
        "control characters": saying("{}\x00"),
        "bytes as text": saying("b'{}'"),
        "blanks at the end": saying("{} "),
        "another sentence": lambda e: replace(e, info={**e.info, "evaluated_as": "Pick the akita black bowl"}),
    }
    report = lint(moving_store(tmp_path, changes[name]))
    matching = [f for f in report.findings if f.check == check and words in f.measured]
    assert matching and {f.severity for f in matching} == {severity}, report.findings
    assert report.findings[0].severity == ("error" if report.errors else "warning")
    several = ("late actions", "pauses", "at the limits", "hung recorder")  # which show in more than one way
    if name not in several:
        assert set(found(report)) == {check}, report.findings  # one defect, one finding


def test_a_minority_with_the_other_gripper_sense_is_found(tmp_path):
    """Two sets of two conventions, merged."""
    report = lint(moving_store(tmp_path, lambda e: flip(e) if e.source % 10 == 3 else e, range(40)))
    (finding,) = report.findings
    assert finding.check == "gripper-sense" and finding.severity == "warning"
    assert "In 4 of 40 episodes" in finding.measured


def test_a_gripper_that_is_never_told_to_close_is_found_without_an_exact_zero(tmp_path):
    def half(a):
        a[:, 4] = 0.5 + 0.48 * a[:, 4]

    report = lint(moving_store(tmp_path, lambda e: actions(e, half)))
    assert [f.measured for f in report.findings if f.check == "gripper-range"] == [
        "gripper lies between 0.02 and 0.98: it is never told to close (-1)."
    ]


@pytest.mark.parametrize(("change", "words"), [(flip, "begin with a closing"), (late, "actions 3 frames earlier")])
def test_without_states_the_defects_are_found_as_well(tmp_path, change, words):
    report = lint(moving_store(tmp_path, lambda e: without_states(change(e)), range(12)))
    assert any(words in f.measured for f in report.findings if f.check in ("gripper-sense", "time-shift"))


def test_numbers_that_are_not_finite_are_named_with_frame_and_episode(tmp_path):
    def poison(e):
        if e.source == 3:
            e.states[7, 1] = np.inf
        return actions(e, lambda a: a.__setitem__((5, 2), np.nan)) if e.source in (2, 6) else e

    report = lint(moving_store(tmp_path, poison))
    first, second = [f for f in report.findings if f.check == "finite"]
    assert "2 actions" in first.measured and "frame 5 of episode 2" in first.measured and first.episodes == (2, 6)
    assert "1 states" in second.measured and "frame 7 of episode 3" in second.measured and second.episodes == (3,)
    json.dumps(report.to_dict(), allow_nan=False)


def test_copies_and_leaks(tmp_path):
    twice = moving_store(tmp_path / "a", None, (0, 1, 2, 1, 4))
    finding = one(lint(twice), "duplicate")
    assert finding.episodes == (3,) and "1 episodes repeat" in finding.measured and "1 and 3" in finding.measured
    retold = [moving_episode(0), replace(moving_episode(1), actions=moving_episode(0).actions)]
    finding = one(lint(build(Memory(retold), tmp_path / "b", 32, "png")), "duplicate")
    assert "0 episodes repeat" in finding.measured and "1 more its actions only" in finding.measured
    val = moving_store(tmp_path / "c", None, (50, 2, 51))
    finding = one(lint(twice, val=val), "leakage")
    assert finding.severity == "error" and finding.episodes == (2,) and "1 of 3 validation" in finding.measured
    assert "validation episode 1 = training episode 2" in finding.measured


@pytest.mark.parametrize(
    ("lengths", "chunk", "severity", "words"),
    [
        ((5, 6, 7), 8, "error", "100 %"),
        ((5, 6, 60, 60), 8, "warning", "50 %"),
        ((12, 12), 12, "warning", "46 %"),
        ((60, 60), 8, None, ""),
    ],
)
def test_unreachable_chunks(tmp_path, lengths, chunk, severity, words):
    episodes = [moving_episode(i, n) for i, n in enumerate(lengths)]
    report = lint(build(Memory(episodes), tmp_path, 32, "png"), chunk=chunk)
    assert found(report).get("chunk") == severity
    if severity:
        assert words in one(report, "chunk").measured


def test_masked_steps_are_counted_one_by_one(tmp_path):
    lengths, chunk = (3, 9, 5), 5
    store = build(Memory([moving_episode(i, n) for i, n in enumerate(lengths)]), tmp_path, 32, "png")
    inside = [t + k < n for n in lengths for t in range(n) for k in range(chunk)]
    assert f"{100 - 100 * np.mean(inside):.0f} % of all steps" in one(lint(store, chunk=chunk), "chunk").measured


def test_another_spec_is_told_field_by_field(tmp_path):
    other = ActionSpec((replace(SPEC.dimensions[0], unit="mm", high=100.0), *SPEC.dimensions[1:]), "axis_angle", 2 * HZ)
    finding = one(lint(moving_store(tmp_path), against=("toy-v1", other)), "spec")
    for words in ("toy-v1", "dx: unit 'm' against 'mm', high 0.1 against 100.0", "rotation euler_xyz", "10.0 against"):
        assert words in finding.measured
    assert finding.severity == "error" and finding.episodes == ()


def real(tmp_path, name, reader, size, **options):
    """A store of a recorded sample."""
    return build(open_reader(reader, robot_data(name.partition("/")[0]).parent / name, options), tmp_path, size, "jpeg")


BRIDGE = "octo_bridge_debug/bridge_dataset/1.0.0"


def test_recorded_bridge_episodes_are_clean_and_their_seeded_defects_found(tmp_path):
    store = real(tmp_path / "train", BRIDGE, "rlds", 64, variant="bridge", split="train")
    assert lint(store, chunk=4, deep=True).findings == ()
    val = real(tmp_path / "val", BRIDGE, "rlds", 64, variant="bridge", split="val")
    finding = one(lint(store, val=val), "leakage")  # the sample's README says so: both splits hold the same episodes
    assert "25 of 25" in finding.measured
    clean = store.actions
    for column, factor, check in ((6, -1, "gripper-sense"), (slice(0, 3), 1000, "unit"), (slice(3, 6), 57.3, "unit")):
        store.actions = clean.copy()
        store.actions[:, column] *= factor
        assert found(lint(store)) == {check: "error"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lerobot_v21_g1_inspire", {"spec": "g1_inspire.yaml", "episodes": "1,10"}),
        (
            "lerobot_internvla_m1",
            {
                "spec": "internvla_m1_delta_eef.yaml",
                "episodes": "2,3",
                "cameras": "ego_view",
                "action": "action.delta_eef_position,action.delta_eef_rotation,action.gripper_close",
                "state": "state.eef_position,state.eef_rotation,state.gripper_width",
            },
        ),
    ],
)
def test_recorded_lerobot_episodes_are_clean(tmp_path, name, options):
    options = options | {"spec": Path(__file__).parents[2] / "examples/specs" / options["spec"]}
    assert lint(real(tmp_path, name, "lerobot_v21", 64, **options), chunk=10).findings == ()


def test_command_line(tmp_path, capsys):
    clean, bad = moving_store(tmp_path / "clean"), moving_store(tmp_path / "bad", flip)
    assert main(["data", "check", str(clean.path), "--deep"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "" and "no findings; 8 episodes with 480 frames" in shown.err
    assert main(["data", "check", str(bad.path), "--val", str(clean.path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["errors"] == 1 and told["findings"][0]["check"] == "gripper-sense"
    assert told["findings"][0]["episode_count"] == 8 and told["findings"][0]["todo"]
    assert main(["data", "check", str(bad.path)]) == 1
    assert "error: gripper-sense (episodes 0, 1, 2, 3, 4 and 3 more)" in capsys.readouterr().out
    file = clean.path / clean.manifest["groups"][0]["file"]
    data = bytearray(file.read_bytes())
    data[-200] ^= 1
    file.write_bytes(data)
    assert main(["data", "check", str(clean.path)]) == 0  # sizes only
    assert main(["data", "check", str(clean.path), "--deep"]) == 1
    assert "SHA-256 differs" in capsys.readouterr().out
    assert main(["data", "check", str(clean.path), "--bench", "metaworld"]) == 1
    assert main(["data", "check", str(clean.path), "--chunk", "0"]) == 2
