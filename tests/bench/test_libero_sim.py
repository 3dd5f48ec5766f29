"""The real simulator in its own environment: starts, senses, settling, and what it refuses."""

from pathlib import Path

import pytest
from libero_env import BOWL, CANS, DRAWER, SOUP, libero_python, run

pytestmark = pytest.mark.sim


@pytest.fixture(scope="module")
def python() -> Path:
    return libero_python()


def test_a_start_does_not_depend_on_what_was_before_nor_the_physics_on_pictures(python):
    """The task with an open drawer: LIBERO's own reset draws more random numbers each time."""
    script = (
        "import hashlib\n"
        "e = opened(sys.argv[1]); before = sys.argv[2] == 'used'\n"
        "actions = np.random.default_rng(0).uniform(-1, 1, (9, 7))\n"
        "if before:\n"
        "    for i in (1, 2): e.reset(start('train', sys.argv[1], i))\n"
        "    e.step(np.ones(7, np.float32), True)\n"
        "for split in ('train', 'eval'):\n"
        "    r = e.reset(start(split, sys.argv[1], 0)); digest = hashlib.sha256()\n"
        "    for p in (*r.observation.images.values(), r.observation.state, e.snapshot()): digest.update(p.tobytes())\n"
        "    for a in actions: e.step(a.astype(np.float32), before); digest.update(e.snapshot().tobytes())\n"
        "    print(digest.hexdigest())\n"
    )
    fresh, used = (run(python, script, DRAWER, how).split() for how in ("fresh", "used"))
    assert fresh == used and len(set(fresh)) == 2


def test_senses_of_gripper_and_axes_and_settling(python):
    out = run(
        python,
        "e = opened(sys.argv[1]); e.reset(start('eval', sys.argv[1], 3), render=False); idle = b.do_nothing()\n"
        "clock = round(e.data.time - float(e._states[3][0]), 6)\n"
        "resting = float(np.abs(e.data.qvel).max())\n"
        "def go(place, value, steps=12):\n"
        "    a = idle.copy(); a[place] = value\n"
        "    for i in range(steps): r = e.step(a, i == steps - 1)\n"
        "    return r.observation.state\n"
        "def gap(s): return float(s[6] - s[7])\n"
        "shut = gap(go(6, -1)); wide = gap(go(6, 1))\n"
        "moves = []\n"
        "for axis in range(3):\n"
        "    was = e.hand()[0]; now = go(axis, 0.5); moves.append(int(np.argmax(np.abs(now[:3] - was))) == axis)\n"
        "turns = []\n"
        "for axis in range(3):\n"
        "    was = e.hand()[1]; go(3 + axis, 0.2, 6); turn = e.hand()[1] @ was.T\n"
        "    v = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])\n"
        "    turns.append(bool(np.argmax(np.abs(v)) == axis and v[axis] > 0))\n"
        "print(clock, resting < 0.2, shut < 0.01, wide > 0.07, moves, turns)",
        CANS,
    )
    assert out.splitlines()[-1] == "0.5 True True True [True, True, True] [True, True, True]"


def test_the_state_is_robosuites_own_however_far_the_wrist_is_turned(python):
    """Beyond 90 degrees the largest component of the quaternion is another one; a sign by that rule would jump."""
    out = run(
        python,
        "e = opened(sys.argv[1]); e.look_at([]); s = e.reset(start('eval', sys.argv[1], 0)).observation.state\n"
        "import robosuite.utils.transform_utils as T\n"
        "was, action = e.hand()[1], b.do_nothing(); worst = farthest = jump = stored = 0.0\n"
        "for turn in [1.0] * 40 + [-1.0] * 80:\n"
        "    action[5] = turn; before, s = s, e.step(action, True).observation.state\n"
        "    seen = e.sim._get_observations(force_update=True)\n"
        "    theirs = np.concatenate([seen['robot0_eef_pos'], T.quat2axisangle(seen['robot0_eef_quat'].copy())])\n"
        "    worst = max(worst, np.abs(s[:6] - theirs).max()); jump = max(jump, np.abs(s - before).max())\n"
        "    kept = e.vectors()['robot_states']\n"
        "    kept = np.concatenate([kept[2:5], T.quat2axisangle(kept[5:].copy())])\n"
        "    stored = max(stored, np.abs(s[:6] - kept).max())\n"
        "    cosine = (np.trace(e.hand()[1] @ was.T) - 1) / 2\n"
        "    farthest = max(farthest, np.degrees(np.arccos(np.clip(cosine, -1, 1))))\n"
        "print(worst < 1e-6, stored < 1e-6, jump < 0.5, farthest > 100)\n"
        "print(worst, stored, jump, farthest)",
        SOUP,
    )
    assert out.splitlines()[-2] == "True True True True", out


def test_without_cameras_no_context_is_made_and_with_them_pictures_come(python):
    out = run(
        python,
        "e = opened(sys.argv[1]); e.look_at([]); s = start('eval', sys.argv[1], 0)\n"
        "o = e.reset(s).observation; print(e._maker, dict(o.images), o.state.shape)\n"
        "e.look_at(['agentview']); print(sorted(e.step(b.do_nothing(), True).observation.images))",
        SOUP,
    )
    assert out.splitlines()[-2:] == ["None {} (8,)", "['agentview']"]


def test_what_is_raised_in_a_reset_comes_through_and_only_a_bad_draw_is_repeated(python):
    """LIBERO's own loop tries again for ever, whatever it was."""
    out = run(
        python,
        "from vlm4vla.types import StartFailed\n"
        "e = opened(sys.argv[1]); s = start('train', sys.argv[1], 0); whole = e.sim.reset; left = []\n"
        "from robosuite.utils.errors import RandomizationError\n"
        "def reset():\n"
        "    if left: raise left.pop()\n"
        "    return whole()\n"
        "e.sim.reset = reset\n"
        "left += [RandomizationError('Cannot place all objects ):')] * 3\n"
        "e.reset(s, render=False); print('placed', len(left))\n"
        "for problem in ([MemoryError('no room')], [RandomizationError('Cannot')] * 1000):\n"
        "    left[:] = problem\n"
        "    try: e.reset(s)\n"
        "    except (MemoryError, StartFailed) as error: print(type(error).__name__, error)\n"
        "print(1000 - len(left))",
        SOUP,
    )
    placed, memory, given_up, tries = out.splitlines()[-4:]
    assert placed == "placed 0" and memory == "MemoryError no room"
    assert given_up.startswith("StartFailed LIBERO found no place for everything") and int(tries) == 100


def test_objects_that_fly_off_are_told_with_the_version(python):
    """Cans of this task start inside the table top and are pushed out by 3 cm; under mujoco 3.4 and later by 40."""
    out = run(
        python,
        "from vlm4vla.bench.libero import protocol\n"
        "protocol.SETTLE_UP_M = 0.02; e = opened(sys.argv[1])\n"
        "try: e.reset(start('eval', sys.argv[1], 0))\n"
        "except RuntimeError as error: print(error)",
        CANS,
    )
    assert "fly off" in out and "under mujoco 3.3.2" in out and "ketchup_1 up by 0.03 m" in out
    assert "This start cannot be run" in out and "bench check libero" in out and "bench install" not in out


def test_objects_that_fly_off_sideways_do_so_too(python):
    """Everything moves a little: what is within the bound is let be, and told where the bound is next to nothing."""
    out = run(
        python,
        "from vlm4vla.bench.libero import protocol\n"
        "e = opened(sys.argv[1]); e.reset(start('eval', sys.argv[1], 0), render=False); print('stands')\n"
        "protocol.SETTLE_SIDEWAYS_M = 1e-5\n"
        "try: e.reset(start('eval', sys.argv[1], 0))\n"
        "except RuntimeError as error: print(error)",
        CANS,
    )
    stands, error = out.splitlines()[-2:]
    assert stands == "stands" and "fly off" in error and "sideways by 0.0" in error


def test_a_random_start_without_a_placement_says_so(python):
    """No version of mujoco is to blame for draws in which something always moves."""
    out = run(
        python,
        "from vlm4vla.bench.libero import protocol\n"
        "from vlm4vla.types import StartFailed\n"
        "protocol.PLACEMENT_M, protocol.PLACEMENTS_TRIED = 0.0, 2; e = opened(sys.argv[1])\n"
        "try: e.reset(start('dev', sys.argv[1], 0))\n"
        "except StartFailed as error: print(error)",
        CANS,
    )
    told = out.splitlines()[-1]
    assert f"No random placement was found for the start dev 0 of '{CANS}': in each of 2 draws" in told
    assert "mujoco" not in told and "fly off" not in told


def test_an_action_that_is_no_number_is_refused_and_moves_nothing(python):
    out = run(
        python,
        "e = opened(sys.argv[1]); e.reset(start('train', sys.argv[1], 0), render=False); was = e.snapshot()\n"
        "a = b.do_nothing(); a[1] = np.nan\n"
        "try: e.step(a, False)\n"
        "except ValueError as error: print(str(error).replace(chr(10), ' '))\n"
        "print(np.array_equal(was, e.snapshot()))",
        SOUP,
    )
    refused, same = out.splitlines()[-2:]
    assert "nan" in refused.lower() and same == "True"


def test_a_second_live_environment_is_refused_and_a_closed_one_is_dead(python):
    out = run(
        python,
        "task, other = sys.argv[1:]\n"
        "e = b.make(task); s = start('train', task, 0)\n"
        "def tried(f):\n"
        "    try: f()\n"
        "    except (RuntimeError, ValueError) as error: print(error)\n"
        "tried(lambda: b.make(other)); e.close(); tried(lambda: e.reset(s))\n"
        "e = b.make(other); tried(lambda: e.reset(s)); e.close()",
        SOUP,
        BOWL,
    )
    second, closed, wrong = out.splitlines()[-3:]
    assert "still open" in second and "is closed" in closed and f"environment of '{BOWL}'" in wrong
