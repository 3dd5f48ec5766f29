"""Every source goes the way of docs/data.md by its commands: build, check, show, one training step."""

from collections.abc import Callable
from pathlib import Path

import calvin_data
import libero_files
import numpy as np
import pytest
import tfds_files
from safetensors.numpy import load_file
from samples import robot_data

from vlm4vla.bench.libero.env import Benchmark
from vlm4vla.cli.main import main
from vlm4vla.data.store import Store

ROOT = Path(__file__).parents[1]
SPECS = ROOT / "examples/specs"
DELTA = "action=action.delta_eef_position,action.delta_eef_rotation,action.gripper_close"


def bridge(_folder: Path) -> tuple[Path, list[str]]:
    return robot_data("octo_bridge_debug") / "bridge_dataset/1.0.0", ["--format", "rlds", "--option", "variant=bridge"]


def g1(_folder: Path) -> tuple[Path, list[str]]:
    words = ["--format", "lerobot_v21", "--option", f"spec={SPECS / 'g1_inspire.yaml'}", "--option", "episodes=10"]
    return robot_data("lerobot_v21_g1_inspire"), words


def internvla(_folder: Path) -> tuple[Path, list[str]]:
    words = ["--format", "lerobot_v21", "--option", f"spec={SPECS / 'internvla_m1_delta_eef.yaml'}"]
    words += ["--option", "episodes=2", "--option", "cameras=ego_view", "--option", DELTA]
    return robot_data("lerobot_internvla_m1"), words


def calvin(folder: Path) -> tuple[Path, list[str]]:
    calvin_data.dataset(folder / "calvin", lengths=(12, 9, 14))
    return folder / "calvin", ["--format", "calvin"]


def libero(folder: Path) -> tuple[Path, list[str]]:
    libero_files.official(folder / "libero", lengths=(14, 19, 16))
    return folder / "libero", ["--format", "libero_hdf5", "--option", "align=true"]


def libero_rlds(folder: Path) -> tuple[Path, list[str]]:
    records = [tfds_files.record(n, 12 + n, tfds_files.LIBERO) for n in range(3)]
    tfds_files.write(folder / "rlds", [records], tfds_files.layout(tfds_files.LIBERO), "libero_10_no_noops")
    cameras = "cameras=image=agentview,wrist_image=eye_in_hand"
    return folder / "rlds", ["--format", "rlds", "--option", "variant=libero", "--option", cameras]


SOURCES = [(bridge, "image_0"), (g1, "cam_high"), (internvla, "ego_view"), (calvin, "static"), (libero, "agentview")]
SOURCES += [(libero_rlds, "agentview")]


@pytest.mark.parametrize(("source", "camera"), SOURCES, ids=[s.__name__ for s, _ in SOURCES])
def test_from_the_source_to_a_training_step(
    source: Callable[[Path], tuple[Path, list[str]]],
    camera: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, words = source(tmp_path)
    store = tmp_path / "store"
    assert main(["data", "build", str(folder), *words, "--out", str(store), "--image-size", "96"]) == 0
    assert camera in {c.name for c in Store.open(store).cameras}
    status = main(["data", "check", str(store)])
    # The made-up sets are of random numbers, which the checks rightly do not believe; the recorded ones are clean.
    assert status == 0 or source in (calvin, libero, libero_rlds), capsys.readouterr().out
    assert main(["data", "show", str(store), "--episode", "0", "--out", str(tmp_path / "sheet.html")]) == 0
    assert "<svg" in (tmp_path / "sheet.html").read_text() or "<img" in (tmp_path / "sheet.html").read_text()
    out = tmp_path / "run"
    train = ["train", str(ROOT / "examples/train/tiny.yaml"), "--data.store", str(store), "--out", str(out)]
    train += [
        "--policy.cameras",
        f"[{camera}]",
        "--steps",
        "1",
        "--checkpoint_every",
        "1",
        "--optimizer.warmup_steps",
        "0",
    ]
    assert main(train) == 0
    query = load_file(out / "policy" / "model.safetensors")["query_QD"]
    assert np.abs(query).max() > 0  # it began at zero


@pytest.mark.parametrize("source", [libero, libero_rlds], ids=lambda s: s.__name__)
def test_a_policy_of_published_libero_data_can_be_evaluated(
    source: Callable[[Path], tuple[Path, list[str]]], tmp_path: Path
) -> None:
    """Actions, cameras and state of the store are the benchmark's; by other names the policy would be refused there."""
    folder, words = source(tmp_path)
    words = [*words, "--option", "cameras=agentview,eye_in_hand"] if source is libero else words
    assert main(["data", "build", str(folder), *words, "--out", str(tmp_path / "store"), "--image-size", "8"]) == 0
    store, bench = Store.open(tmp_path / "store"), Benchmark()
    assert [c.name for c in store.cameras] == [c.name for c in bench.cameras]
    assert store.action_spec.differences(bench.action_spec) == [] and store.state_names == bench.state_names


def test_the_page_shows_these_commands(tmp_path: Path) -> None:
    page = " ".join((ROOT / "docs/data.md").read_text().split())
    for source in (calvin, libero, libero_rlds):
        assert " ".join(source(tmp_path)[1]) in page
