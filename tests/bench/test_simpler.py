"""What the main environment sees of the benchmark: no simulator is imported here."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vlm4vla import doctor
from vlm4vla.bench import assets, install
from vlm4vla.bench.simpler import prepare, protocol, rotations, starts
from vlm4vla.bench.simpler.env import GRIPPER, SUCCESS, Benchmark, decides_scores
from vlm4vla.bench.simpler.tasks import SINK_CENTRE, TABLE_CENTRE, TASKS
from vlm4vla.data.formats import rlds_variants
from vlm4vla.rollout import episodes
from vlm4vla.types import Observation, StepResult, UserError, step_limit_of

CARROT, EGGPLANT = "put-carrot-on-plate", "put-eggplant-in-basket"


def test_the_four_published_tasks():
    bench = Benchmark()
    assert {task: (bench.instruction(task), step_limit_of(bench, task)) for task in bench.tasks()} == {
        "put-spoon-on-towel": ("put the spoon on the towel", 60),
        "put-carrot-on-plate": ("put carrot on plate", 60),
        "stack-green-on-yellow": ("stack the green block on the yellow block", 60),
        "put-eggplant-in-basket": ("put eggplant into yellow basket", 120),
    }
    assert bench.step_limit == 120 and bench.published == dict.fromkeys(bench.tasks(), 24)
    with pytest.raises(UserError, match="Did you mean 'put-carrot-on-plate'"):
        bench.instruction("put-carot-on-plate")
    assert not {"sapien", "mani_skill"} & set(sys.modules)


def test_its_numbers_mean_what_those_of_bridge_data_mean():
    """Benchmark and data rooms do not import each other, so this is stated twice."""
    bench = Benchmark()
    assert bench.action_spec.differences(rlds_variants.BRIDGE) == []
    assert bench.state_names == rlds_variants.BRIDGE_STATE


def test_what_decides_scores_is_what_the_id_stands_for():
    found = json.dumps(decides_scores(), sort_keys=True)
    digest = hashlib.sha256(found.encode()).hexdigest()
    assert digest == protocol.DIGEST, f"something that decides scores has changed: {digest}"


@pytest.mark.parametrize("task", TASKS)
def test_the_published_starts_are_24_and_the_random_ones_are_none_of_them(task):
    bench = Benchmark()
    listed = bench.episodes("eval", task, 1000)
    assert [e.seed for e in listed] == list(range(24))
    places = [starts.of(e) for e in listed]
    assert len({np.concatenate(list(vars(p).values())).tobytes() for p in places}) == 24
    centre, half = (SINK_CENTRE, protocol.SINK_HALF_M) if task == EGGPLANT else (TABLE_CENTRE, protocol.TABLE_HALF_M)
    for split in ("train", "dev"):
        for episode in bench.episodes(split, task, 200):
            start = starts.of(episode)
            assert episode.seed >= 1 << 52
            assert (np.abs(start.source[:2] - centre) <= half).all() and np.linalg.norm(start.source_turn) == (
                pytest.approx(1, abs=1e-5)
            )
            assert np.linalg.norm(start.source[:2] - start.target[:2]) >= TASKS[task].apart
            assert not any(starts._alike(start, known) for known in places)
    first = bench.episodes("train", task, 1)[0]
    assert starts.of(first).source.tolist() == starts.of(first).source.tolist() == bench.describe(first)["source"]


def test_a_random_start_like_a_published_one_is_drawn_again(monkeypatch):
    episode = Benchmark().episodes("train", CARROT, 1)[0]
    drawn = starts.of(episode)
    known = starts.published(TASKS[CARROT], 5)
    monkeypatch.setattr(starts, "published", lambda _task, index: drawn if index == 3 else known)
    assert not np.array_equal(starts.of(episode).source, drawn.source)


def test_variants_have_ids_of_their_own(monkeypatch):
    assert Benchmark().id == "simpler-bridge-v1" and Benchmark().success_rule == protocol.AT_END
    monkeypatch.setenv(SUCCESS, "ever")
    assert Benchmark().id == "simpler-bridge-v1+ever" and Benchmark().success_rule == protocol.EVER
    monkeypatch.setenv(GRIPPER, "late")
    both = Benchmark()
    assert both.id == "simpler-bridge-v1+ever+late-gripper" == both.episodes("eval", CARROT, 1)[0].benchmark
    monkeypatch.setenv(GRIPPER, "latte")
    with pytest.raises(UserError, match="Did you mean 'late'"):
        Benchmark()


def test_rotations_agree_with_scipy():
    for angles in np.random.default_rng(0).uniform(-1.4, 1.4, (50, 3)):
        matrix = rotations.of_fixed(angles)
        fixed, moving = Rotation.from_euler("xyz", angles), Rotation.from_matrix(matrix).as_euler("XYZ")
        assert np.allclose(matrix, fixed.as_matrix()) and np.allclose(rotations.fixed(matrix), angles)
        assert np.allclose(rotations.moving(matrix), moving)
        x, y, z, w = fixed.as_quat()
        assert np.allclose(rotations.of_quaternion([w, x, y, z]), matrix)


class _LastStep:
    """An environment whose condition holds at step 3 only, or at the end too."""

    def __init__(self, ends):
        self._ends, self._done = ends, 0

    def look_at(self, cameras):
        pass

    def reset(self, episode, render=True):
        return StepResult(False, Observation({}, ""), holds=False, partial=False)

    def step(self, action, render):
        self._done += 1
        holds = self._done == 3 or (self._ends and self._done == 60)
        return StepResult(holds and self._done == 60, None, holds=holds, partial=self._done >= 2)


class _Idle:
    looks, cameras, window = False, frozenset(), 1

    def reset(self, episode):
        pass

    def ask(self, observation):
        return [Benchmark().do_nothing()] * 4


@pytest.mark.parametrize("ends", [True, False])
def test_an_episode_runs_to_its_end_and_says_when_it_held_first(ends):
    bench = Benchmark()
    episode = bench.episodes("train", CARROT, 1)[0].to_dict()
    job = {"episode": episode, "execute": 3, "video": False, "control": None, "instruction": "", "other": None}
    result = episodes.rollout(job, bench, _LastStep(ends), _Idle())
    assert (result["success"], result["steps"], result["first_success_step"], result["partial"]) == (ends, 60, 3, True)


def _apt(monkeypatch, system, listed):
    monkeypatch.setattr(prepare.platform, "freedesktop_os_release", lambda: system)
    monkeypatch.setattr(prepare, "_run", lambda words: listed)


def test_an_old_debian_gets_its_own_mirrors_backports(monkeypatch, tmp_path):
    listed = "bookworm http://docker/linux Docker CE\nbookworm-updates http://other/debian Debian\n"
    listed += "bookworm http://mirror/debian Debian\n"
    _apt(monkeypatch, {"ID": "debian", "VERSION_CODENAME": "bookworm"}, listed)
    assert prepare._backports([], tmp_path) == ["-t", "bookworm-backports"]
    (file,) = tmp_path.iterdir()
    assert file.read_text().startswith("deb ") and "http://mirror/debian bookworm-backports main" in file.read_text()
    _apt(monkeypatch, {"ID": "debian", "VERSION_CODENAME": "bookworm"}, "")
    with pytest.raises(UserError, match="no mirror of bookworm"):
        prepare._backports([], tmp_path)
    _apt(monkeypatch, {"ID": "debian", "VERSION_CODENAME": "trixie"}, listed)
    assert prepare._backports([], tmp_path) == []


def test_without_apt_it_is_told_and_nothing_is_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr(prepare, "missing", lambda _python: "no driver")
    monkeypatch.setattr(prepare.shutil, "which", lambda _name: None)
    told = []
    prepare.prepare(tmp_path / "env/bin/python", told.append)
    assert "without apt-get" in told[0] and not (tmp_path / "env").exists()


def test_a_failed_download_leaves_nothing_behind(monkeypatch, tmp_path):
    def refuse(words):
        raise UserError("apt says no")

    (tmp_path / "env/bin").mkdir(parents=True)
    monkeypatch.setattr(prepare, "missing", lambda _python: "no driver")
    monkeypatch.setattr(prepare.shutil, "which", lambda name: name)
    monkeypatch.setattr(prepare, "_run", refuse)
    told = []
    prepare.prepare(tmp_path / "env/bin/python", told.append)
    assert "apt says no" in told[-1] and [f.name for f in (tmp_path / "env").iterdir()] == ["bin"]


def _found(monkeypatch):
    monkeypatch.setattr(doctor.registry, "names", lambda _room: ["simpler"])
    monkeypatch.setattr(install, "is_installed", lambda _name: True)
    monkeypatch.setattr(install, "python_of", lambda _name: "python")
    pins = {pin: f"{version}+cpu" for pin, version in doctor._pins("simpler").items()}
    answer = subprocess.CompletedProcess([], 0, json.dumps(pins), "")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_words, **_more: answer)
    (finding,) = doctor._benches()
    return finding


def test_doctor_says_what_an_installed_benchmark_lacks(monkeypatch, tmp_path):
    monkeypatch.setenv("VLM4VLA_HOME", str(tmp_path))
    finding = _found(monkeypatch)
    assert finding.status == "gap" and "bench install simpler --assets" in finding.todo
    monkeypatch.setattr(assets, "folder", lambda _name: tmp_path)
    monkeypatch.setattr(prepare, "missing", lambda _python: "SAPIEN cannot draw: install mesa-vulkan-drivers")
    finding = _found(monkeypatch)
    assert finding.status == "gap" and "mesa-vulkan-drivers" in finding.todo
    monkeypatch.setattr(prepare, "missing", lambda _python: "")
    assert _found(monkeypatch).status == "ok"
