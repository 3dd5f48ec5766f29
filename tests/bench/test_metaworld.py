"""What the main environment sees of the benchmark: no simulator is imported here."""

import hashlib
import json
import sys

import numpy as np
import pytest

from vlm4vla.bench import install
from vlm4vla.bench.metaworld import protocol
from vlm4vla.bench.metaworld.env import Benchmark, decides_scores, start_seed
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


def digest():
    return hashlib.sha256(json.dumps(decides_scores(), sort_keys=True).encode()).hexdigest()


def test_what_decides_scores_is_pinned_to_the_id():
    assert digest() == protocol.DIGEST, (
        "Something that decides scores has changed: results of before and after must not be compared. Give the "
        f"benchmark a new ID in bench/metaworld/protocol.py, write DIGEST = {digest()!r} beside it, mend the README."
    )


@pytest.mark.parametrize("name", [n for n in vars(protocol) if n.isupper() and n not in ("ID", "DIGEST")])
def test_every_constant_of_the_protocol_changes_the_digest(monkeypatch, name):
    monkeypatch.setattr(protocol, name, 12345)
    assert digest() != protocol.DIGEST


def test_all_python_versions_of_the_package_can_run_it():
    assert (install.folder_of("metaworld") / "python.txt").read_text().split() == ["3.11", "3.12", "3.13"]
    assert install._interpreter(install.folder_of("metaworld")) == sys.executable
