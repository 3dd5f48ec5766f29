"""The real simulator: what is installed, and which files it needs."""

import json
import os
import shutil
from pathlib import Path

import pytest
from libero_env import SOUP, libero_python, run

from vlm4vla.bench import assets

pytestmark = pytest.mark.sim


@pytest.fixture(scope="module")
def python() -> Path:
    return libero_python()


@pytest.fixture
def other_assets(tmp_path, monkeypatch) -> Path:
    """A folder of links to every asset file, in use in this test."""
    whole = tmp_path / "assets" / "libero"
    shutil.copytree(assets.folder("libero"), whole, copy_function=os.symlink)
    monkeypatch.setenv("VLM4VLA_HOME", str(tmp_path))
    return whole


def test_the_simulator_side_needs_no_torch_and_asks_nothing(python):
    out = run(
        python,
        "import importlib.util as u\n"
        "assert not any(u.find_spec(m) for m in ('torch', 'pydantic', 'transformers'))\n"
        "import json; print(json.dumps(b.versions()))",
    )
    found = json.loads(out.splitlines()[-1])
    assert found["mujoco"] == "3.3.2" and found["hf-libero"] == "0.1.4" and found["robosuite"] == "1.4.0"
    assert found["gl_backend"] in ("egl", "osmesa") and found["gl_renderer"]
    stand_ins = (assets.folder("libero") / "STAND_INS.txt").is_file()
    assert found["assets"].startswith("15 visual stand-ins" if stand_ins else "original")


def test_another_mujoco_is_refused_at_the_start(python):
    out = run(
        python,
        "import vlm4vla.bench.libero.render, mujoco\n"
        "mujoco.__version__ = '3.8.1'\n"
        "try: b.make(sys.argv[1])\n"
        "except RuntimeError as error: print(error)",
        SOUP,
    )
    assert "This is mujoco 3.8.1" in out and "evaluated under 3.3.2" in out and "bench install libero" in out


def test_a_missing_asset_is_named(python, other_assets):
    gone = "assets/articulated_objects/flat_stove/metal.png"
    (other_assets / gone).unlink()
    out = run(
        python, "try: b.make(sys.argv[1])\nexcept ValueError as error: print(str(error).replace(chr(10), ' '))", SOUP
    )
    assert f"{gone} is missing" in out and "Give the folder that holds all of them" in out


def test_a_file_that_goes_while_its_scene_is_in_use_is_named(python, other_assets):
    """LIBERO's own reset would try again for ever."""
    gone = "assets/stable_hope_objects/alphabet_soup/visual/textured_vis.msh"
    out = run(
        python,
        "import os\n"
        "e = opened(sys.argv[1]); s = start('train', sys.argv[1], 0); e.reset(s, render=False)\n"
        "os.unlink(sys.argv[2])\n"
        "try: e.reset(s, render=False)\n"
        "except ValueError as error: print(str(error).replace(chr(10), ' '))\n"
        "e.close()",
        SOUP,
        str(other_assets / gone),
    )
    assert f"{gone} is missing" in out.splitlines()[-1]


def test_what_scenes_need_is_what_their_descriptions_name(python):
    """The main environment has no BDDL files, and tells what a task needs by its scene."""
    out = run(
        python,
        "import json, re\n"
        "from vlm4vla.bench.libero import files\n"
        "from vlm4vla.bench.libero.simulator import FOLDER\n"
        "from vlm4vla.bench.libero.tasks import SUITE_OF\n"
        "from pathlib import Path\n"
        "plan = json.loads(Path(files.__file__).with_name('assets.json').read_text())['only_libero_90']\n"
        "wrong, needy = [], 0\n"
        "for task, suite in SUITE_OF.items():\n"
        "    text = (FOLDER / 'bddl_files' / suite / f'{task}.bddl').read_text()\n"
        "    named = [t['model'] for thing, t in plan.items() if re.search(rf'- {thing}\\s', text)]\n"
        "    needy += bool(named)\n"
        "    if sorted(named) != sorted(files.models(task)): wrong.append(task)\n"
        "print(len(SUITE_OF), needy, wrong)",
    )
    assert out.splitlines()[-1] == "130 23 []"


def test_libero_90_runs_where_its_files_are_there_and_names_them_where_not(python, other_assets):
    shutil.rmtree(other_assets / "assets/stable_scanned_objects/white_bowl", ignore_errors=True)
    out = run(
        python,
        "there, lacking = sys.argv[1:]\n"
        "try: b.make(lacking)\n"
        "except ValueError as error: print(str(error).replace(chr(10), ' '))\n"
        "e = opened(there); e.reset(start('train', there, 0), render=False)\n"
        "r = e.reset(start('eval', there, 49))\n"
        "for i in range(3): r = e.step(b.do_nothing(), True)\n"
        "print(r.success, {k: v.std() > 5 for k, v in r.observation.images.items()}, r.observation.instruction)\n"
        "try: b.expert(e)\n"
        "except ValueError as error: print(str(error).replace(chr(10), ' '))",
        "KITCHEN_SCENE8_turn_off_the_stove",
        "KITCHEN_SCENE7_put_the_white_bowl_on_the_plate",
    )
    missing, picture, unable = out.splitlines()[-3:]
    assert "assets/stable_scanned_objects/white_bowl/white_bowl.xml" in missing
    assert picture.startswith("False") and picture.endswith("turn off the stove") and picture.count("True") == 2
    assert "cannot do 'KITCHEN_SCENE8_turn_off_the_stove': its goal has the part turnoff flat_stove_1" in unable
