"""The benchmark's own environment for the tests of this folder: a fixture, starts by name, scripts that run in it."""

import subprocess
from pathlib import Path

import pytest

from vlm4vla.bench import assets, install
from vlm4vla.types import UserError

SHARED = Path(__file__).parents[2].parent / "shared/assets"
BOWL = "pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate"
DRAWER = "KITCHEN_SCENE4_put_the_black_bowl_in_the_bottom_drawer_of_the_cabinet_and_close_it"
SOUP = "pick_up_the_alphabet_soup_and_place_it_in_the_basket"
CANS = "LIVING_ROOM_SCENE2_put_both_the_alphabet_soup_and_the_tomato_sauce_in_the_basket"
BEGIN = (
    "import numpy as np\n"
    "from vlm4vla.bench.libero.env import Benchmark\n"
    "b = Benchmark()\n"
    "def opened(task): return b.make(task)\n"
    "def start(split, task, index): return b.episodes(split, task, index + 1)[index]\n"
)


def libero_python() -> Path:
    """Interpreter of the environment, made if it is absent (a minute of downloads); skips without the assets."""
    try:
        assets.folder("libero")
    except UserError:
        if not (SHARED / "libero").is_dir():
            pytest.skip(f"the assets of libero are not set, and {SHARED / 'libero'} does not exist")
        assets.provide("libero", SHARED / "libero", print)
    install.install("libero", print)
    return install.python_of("libero")


def run(python: Path, script: str, *words: str) -> str:
    path = "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
    command = [str(python), "-I", "-c", path + BEGIN + script, str(install.link_folder()), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout
