"""The real simulator in its own environment (made if it is absent: a minute of downloads)."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from vlm4vla.bench import install
from vlm4vla.bench.metaworld.env import Benchmark
from vlm4vla.rollout import check
from vlm4vla.rollout.pool import WorkerPool

pytestmark = pytest.mark.sim

QUICKSTART = ("drawer-open", "drawer-close", "window-open", "window-close", "faucet-open", "faucet-close")


def run(python: Path, script: str, *words: str) -> str:
    path = "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
    command = [str(python), "-I", "-c", path + script, str(install.link_folder()), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def job(kind, task, index=0, **more):
    episode = Benchmark().episodes("train", task, index + 1)[index].to_dict()
    return {"kind": kind, "id": f"{task}/{index}", "episode": episode} | more


def expert(task, index):
    more = {"control": None, "other": None, "instruction": "", "policy": "builtin:expert"}
    return job("rollout", task, index, execute=1, video=False, assume_spec=False, **more)


def test_the_simulator_side_needs_no_torch_and_no_pydantic(metaworld_env):
    run(
        metaworld_env,
        "import importlib.util as u, vlm4vla.rollout.worker\n"
        "assert vlm4vla.__path__[0].startswith(sys.path[0]), vlm4vla.__path__\n"
        "assert not any(u.find_spec(m) for m in ('torch', 'pydantic', 'transformers'))\n"
        "from vlm4vla.registry import find, names\n"
        "[find('bench', name).Benchmark().tasks() for name in names('bench')]",
    )


def test_a_second_live_environment_is_refused_and_a_closed_one_is_dead(metaworld_env):
    out = run(
        metaworld_env,
        "from vlm4vla.bench.metaworld.env import Benchmark\n"
        "b = Benchmark(); e = b.make('reach'); start = b.episodes('train', 'reach', 1)[0]\n"
        "def tried(f):\n"
        "    try: f()\n"
        "    except (RuntimeError, ValueError) as error: print(error)\n"
        "tried(lambda: b.make('push')); e.close(); tried(lambda: e.reset(start))\n"
        "e = b.make('push'); tried(lambda: e.reset(start)); e.close()",
    )
    second, closed, wrong = out.splitlines()
    assert "still open" in second and "is closed" in closed and "environment of 'push'" in wrong


def test_markers_gripper_and_action_scale(metaworld_env):
    out = run(
        metaworld_env,
        "import numpy as np\n"
        "from vlm4vla.bench.metaworld import protocol\n"
        "from vlm4vla.bench.metaworld.env import Benchmark\n"
        "b = Benchmark()\n"
        "for task in ('drawer-open', 'reach'):\n"
        "    e = b.make(task); s = b.episodes('train', task, 1)[0]; o = e.reset(s).observation\n"
        "    model = e._sim.model; camera = model.camera('corner2')\n"
        "    assert np.allclose(camera.pos, protocol.CAMERA_POSITION)\n"
        "    assert np.allclose(camera.quat, protocol.CAMERA_QUATERNION)\n"
        "    assert camera.fovy == protocol.CAMERA_FIELD_OF_VIEW\n"
        "    assert model.vis.quality.offsamples == protocol.MULTISAMPLES\n"
        "    sites = int((model.site_rgba[:, 3] > 0).sum()); e.close()\n"
        "    print(task, sites, o.images['corner2'].shape, o.state.dtype)\n"
        "e = b.make('reach'); start = e.reset(s).observation.state\n"
        "assert round(1 / e._sim.dt) == b.action_spec.control_hz and e._sim.action_scale == 0.01\n"
        "def go(a):\n"
        "    for _ in range(15): r = e.step(np.array(a, np.float32), True)\n"
        "    return r.observation.state\n"
        "shut = go([0, 0, 0, -1]); open_ = go([0, 0, 0, 1]); right = go([1, 0, 0, 1])\n"
        "print(shut[3] < 0.6 < open_[3], 0.1 < right[0] - open_[0] <= 0.16)",
    )
    drawer, reach, senses = out.splitlines()
    assert drawer.startswith("drawer-open 0 (96, 96, 3) float32")
    assert reach.startswith("reach 1 ")
    assert senses == "True True"


def test_the_quick_check_passes(metaworld_env):
    found = check.check("metaworld", quick=True, log=print)
    assert found["ok"], found
    assert found["id"] == "metaworld-v1" and found["versions"]["metaworld"] == "3.1.1"


def test_the_check_catches_pictures_spoiled_by_another_renderer(metaworld_env):
    at = check._Bench(str(Path(__file__).with_name("spoiled_bench.py")), quick=True, python=metaworld_env)
    at.tasks = ("drawer-open", "window-open")
    with at.pool(1) as pool:
        finding = check._same_as_fresh(at, pool)
    assert not finding["ok"], "the fault was not seen"


def test_expert_and_demonstrations_of_the_quickstart_tasks(metaworld_env, tmp_path):
    with WorkerPool("metaworld", 2, tmp_path / "log") as pool:
        answers = [r for _, r in pool.run([expert(task, i) for task in QUICKSTART for i in range(5)])]
        demos = [
            r
            for _, r in pool.run(
                [job("demo", "faucet-open", i, noise=0.3, after_success=4, pictures=True) for i in (0, 0)]
            )
        ]
        ((_, first),) = pool.run([job("frame", "faucet-open")])
    assert sum(r["success"] for r in answers) == 30
    assert max(r["steps"] for r in answers) < 150
    one, two = demos
    images = one["images"]["corner2"]
    assert one["success"] and len(images) == len(one["actions"]) == len(one["states"]) == len(one["successes"])
    assert one["successes"].tolist().index(True) == len(images) - 5
    assert np.array_equal(images, two["images"]["corner2"]) and np.array_equal(one["states"], two["states"])
    assert np.array_equal(images[0], first["frame"]) and not np.array_equal(images[0], images[-1])
    assert np.abs(one["actions"]).max() <= 1.0 and set(np.unique(one["actions"][:, 3])) <= {-1.0, 1.0}


def test_a_broken_renderer_raises_and_never_repeats_its_last_picture(metaworld_env):
    out = run(
        metaworld_env,
        "from vlm4vla.bench.metaworld.env import Benchmark\n"
        "b = Benchmark(); e = b.make('reach'); start = b.episodes('train', 'reach', 1)[0]; e.reset(start)\n"
        "import mujoco\n"
        "other = mujoco.Renderer(e._sim.model, 96, 96); other.update_scene(e._sim.data); other.render()\n"
        "e._observe(); other.close()\n"  # frees in our context
        "try: e._observe(); print('a picture')\n"
        "except RuntimeError as error: print(error)",
    )
    assert "gave no picture" in out


def test_a_device_without_graphics_does_not_spoil_the_choice_of_renderer(metaworld_env, tmp_path):
    """Where EGL draws it is chosen, else OSMesa; whichever it is must then work, and be reported."""
    (tmp_path / "nvidia0").touch()
    out = run(
        metaworld_env,
        "import os; os.environ.pop('MUJOCO_GL', None)\n"
        "from pathlib import Path\n"
        "from vlm4vla.bench import mujoco_backend as backend\n"
        "backend._DEVICES = Path(sys.argv[1])\n"
        "from vlm4vla.bench.metaworld.env import Benchmark\n"
        "found = Benchmark().versions(); print(found['gl_backend'] == os.environ['MUJOCO_GL'], found['gl_renderer'])",
        str(tmp_path),
    )
    assert out.startswith("True ") and len(out.split()) > 2
