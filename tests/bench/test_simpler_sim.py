"""The real simulator in its own environment (made if it is absent: minutes of downloads)."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlm4vla.bench import assets, install
from vlm4vla.bench.simpler import prepare, protocol, starts
from vlm4vla.bench.simpler.env import Benchmark
from vlm4vla.bench.simpler.tasks import TASKS
from vlm4vla.rollout.pool import WorkerPool
from vlm4vla.types import UserError

pytestmark = pytest.mark.sim

SHARED = Path(__file__).parents[2].parent / "shared/assets/simpler"
CUBES, CARROT, EGGPLANT = "stack-green-on-yellow", "put-carrot-on-plate", "put-eggplant-in-basket"
HEAD = """
import sys; sys.path.insert(0, sys.argv.pop(1))
import json
import numpy as np
from vlm4vla.bench.simpler.env import Benchmark
b = Benchmark()
idle = b.do_nothing()
def start(task, index=0, split='train'): return b.episodes(split, task, index + 1)[index]
def tried(f):
    try: f()
    except (RuntimeError, ValueError) as error: return str(error)
"""


@pytest.fixture(scope="module")
def python() -> Path:
    try:
        assets.folder("simpler")
    except UserError:
        if not SHARED.is_dir():
            pytest.skip(f"the assets of simpler are not set, and {SHARED} does not exist")
        assets.provide("simpler", SHARED, print)
    install.install("simpler", print)
    return install.python_of("simpler")


def run(python: Path, script: str, **environment: str):
    """What the script's last line says, as JSON."""
    command = [str(python), "-I", "-c", HEAD + script, str(install.link_folder())]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, stdin=subprocess.DEVNULL, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def job(kind, task, index=0, split="train", **more):
    episode = Benchmark().episodes(split, task, index + 1)[index].to_dict()
    return {"kind": kind, "id": f"{task}/{split}/{index}", "episode": episode} | more


def played(policy, task):
    base = {"control": None, "other": None, "instruction": "", "policy": policy, "execute": 4, "video": False}
    return job("rollout", task, 7, **base, assume_spec=False)


@pytest.fixture(scope="module")
def package(python):
    """What ManiSkill's own classes say of each task."""
    return run(
        python,
        "from vlm4vla.bench.simpler import simulator\n"
        "from mani_skill.utils.registration import REGISTERED_ENVS\n"
        "from vlm4vla.bench.simpler.tasks import TASKS\n"
        "out = {}\n"
        "for name, task in TASKS.items():\n"
        "    e = b.make(name); s = e.sim\n"
        "    out[name] = {'places': s.xyz_configs.tolist(), 'turns': s.quat_configs.tolist(),\n"
        "        'said': s.get_language_instruction()[0], 'in_sink': s.scene_setting == 'sink',\n"
        "        'steps': REGISTERED_ENVS[task.env + '-v1'].max_episode_steps,\n"
        "        'sizes': [s.episode_model_bbox_sizes[n].tolist() for n in (task.source, task.target)],\n"
        "        'hz': [s.control_freq, s.sim_freq]}\n"
        "    e.close()\n"
        "print(json.dumps(out))",
    )


@pytest.mark.parametrize("name", TASKS)
def test_layouts_sizes_sentences_and_limits_are_the_packages(package, name):
    task, theirs = TASKS[name], package[name]
    places, turns = np.array(theirs["places"]), np.array(theirs["turns"])
    if name == EGGPLANT:  # it has eight; it counts clockwise, so the published 0, 45, -45 degrees are these
        assert len(turns) == 8
        turns = turns[[1, 0, 2]]
    assert len(places) * len(turns) == 24
    for index in range(24):
        start = starts.published(task, index)
        place, turn = places[index // len(turns)], turns[index % len(turns)]
        assert np.allclose([start.source, start.target], place, atol=1e-6)
        assert np.allclose([start.source_turn, start.target_turn], turn, atol=1e-6)
    assert np.allclose(task.sizes, theirs["sizes"], atol=1e-6)
    assert (task.instruction, task.steps, task.in_sink) == (theirs["said"], theirs["steps"], theirs["in_sink"])
    assert theirs["hz"] == [protocol.CONTROL_HZ, 500]


@pytest.fixture(scope="module")
def physics(python):
    """One live environment without pictures, used in many ways."""
    return run(
        python,
        "e = b.make('stack-green-on-yellow'); s = start('stack-green-on-yellow'); out = {}\n"
        "def act(place, value, steps):\n"
        "    a = idle.copy(); a[place] = value\n"
        "    for _ in range(steps): r = e.step(a, False)\n"
        "    return r\n"
        "def moved(place, value):\n"
        "    e.reset(s, False); before = e.state(); act(place, value, 5)\n"
        "    return (e.state() - before).tolist()\n"
        "out['moved'] = [[moved(i, v * w) for w in (1, -1)] for i, v in enumerate([.01] * 3 + [.05] * 3)]\n"
        "out['gripper'] = [moved(6, -1.0)[6], moved(6, -0.1)[6], moved(6, 0.1)[6]]\n"
        "out['told'] = [tried(lambda: act(0, np.nan, 1)), tried(lambda: act(3, np.inf, 1)),\n"
        "    tried(lambda: e.step(idle[:6], False)), tried(lambda: e.reset(start('put-carrot-on-plate'))),\n"
        "    tried(lambda: b.make('put-carrot-on-plate'))]\n"
        "x = b.expert(e); e.reset(s, False); x.reset(s); rs = [e.step(x.act(), False) for _ in range(60)]\n"
        "holds = [r.holds for r in rs].index(True)\n"
        "out['results'] = [[r.success, r.holds, r.partial, r.observation is None] for r in rs]\n"
        "e.reset(s, False); x.reset(s); rs = [e.step(x.act(), False) for _ in range(holds + 1)]\n"
        "away = np.array([0, 0.03, 0, 0, 0, 0, -1], np.float32)\n"
        "rs += [e.step(away, False) for _ in range(59 - holds)]\n"
        "out['carried away'] = [rs[holds].holds, rs[-1].holds, rs[-1].success, len(rs)]\n"
        "e.close(); out['closed'] = tried(lambda: e.reset(s)); print(json.dumps(out))",
    )


def test_each_dimension_moves_the_hand_as_bridge_means_it(physics):
    """5 steps each way: most of it is there (the arm lags by half a step), nothing else moves much."""
    moved = np.array(physics["moved"])
    wanted = np.array([0.05] * 3 + [0.25] * 3)
    for d in range(6):
        for sign, change in zip((1, -1), moved[d], strict=True):
            assert 0.75 < sign * change[d] / wanted[d] < 1.05, (d, change)
            others = np.delete(np.abs(change[:6]) / wanted, d)
            assert others.max() < 0.12, (d, change)
            assert abs(change[6]) < 0.01


def test_above_zero_opens_and_below_closes(physics):
    closed, hardly_closed, hardly_open = physics["gripper"]
    assert closed == hardly_closed < -0.9 and abs(hardly_open) < 0.02


def test_wrong_use_is_told(physics):
    nan, infinite, short, other, second = physics["told"]
    assert "'dx' is nan" in nan and "'droll' is not finite" in infinite and "shape (6,)" in short
    assert "'put-carrot-on-plate'" in other and "still open" in second and "is closed" in physics["closed"]


def test_success_is_told_after_the_last_step_only(physics):
    results = physics["results"]
    assert [r[0] for r in results] == [False] * 59 + [True]
    holds, grasped = [r[1] for r in results], [r[2] for r in results]
    assert 10 < holds.index(True) < 40 and holds[-10:] == [True] * 10
    assert not grasped[0] and grasped[-1] and grasped == sorted(grasped)  # it has been grasped once and for all
    assert all(r[3] for r in results)
    assert physics["carried away"] == [True, False, False, 60]


def test_variants_succeed_earlier_and_open_later(python):
    found = run(
        python,
        "e = b.make('stack-green-on-yellow'); s = start('stack-green-on-yellow'); x = b.expert(e)\n"
        "e.reset(s, False); x.reset(s); n = 0\n"
        "while not e.step(x.act(), False).success: n += 1\n"
        "e.reset(s, False); widths = [e.step(idle, False) and float(e.state()[6]) for _ in range(4)]\n"
        "print(json.dumps([n, widths]))",
        VLM4VLA_SIMPLER_SUCCESS="ever",
        VLM4VLA_SIMPLER_GRIPPER="late",
    )
    steps, widths = found
    assert steps < 50
    assert widths[0] < 0.7 and widths[3] > 0.95  # the first step always closes


def test_pictures_and_physics_do_not_depend_on_what_ran_before(python, tmp_path):
    """The eggplant after other tasks showed a grey patch: ManiSkill's list of visible things is one for all."""
    random = np.random.default_rng(0).uniform(-1, 1, (25, 7)) * Benchmark.typical
    jobs = [job("frame", EGGPLANT, 3, "eval"), job("replay", EGGPLANT, 5, actions=random)]
    with WorkerPool("simpler", 1, tmp_path / "log", python) as pool:
        before = [job("frame", CARROT, 0, "eval"), job("replay", EGGPLANT, 1, actions=random)]
        (carrot, _) = [result for todo in before for _, result in pool.run([todo])]
        used = [result for todo in jobs for _, result in pool.run([todo])]
        policies = ("builtin:expert", "builtin:do-nothing")
        able, idle = [result for policy in policies for _, result in pool.run([played(policy, EGGPLANT)])]
        assert pool.versions["vulkan"].startswith("llvmpipe") and pool.versions["sapien"] == "3.0.3"
        stand_ins = (assets.folder("simpler") / "STAND_INS.txt").is_file()
        assert pool.versions["assets"].startswith("3 stand-ins" if stand_ins else "original")
    with WorkerPool("simpler", 1, tmp_path / "log", python) as pool:
        fresh = [result for todo in jobs for _, result in pool.run([todo])]
    assert np.array_equal(used[0]["frame"], fresh[0]["frame"]) and np.array_equal(used[0]["state"], fresh[0]["state"])
    assert np.array_equal(used[1]["start"], fresh[1]["start"]) and np.array_equal(used[1]["states"], fresh[1]["states"])
    assert np.ptp(fresh[1]["states"], axis=0).max() > 0.01
    for frame, name, least in ((used[0]["frame"], "bridge_sink", 0.85), (carrot["frame"], "bridge_real_eval_1", 0.85)):
        real = Image.open(next(assets.folder("simpler").rglob(f"{name}.png"))).convert("RGB")
        same = np.abs(np.asarray(real.resize((640, 480)), int) - frame).max(axis=2) <= 8
        assert frame.shape == (480, 640, 3) and least < same.mean() < 0.99  # robot and objects cover the rest
    assert able["success"] and able["steps"] == 120 and able["first_success_step"] < 60 and able["partial"]
    assert not idle["success"] and idle["partial"] is False and idle["first_success_step"] is None


def test_what_the_system_lacks_is_told(python, monkeypatch, tmp_path):
    assert prepare.missing(python) == ""
    monkeypatch.setenv("VK_ICD_FILENAMES", str(tmp_path / "no.json"))
    told = prepare.missing(python)
    assert told.startswith("SAPIEN cannot draw") and "mesa-vulkan-drivers" in told and str(tmp_path / "no.json") in told
    monkeypatch.setenv("VLM4VLA_HOME", str(tmp_path))
    said = run(python, f"print(json.dumps(tried(lambda: b.make({CUBES!r}))))")
    assert "assets of 'simpler' are not set" in said and "--assets" in said
