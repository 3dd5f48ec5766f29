"""What the main environment sees of the benchmark: no simulator is imported here."""

import sys

import numpy as np
import pytest

from vlm4vla.bench.metaworld.env import Benchmark, start_seed
from vlm4vla.bench.metaworld.tasks import INSTRUCTIONS, MARKERS
from vlm4vla.types import SPLITS, UserError


def test_fifty_tasks_each_with_a_plain_instruction_of_its_own():
    bench = Benchmark()
    assert len(bench.tasks()) == 50
    assert len(set(INSTRUCTIONS.values())) == 50
    for text in INSTRUCTIONS.values():
        assert text == text.lower() and text.replace(" ", "").isalpha(), text
    assert set(MARKERS) <= set(INSTRUCTIONS)
    for task, text in INSTRUCTIONS.items():  # a marker is named in the words, and only where there is one
        assert (" mark" in text) == (task in MARKERS), task
    assert "mujoco" not in sys.modules and "metaworld" not in sys.modules


def test_starts_are_fixed_disjoint_and_grow_at_the_end():
    bench = Benchmark()
    seeds = [e.seed for s in SPLITS for t in bench.tasks() for e in bench.episodes(s, t, 40)]
    assert len(set(seeds)) == len(seeds) == 3 * 50 * 40
    assert all(0 <= seed < 2**53 for seed in seeds)
    assert bench.episodes("eval", "reach", 3) == bench.episodes("eval", "reach", 8)[:3]
    # Pinned: another numpy, another order of tasks or a slip in the key would silently be another benchmark.
    assert start_seed("train", "drawer-open", 0) == 3929373581010797
    episode = bench.episodes("dev", "drawer-open", 1)[0]
    assert (episode.benchmark, episode.instruction) == ("metaworld-v1", "open the drawer")


def test_unknown_names_are_refused_with_a_guess():
    bench = Benchmark()
    with pytest.raises(UserError, match="'drawer-open'"):
        bench.instruction("drawer-opn")
    with pytest.raises(UserError, match="train, dev, eval"):
        bench.episodes("test", "reach", 1)
    with pytest.raises(UserError, match="bench install metaworld"):
        bench.make("reach")  # no simulator in the main environment


def test_action_spec():
    spec = Benchmark.action_spec
    assert (spec.size, spec.arm, spec.gripper, spec.control_hz) == (4, (0, 1, 2), (3,), 80.0)
    assert np.array_equal(spec.check(Benchmark().do_nothing()), [0, 0, 0, 1])
