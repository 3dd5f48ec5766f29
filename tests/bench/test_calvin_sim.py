"""The simulator in its own environment (made if it is absent): chains, pictures, refusals, the expert."""

import os
import subprocess

import numpy as np
import pytest
from calvin_env import calvin_python

from vlm4vla.bench import install
from vlm4vla.bench.calvin.env import Benchmark
from vlm4vla.rollout import check
from vlm4vla.rollout.pool import WorkerPool

pytestmark = pytest.mark.sim
HEAD = """
import sys; sys.path.insert(0, sys.argv.pop(1))
import numpy as np
from dataclasses import replace
from vlm4vla.bench.calvin.env import Benchmark
b = Benchmark()
def start(task, index=0, split='train'): return b.episodes(split, task, index + 1)[index]
def tried(f):
    try: f()
    except (RuntimeError, ValueError) as error: print('told:', error)
idle = b.do_nothing()
"""


HELD_AT = (
    (0.15659, -0.13535, 0.52170, 3.14094, -0.00021, 1.72428, 0.04022),
    (0.31696, -0.13251, 0.51917, 3.13958, -0.00080, 1.82570, 0.04037),
    (-0.06039, -0.11294, 0.52155, 3.14132, 0.00008, 1.60533, 0.04026),
    (0.07076, -0.08354, 0.52189, 3.14109, -0.00024, 1.68105, 0.04037),
    (-0.04173, 0.09175, 0.49973, 3.14157, -0.34992, 1.19082, 0.04026),
    (0.25078, -0.08499, 0.52043, 3.14059, -0.00120, 1.51182, 0.04022),
)
"""The tool (position, Euler angles, opening) at the first train and dev start of the tasks of placing and stacking."""


@pytest.fixture(scope="module")
def python():
    return calvin_python()


def run(python, script, **environment):
    command = [str(python), "-I", "-c", HEAD + script, str(install.link_folder())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return [line.removeprefix("told: ") for line in done.stdout.splitlines() if line.startswith("told: ")]


def job(kind, task, index=0, split="train", **more):
    episode = Benchmark().episodes(split, task, index + 1)[index].to_dict()
    return {"kind": kind, "id": f"{task}/{split}/{index}", "episode": episode} | more


def played(policy, task, index=0, split="train", **more):
    base = {"control": None, "other": None, "instruction": "", "policy": policy, "execute": 1, "video": False}
    return job("rollout", task, index, split, **base, assume_spec=False, **more)


def test_wrong_use_is_told(python):
    told = run(
        python,
        "e = b.make('turn_on_led'); tried(lambda: b.make('chain')); e.reset(start('turn_on_led'), False)\n"
        "def send(place, value):\n"
        "    action = idle.copy(); action[place] = value; tried(lambda: e.step(action, False))\n"
        "send(6, 0.5); send(0, np.nan); send(3, 1.5); tried(lambda: e.step(idle[:6], False))\n"
        "tried(lambda: e.reset(start('open_drawer'))); e.close(); tried(lambda: e.reset(start('turn_on_led')))\n"
        "e = b.make('chain'); tried(lambda: e.reset(replace(start('chain', 0, 'eval'), index=1000))); e.close()",
    )
    expected = ["still open", "gripper was given 0.5", "is nan", "'deuler_x' is 1.5", "shape (6,)"]
    expected += ["to an environment of", "is closed", "no eval sequence 1000"]
    assert len(told) == 8
    for text, words in zip(told, expected, strict=True):
        assert words in text, text


def test_a_start_does_not_depend_on_what_ran_before(python):
    """Physics and both pictures, also with other scenes and lights drawn before in the same process."""
    script = (
        "def seen(e, s):\n"
        "    o = e.reset(s).observation\n"
        "    for i in range(30): r = e.step(np.array([.5, .5, -.8, 0, 0, .3, 1 - 2 * (i > 15)], np.float32), i == 29)\n"
        "    return [*o.images.values(), *r.observation.images.values(), e.snapshot()]\n"
        "e = b.make('turn_off_led'); wanted = start('turn_off_led', 3, 'dev')\n"
    )
    told = run(
        python,
        script + "alone = seen(e, wanted)\n"
        "for i in range(6): e.reset(start('turn_off_led', i))\n"
        "e.close(); e = b.make('turn_on_led'); e.reset(start('turn_on_led', 0, 'dev')); e.close()\n"
        "e = b.make('turn_off_led'); again = seen(e, wanted)\n"
        "print('told:', [bool(np.array_equal(x, y)) for x, y in zip(alone, again)])\n"
        "print('told:', alone[0].std() > 20, alone[1].std() > 10, not np.array_equal(alone[0], alone[2]))",
    )
    assert told == [str([True] * 5), "True True True"]


def test_the_memory_does_not_grow_with_the_starts(python):
    told = run(
        python,
        "def used(): return int(open('/proc/self/statm').read().split()[1]) * 4096 / 2**20\n"
        "e = b.make('chain'); [e.reset(start('chain', i, 'eval')) for i in range(5)]; before = used()\n"
        "for i in range(40): e.reset(start('chain', i, 'eval'))\n"
        "print('told:', used() - before)",
    )
    assert float(told[0]) < 40  # a rebuilt client that draws would have kept 600 MiB


def test_absolute_actions_and_the_led_of_both_versions(python):
    press = (
        "from vlm4vla.bench import assets\n"
        "from vlm4vla.bench.calvin.world import World\n"
        "from vlm4vla.bench.calvin import starts\n"
        "import pybullet as p\n"
        "s = starts.of(start('turn_off_led', 0, 'dev'))\n"
        "for forgets in (False, True):\n"
        "    w = World(assets.folder('calvin') / 'calvin_env/data', forgets)\n"
        "    w.build(s.scene, s.robot_obs, s.scene_obs)\n"
        "    lamps = []\n"
        "    for press in range(2):\n"
        "        for z in (0.55, 0.455, 0.55):\n"
        "            for _ in range(40): w.step_absolute(np.array([-0.12, -0.12, z, np.pi, 0, np.pi / 2, -1]))\n"
        "        lamps.append(w.lights['led'])\n"
        "    gap = np.abs(w.robot_obs()[:3] - [-0.12, -0.12, 0.55]).max()\n"
        "    print('told:', lamps, gap < 0.01); w.close()\n"
    )
    assert run(python, press) == ["[0, 1] True", "[1, 0] True"]


def test_the_other_renderer_draws_the_same_scene(python):
    script = (
        "e = b.make('turn_off_led'); o = e.reset(start('turn_off_led', 0, 'dev')).observation\n"
        "picture = o.images['static'].astype(int); green = (picture[:, :, 1] - picture[:, :, 0] > 120)\n"
        "rows, columns = np.nonzero(green)\n"
        "print('told:', b.versions()['renderer'], *np.median([rows, columns], axis=1).round())"
    )
    tiny, row, column = run(python, script, VLM4VLA_CALVIN_RENDERER="tiny")[0].split()
    assert tiny == "tiny"
    other = run(python, script)[0].split()
    assert abs(float(row) - float(other[1])) < 4 and abs(float(column) - float(other[2])) < 4
    assert 0 < float(row) < 40 and 40 < float(column) < 110  # the LED, at the top, left of the middle


def test_the_quick_check_passes(python):
    found = check.check("calvin", quick=True, log=print)
    assert found["ok"], found
    assert found["id"] == "calvin-abc-d-v1" and found["versions"]["pybullet"] == "3.2.7"


def test_a_chain_goes_on_without_a_reset_and_stops_at_the_first_failure(python, tmp_path):
    with WorkerPool("calvin", 1, tmp_path / "log") as pool:
        jobs = [played("builtin:do-nothing", "chain", 0, "eval")]
        jobs += [played("builtin:expert", "chain", i, "eval") for i in range(4)]
        results = [r for _, r in pool.run(jobs)]
    idle, *expert = sorted(results, key=lambda r: r["completed"])
    assert (idle["success"], idle["completed"], idle["steps"], idle["failure"]) == (False, 0, 360, "over")
    assert max(r["completed"] for r in expert) >= 2
    for r in expert:
        assert r["success"] == (r["completed"] == 5) and r["steps"] <= 1800
        assert r["success"] or r["steps"] >= 360


def test_tasks_of_placing_begin_with_the_block_in_the_hand(python):
    """Whatever ran before; where the script of lifting fails, with the next start drawn."""
    told = run(
        python,
        "from vlm4vla.bench.calvin import sim, starts\n"
        "def told(e, s):\n"
        "    assert not e.reset(s, False).success\n"
        "    facts, lift, action = e.world.facts(), starts.of(s).prelude, idle.copy(); action[6] = -1\n"
        "    held = facts.blocks['block_' + lift.split('_')[1]]\n"
        "    alone = facts.touched_by_robot == {held.body} and held.touches == {facts.robot}\n"
        "    state = e.snapshot(); e.step(action, False)\n"
        "    return alone and e.world.facts().touched_by_robot == {held.body}, state\n"
        "for task in starts.HELD_FROM:\n"
        "    e = b.make(task); s = [start(task, i, split) for split in ('train', 'dev') for i in range(4)]\n"
        "    first = [told(e, x) for x in s]; again = [told(e, x) for x in reversed(s)][::-1]\n"
        "    same = all(np.array_equal(x, y) for (_, x), (_, y) in zip(first, again))\n"
        "    print('told:', all(held for held, _ in first + again), same)\n"
        "    e.close()\n"
        "e = b.make(task); s = start(task); play, tries = sim.play_until_held, []\n"
        "def drops_it_once(world, lift):\n"
        "    tries.append(lift); return play(world, lift) and len(tries) > 1\n"
        "sim.play_until_held = drops_it_once; e.reset(s, False)\n"
        "print('told:', tries == [starts.of(s).prelude, starts.of(s, 1).prelude], len(e.snapshot()) > 0)\n"
        "sim.play_until_held = lambda *_: False; tried(lambda: e.reset(s, False)); e.close()",
    )
    assert told[:4] == ["True True"] * 4 and "not in the hand after 20 starts" in told[4]


def test_the_lift_before_a_task_of_placing_is_the_one_that_the_id_stands_for(python):
    """The script of lifting decides where these tasks begin: whoever changes it changes the benchmark."""
    found = run(
        python,
        "for task in ('place_in_slider', 'place_in_drawer', 'stack_block'):\n"
        "    e = b.make(task)\n"
        "    for split in ('train', 'dev'):\n"
        "        e.reset(start(task, 0, split), False); print('told:', *e.world.robot_obs()[:7])\n"
        "    e.close()\n",
    )
    for line, expected in zip(found, HELD_AT, strict=True):
        assert np.allclose([float(word) for word in line.split()], expected, atol=1e-4), line


def test_demonstrations_of_the_expert(python, tmp_path):
    with WorkerPool("calvin", 1, tmp_path / "log") as pool:
        ((_, demo),) = pool.run([job("demo", "open_drawer", noise=0.05, after_success=3, pictures=True)])
    assert demo["success"] and demo["successes"].tolist().index(True) == len(demo["successes"]) - 4
    assert demo["successes"][-4:].all()
    assert demo["images"]["static"].shape[1:] == (200, 200, 3)
    assert demo["images"]["gripper"].shape[1:] == (84, 84, 3)
    assert demo["states"].shape[1] == 15 and np.abs(demo["actions"]).max() <= 1
