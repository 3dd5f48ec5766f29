"""Where the scripted expert of LIBERO takes things from above, by shapes alone; in the simulator's own environment."""

import json

import pytest
from libero_env import libero_python, run

pytestmark = pytest.mark.sim

HAND_M = (0.105, 0.033, 0.045)
"""A Panda hand seen from the point between its fingertips: half of its length and of its breadth, and how far above."""


@pytest.fixture(scope="module")
def chosen() -> dict[str, dict[str, float]]:
    """What is chosen for a lying box of 81 x 43 x 18 mm and for a can, alone and beside a carton of 6 x 6 x 12 cm."""
    script = (
        "import json\n"
        "from vlm4vla.bench.libero import grasp, shapes\n"
        "def box(x, y, half):\n"
        "    return shapes._LATTICE * np.array(half) + [x, y, half[2]]\n"
        "def can(radius):\n"
        "    turn = np.linspace(0, 2 * np.pi, 96, endpoint=False)\n"
        "    ring = np.column_stack([radius * np.cos(turn), radius * np.sin(turn)])\n"
        "    return np.concatenate([np.column_stack([ring, np.full(96, z)]) for z in np.linspace(0, 0.08, 9)])\n"
        "nothing, carton, base = np.empty((0, 3)), box(-0.015, 0.087, (0.03, 0.03, 0.06)), np.array([-0.6, 0.0])\n"
        "found = {}\n"
        "for name, points in (('box', box(0, 0, (0.0405, 0.0215, 0.009))), ('can', can(0.033))):\n"
        "    for about, obstacles in (('alone', nothing), ('beside', carton)):\n"
        "        angle, point = grasp.best(shapes.Extent(points), obstacles, base, None)\n"
        "        away = carton - point; c, s = np.cos(angle), np.sin(angle)\n"
        "        length, breadth, above = json.loads(sys.argv[1])\n"
        "        under = (np.abs(away[:, 0] * c + away[:, 1] * s) < length) & (away[:, 2] > above)\n"
        "        under &= np.abs(away[:, 1] * c - away[:, 0] * s) < breadth\n"
        "        found[f'{name} {about}'] = dict(angle=angle, x=point[0], y=point[1], under=int(under.sum()))\n"
        "print(json.dumps(found))\n"
    )
    answer: dict[str, dict[str, float]] = json.loads(run(libero_python(), script, json.dumps(HAND_M)))
    return answer


def test_a_free_box_is_taken_straight_across_its_middle(chosen):
    box = chosen["box alone"]
    assert box["angle"] == pytest.approx(1.5708, abs=1e-3)
    assert (box["x"], box["y"]) == pytest.approx((0, 0), abs=1e-6)
    assert box["under"] > 40  # points of the carton under the hand, if it stood there: the next test is not empty


def test_beside_a_carton_a_box_is_taken_so_that_the_hand_is_clear_of_it(chosen):
    box = chosen["box beside"]
    assert box["under"] <= 5
    assert abs(box["x"]) <= 0.0405 - 0.011  # a finger's pad is still whole on the box


def test_a_round_thing_is_taken_over_its_middle_whatever_is_beside_it(chosen):
    for about in ("alone", "beside"):
        can = chosen[f"can {about}"]
        assert (can["x"], can["y"]) == pytest.approx((0, 0), abs=2e-3)
