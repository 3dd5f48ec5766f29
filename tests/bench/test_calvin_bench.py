"""What the main environment sees of the benchmark: no simulator is imported here."""

import hashlib
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vlm4vla.bench import assets
from vlm4vla.bench.calvin import env, language, oracle, protocol, sequences, starts
from vlm4vla.bench.calvin.env import Benchmark, decides_scores, start_seed
from vlm4vla.bench.calvin.oracle import RULES, BlockFacts, Facts
from vlm4vla.bench.calvin.scenes import BLOCKS, BY_NAME
from vlm4vla.data.formats import calvin_layout as layout
from vlm4vla.types import SPLITS, EpisodeSpec, UserError

FOLDER = Path(__file__).parents[2].parent / "shared/assets/calvin"
needs_assets = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{FOLDER}, the published files, is missing")


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """The benchmark with the published files set, in a home of its own."""
    monkeypatch.setenv("VLM4VLA_HOME", str(tmp_path))
    assets.provide("calvin", FOLDER, lambda _: None)
    env.sentences.cache_clear()
    yield Benchmark()
    env.sentences.cache_clear()


def test_the_hash_of_the_official_seeds():
    assert starts.fnv1_32("hello world") == 3799943344
    text = "dict_values([0, 1, 'right', 'open', 'slider_right', 'table', 'slider_left', 0])"
    assert starts.fnv1_32(text) == 2204809570
    assert starts.fnv1_32("é") != starts.fnv1_32("e")


@needs_assets
def test_the_thousand_sequences_are_the_published_ones_in_their_order():
    published = json.loads((FOLDER / "eval_sequences.json").read_text())
    ours = [sequences.sequence("eval", i) for i in range(1000)]
    assert [[state, list(tasks)] for state, tasks in ours] == published
    assert [list(state) for state, _ in ours] == [list(state) for state, _ in published]  # the seed depends on it


def test_the_shipped_lists_are_what_the_generator_draws():
    states, counts = sequences.initial_states(), sequences.counts()
    assert len(states) == 192 and sum(counts) == 1000 and set(counts) == {5, 6}
    for split in SPLITS:
        listed = [(sequences.state_number(split, i), sequences.sequence(split, i)[1]) for i in range(1000)]
        assert list(Counter(state for state, _ in sorted(listed)).values()) == counts
        for number in (0, 101, 191):
            drawn = sequences.draw(states[number], counts[number], sequences.FIRST_SEED[split] + number)
            assert sorted(drawn) == sorted(tasks for state, tasks in listed if state == number)


def test_the_order_of_a_list_is_a_shuffle_of_its_own():
    order = [i for i, n in enumerate(sequences.counts()) for _ in range(n)]
    np.random.RandomState(0).shuffle(order)
    assert order == [sequences.state_number("eval", i) for i in range(1000)]


def test_chains_of_other_splits_lie_elsewhere():
    def begin(split, index):
        return starts.of(EpisodeSpec("", split, "chain", index, start_seed(split, "chain", index), ""))

    all_of = {split: [begin(split, i) for i in range(200)] for split in SPLITS}
    places = {split: {s.scene_obs.tobytes() for s in chains} for split, chains in all_of.items()}
    assert len(places["train"] | places["dev"]) == 400
    assert 100 < len(places["eval"]) < 192  # the published ones share their beginnings
    assert not places["eval"] & (places["train"] | places["dev"])
    assert all(s.scene == "D" and len(s.tasks) == 5 for chains in all_of.values() for s in chains)


def test_a_sequence_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="no eval sequence 1000"):
        starts.of(EpisodeSpec("", "eval", "chain", 1000, 0, ""))


@needs_assets
def test_episodes(bench):
    chain = bench.episodes("eval", "chain", 5000)
    assert len(chain) == 1000 and chain[0].instruction == "take the blue block and rotate it to the right"
    told = bench.describe(chain[0])
    assert told["subtasks"][0] == "rotate_blue_block_right" and told["scene"] == "D"
    assert told["robot_obs"] == list(starts.ROBOT) and len(told["scene_obs"]) == 24
    assert told["scene_obs"][:6] == [0.28, 0.22, 0.0, 0.088, 1.0, 1.0]
    own = [t for t in bench.tasks() if t != starts.QUICK]
    seeds = [e.seed for s in SPLITS for t in own for e in bench.episodes(s, t, 40)]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**53 for seed in seeds)
    assert bench.episodes("dev", "turn_on_led", 3) == bench.episodes("dev", "turn_on_led", 8)[:3]
    assert "pybullet" not in sys.modules


@needs_assets
def test_unknown_names_are_refused_with_a_guess(bench, monkeypatch):
    with pytest.raises(UserError, match="'open_drawer'"):
        bench.instruction("open_drawr")
    with pytest.raises(UserError, match="train, dev, eval"):
        bench.episodes("test", "chain", 1)
    with pytest.raises(UserError, match="bench install calvin"):
        bench.make("chain")  # no simulator in the main environment
    monkeypatch.setenv(env.VARIANT, "797142d")
    with pytest.raises(UserError, match="'797142c'"):
        Benchmark()


def test_without_assets_the_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("VLM4VLA_HOME", str(tmp_path))
    env.sentences.cache_clear()
    with pytest.raises(UserError, match="bench install calvin --assets"):
        Benchmark().instruction("open_drawer")


@needs_assets
def test_wrong_assets_are_told(monkeypatch, tmp_path):
    """A block or a mesh that is missing, and a file of sentences of something else."""
    monkeypatch.setenv("VLM4VLA_HOME", str(tmp_path / "home"))
    copy = tmp_path / "copy"
    shutil.copytree(FOLDER, copy, symlinks=True)
    assets.provide("calvin", copy, lambda _: None)
    env._assets_digest.cache_clear()
    assert len(env._assets_digest()) == 16
    (copy / "calvin_env/data/calvin_table_B/meshes/plank_link.obj").unlink()
    env._assets_digest.cache_clear()
    with pytest.raises(UserError, match=r"calvin_table_B.urdf names ../meshes/plank_link.obj, which is missing"):
        env._assets_digest()
    (copy / "calvin_models/conf/annotations/new_playtable_validation.yaml").write_text('open_door: ["open the door"]\n')
    language.sentences.cache_clear()
    with pytest.raises(UserError, match="has sentences for 1 tasks"):
        Benchmark().instruction("open_drawer")
    (copy / "calvin_env/data/blocks/block_pink_big.urdf").unlink()
    with pytest.raises(UserError, match=r"block_pink_big\.urdf is missing"):
        env._assets_digest()
    language.sentences.cache_clear()


def test_the_older_environment_is_a_benchmark_of_its_own(monkeypatch):
    monkeypatch.setenv(env.VARIANT, env.PINNED)
    assert Benchmark().id == f"{protocol.ID}+env-1431a46"


@pytest.mark.parametrize("task", starts.SINGLE)
def test_single_tasks_start_where_they_can_be_done(task):
    scenes = set()
    for split in SPLITS:
        for i in range(60):
            start = starts.of(EpisodeSpec("", split, task, i, start_seed(split, task, i), ""))
            scenes.add((split, start.scene))
            scene, obs = BY_NAME[start.scene], start.scene_obs
            assert start.tasks == (task,)
            positions = [obs[scene.place(b)][:3] for b in BLOCKS]
            least = 0.039 if task == "unstack_block" else 0.1
            assert min(np.linalg.norm(a - b) for k, a in enumerate(positions) for b in positions[:k]) > least
            words = task.split("_")
            if words[0] in ("push", "rotate", "lift") and words[2] == "block":
                _, y, z = obs[scene.place(f"block_{words[1]}")][:3]
                assert (y > 0.05, z < 0.4) == (words[3] == "slider", words[3] == "drawer")
                assert words[3] != "drawer" or obs[1] > 0.2
            if task == "unstack_block":
                assert sorted(p[2] for p in positions)[2] > 0.49
            if words[0] == "turn":
                assert obs[4 if words[2] == "lightbulb" else 5] == (words[1] == "off")
            if words[0] == "move":
                assert (obs[0] > 0.2) == (words[2] == "right")
            if words[1] == "drawer":
                assert (obs[1] > 0.2) == (words[0] == "close")
    assert scenes == {("train", s) for s in "ABC"} | {("dev", "D"), ("eval", "D")}


@pytest.mark.parametrize("task", starts.HELD_FROM)
def test_tasks_with_a_block_in_the_hand_begin_with_a_lift_from_elsewhere(task):
    lifted = set()
    for split in SPLITS:
        for i in range(60):
            episode = EpisodeSpec("", split, task, i, start_seed(split, task, i), "")
            first, *others = (starts.of(episode, attempt) for attempt in range(3))
            assert len({s.scene_obs.tobytes() for s in (first, *others)}) == 3
            assert {s.scene for s in others} == {first.scene} and first.tasks == (task,)
            assert starts.of(episode, 2).scene_obs.tobytes() == others[1].scene_obs.tobytes()
            for start in (first, *others):
                scene, obs = BY_NAME[start.scene], start.scene_obs
                _, colour, _, surface = start.prelude.split("_")
                lifted.add((colour, surface))
                x, y, z = obs[scene.place(f"block_{colour}")][:3]
                assert (y > 0.05, z < 0.4) == (surface == "slider", surface == "drawer")
                rest = [obs[scene.place(b)][:3] for b in BLOCKS if b != f"block_{colour}"]
                if "drawer" in (surface, task.split("_")[-1]):
                    assert obs[1] > 0.2  # it is open
                if task == "stack_block":
                    assert any(position[1] < 0.0 and position[2] > 0.4 for position in rest)
                (left, _, _), (right, _, _) = scene.surfaces["slider_right" if obs[0] > 0.1 else "slider_left"]
                if task == "place_in_slider":
                    assert not any(position[1] > 0.05 and left < position[0] < right for position in rest)
                if surface == "slider":
                    assert left < x < right  # not behind the door
    assert lifted == {(c, s) for c in ("red", "blue", "pink") for s in starts.HELD_FROM[task]}


@needs_assets
def test_a_start_with_a_prelude_is_told(bench):
    for task in (*starts.HELD_FROM, "open_drawer"):
        for episode in bench.episodes("dev", task, 3):
            told = bench.describe(episode)
            assert told["prelude"] == starts.of(episode).prelude
            assert (told["prelude"] is None) == (task == "open_drawer")


def block(position=(0, 0, 0.46), yaw=0.0, contacts=((9, -1),), body=5, speed=0.0):
    turn = np.array([0, 0, np.sin(yaw / 2), np.cos(yaw / 2)])
    return BlockFacts(body, np.array(position, float), turn, speed, frozenset(contacts))


def facts(lamp=0, slide=0.0, robot=(), **blocks):
    links = {"base_link": -1, "drawer_link": 3, "plank_link": 6}
    each = {b: blocks.get(b.removeprefix("block_"), block(body=4 + i)) for i, b in enumerate(BLOCKS)}
    lights = {"lightbulb": 0, "led": lamp}
    return Facts(0, 9, links, each, {"base__slide": slide, "base__drawer": 0.0}, lights, frozenset(robot))


RED = {"body": 4}
HELD, DRAWER, SHELF, TABLE = [(0, 9)], [(9, 3)], [(9, 6)], [(9, -1)]


@pytest.mark.parametrize(
    ("start", "now", "expected"),
    [
        (facts(), facts(), set()),
        (facts(), facts(lamp=1), {"turn_on_led"}),
        (facts(lamp=1), facts(), {"turn_off_led"}),
        (facts(slide=0.2), facts(), {"move_slider_right"}),
        (facts(), facts(slide=0.149), set()),
        (facts(), facts(red=block((0.11, 0, 0.46), **RED)), {"push_red_block_right"}),
        (facts(), facts(red=block((0.11, 0, 0.46), contacts=HELD, **RED)), set()),
        (facts(), facts(red=block(yaw=1.1, **RED)), {"rotate_red_block_left"}),
        (facts(), facts(red=block(yaw=-1.1, **RED)), {"rotate_red_block_right"}),
        (facts(), facts(red=block(yaw=1.1, contacts=HELD, **RED)), set()),
        (facts(), facts(red=block((0, 0, 0.52), contacts=HELD, **RED)), {"lift_red_block_table"}),
        (facts(), facts(red=block((0, 0, 0.52), contacts=HELD + TABLE, **RED)), set()),
        (
            facts(red=block(contacts=SHELF, **RED)),
            facts(red=block((0, 0, 0.495), contacts=HELD, **RED)),
            {"lift_red_block_slider"},
        ),
        (
            facts(robot=[4], red=block(contacts=HELD, **RED)),
            facts(red=block(contacts=DRAWER, **RED)),
            {"place_in_drawer"},
        ),
        (facts(robot=[4, 9], red=block(contacts=HELD, **RED)), facts(red=block(contacts=DRAWER, **RED)), set()),
        (facts(), facts(red=block(contacts=DRAWER, **RED)), {"push_into_drawer"}),
        (facts(), facts(red=block(contacts=[(5, -1)], **RED)), {"stack_block"}),
        (facts(), facts(red=block(contacts=[(5, -1)], speed=1.5, **RED)), set()),
        (facts(red=block(contacts=[(5, -1)], **RED)), facts(), {"unstack_block"}),
    ],
)
def test_rules(start, now, expected):
    assert set(oracle.solved(start, now)) == expected


@needs_assets
def test_the_rules_are_those_of_the_official_file():
    text = (FOLDER / "calvin_env/conf/tasks/new_playtable_tasks.yaml").read_text()
    names = [line.split(":")[0].strip() for line in text.split("tasks:\n", 1)[1].splitlines() if ": [" in line]
    assert names == list(RULES) and len(names) == 34


def digest():
    return hashlib.sha256(json.dumps(decides_scores(), sort_keys=True).encode()).hexdigest()


def test_what_decides_scores_is_pinned_to_the_id():
    assert digest() == protocol.DIGEST, (
        "Something that decides scores has changed: results of before and after must not be compared. Give the "
        f"benchmark a new ID in bench/calvin/protocol.py, write DIGEST = {digest()!r} beside it, mend the README."
    )


@pytest.mark.parametrize("name", [n for n in vars(protocol) if n.isupper() and n not in ("ID", "DIGEST")])
def test_every_constant_of_the_protocol_changes_the_digest(monkeypatch, name):
    monkeypatch.setattr(protocol, name, 12345)
    assert digest() != protocol.DIGEST


def test_its_numbers_mean_what_those_of_its_data_files_mean():
    """Benchmark and data rooms do not import each other, so this is stated twice."""
    bench = Benchmark()
    assert bench.action_spec.differences(layout.SPECS["relative"]) == []
    assert bench.cameras == tuple(layout.CAMERAS.values())
    assert bench.state_names == layout.STATE_NAMES


def test_the_quick_chain_holds_whole_initial_states():
    bench = Benchmark()
    whole = {start.index: start for start in bench.episodes("eval", "chain", 1000)}
    quick = bench.episodes("eval", "chain_quick", 1000)
    states = Counter(bench.describe(start)["initial_state"] for start in quick)
    every = Counter(bench.describe(start)["initial_state"] for start in whole.values())
    assert sorted(states) == list(range(protocol.QUICK_STATES)) and all(states[s] == every[s] for s in states)
    for start in quick:
        same = whole[start.index]
        assert (start.seed, start.instruction) == (same.seed, same.instruction)
        assert starts.of(start).tasks == starts.of(same).tasks
    assert bench.episodes("eval", "chain_quick", 5) == quick[:5]
    assert set(bench.chains) == {"chain", "chain_quick"}
