"""Jobs in this process, on the fake benchmark: what a policy sees under each control, and what is rendered."""

from dataclasses import replace

import numpy as np
import pytest
from fake_bench import Benchmark, FakeEnv

from vlm4vla.rollout import episodes, perturb
from vlm4vla.types import EpisodeSpec, UserError, step_limit_of, view_name

PICTURES = {"pictures": True}


class Recorder:
    """A policy that remembers what it saw and moves by ``speed`` in chunks of three."""

    def __init__(self, speed=1.0, looks=True, window=1):
        self.looks, self.seen, self.speed, self.window = looks, [], speed, window
        self.cameras = frozenset(["front"] if looks else [])

    def reset(self, episode): ...

    def ask(self, observation):
        self.seen.append(observation)
        return np.tile(np.array([self.speed, 1.0], np.float32), (3, 1))


class Still:
    """An expert that never gets anywhere."""

    def reset(self, episode): ...

    def act(self):
        return np.array([0.0, 1.0], np.float32)


def job(**changes):
    bench = Benchmark()
    episode, other = (e.to_dict() for e in bench.episodes("eval", "move", 2))
    base = {"episode": episode, "other": other, "control": None, "instruction": "please move"}
    return base | {"execute": 2, "video": False} | changes


def play(chooser, task="move", **changes):
    bench = Benchmark()
    env = bench.make(task)
    return episodes.rollout(job(**changes), bench, env, chooser), env


def test_success_ends_the_episode_at_once_inside_a_chunk():
    chooser = Recorder()
    result, env = play(chooser, execute=3)
    assert (result["success"], result["steps"], result["first_success_step"], result["failure"]) == (True, 4, 4, None)
    assert len(chooser.seen) == 2  # 3 + 1 steps
    assert env.rendered == 2  # the start and the picture for the second query: no other
    assert [float(o.state[0]) for o in chooser.seen] == [0.0, 0.75]
    assert result["frames"] is None


@pytest.mark.parametrize("video", [False, True])
@pytest.mark.parametrize("execute", [1, 2, 3])
@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_a_history_is_that_of_the_last_frames(window, execute, video):
    chooser = Recorder(speed=0.5, window=window)
    result, env = play(chooser, execute=execute, video=video)
    assert result["success"] and result["steps"] == 8
    for question, observation in enumerate(chooser.seen):
        now = question * execute
        shown = {name: int(image[0, 0, 0]) for name, image in observation.images.items()}
        # the picture shows x = step / 8; before the start the first frame is repeated
        assert shown == {view_name("front", age): int(12.5 * max(now - age, 0)) for age in range(window)}
        assert float(observation.state[0]) == now / 8
    if window == 1 and not video:
        assert env.rendered - len(chooser.seen) in (0, 1)  # nobody foresees that an episode will succeed
    assert env.rendered <= 9


def test_under_a_control_the_whole_history_is_replaced():
    chooser = Recorder(window=2)
    play(chooser, control="image-other")
    assert all([o.images[v][0, 0, 0] for v in ("front", "front@-1")] == [10, 10] for o in chooser.seen)


def test_the_step_limit_holds_even_when_chunks_do_not_divide_it():
    result, _ = play(Recorder(speed=0.0))
    assert (result["success"], result["steps"], result["first_success_step"]) == (False, 9, None)
    assert result["failure"] == episodes.STEP_LIMIT


@pytest.mark.parametrize("task, steps", [("move", 5), ("slide", 9)])
def test_a_task_may_have_a_step_limit_of_its_own(task, steps):
    bench = Benchmark()
    bench.step_limits = {"move": 5}
    assert step_limit_of(bench, task) == steps
    start = bench.episodes("eval", task, 1)[0].to_dict()
    played = episodes.rollout(job(episode=start), bench, bench.make(task), Recorder(speed=0.0))
    assert (played["steps"], played["failure"]) == (steps, episodes.STEP_LIMIT)
    bench.expert = lambda env: Still()
    shown = episodes.demo({"episode": start, "noise": 0.0, "after_success": 1} | PICTURES, bench, bench.make(task))
    assert len(shown["actions"]) == steps


def test_a_blind_builtin_renders_nothing_unless_a_video_is_wanted():
    result, env = play(Recorder(looks=False))
    assert result["success"] and env.rendered == 0
    result, env = play(Recorder(looks=False), video=True)
    assert result["frames"].shape == (5, 4, 4, 3)  # the start and four steps
    assert result["frames"][:, 0, 0, 0].tolist() == [0, 25, 50, 75, 100]


def test_image_blank_is_black_and_keeps_state_and_instruction():
    chooser = Recorder()
    play(chooser, control="image-blank")
    assert all(not o.images["front"].any() for o in chooser.seen)
    assert [float(o.state[0]) for o in chooser.seen] == [0.0, 0.5]
    assert {o.instruction for o in chooser.seen} == {"please move"}


def test_image_other_shows_the_start_of_the_other_episode_all_along():
    chooser = Recorder()
    result, env = play(chooser, control="image-other")
    assert [o.images["front"][0, 0, 0] for o in chooser.seen] == [10, 10]
    assert env.index == 0 and result["success"]


def test_a_shuffled_picture_has_the_same_order_all_along(monkeypatch):
    """The fake's pictures have one colour each: here every pixel gets a number of its own."""
    marks = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    see = FakeEnv._see
    monkeypatch.setattr(FakeEnv, "_see", lambda self: replace(see(self), images={"front": marks + int(100 * self.x)}))
    chooser = Recorder(speed=0.5, window=2)
    play(chooser, control="image-shuffled")
    orders = []
    for step, observation in enumerate(chooser.seen):
        for age, view in enumerate(("front", "front@-1")):
            orders.append((observation.images[view] - 25 * max(2 * step - age, 0) // 2).tolist())
    assert len(orders) == 8 and all(order == orders[0] for order in orders)
    assert orders[0] != marks.tolist() and sorted(np.ravel(orders[0])) == list(range(48))
    assert [float(o.state[0]) for o in chooser.seen] == [0.0, 0.25, 0.5, 0.75]


def test_cameras_are_moved_for_one_episode(monkeypatch):
    chooser, bench = Recorder(), Benchmark()
    env = bench.make("move")
    moved = episodes.rollout(job(control="camera-moved", video=True), bench, env, chooser)
    shift = perturb.camera_shifts(bench, EpisodeSpec.from_dict(job()["episode"]))["front"]
    aside = int(100 * abs(shift.translation[0]))
    assert aside > 0 and [o.images["front"][0, 0, 0] for o in chooser.seen] == [aside, 50 + aside]
    assert moved["frames"][0, 0, 0, 0] == aside  # the video shows what the policy saw
    assert env.shifts == {}
    plain = episodes.rollout(job(), bench, env, chooser)
    assert [o.images["front"][0, 0, 0] for o in chooser.seen[2:]] == [0, 50]
    assert {k: moved[k] for k in ("success", "steps")} == {k: plain[k] for k in ("success", "steps")}


def test_cameras_come_back_when_an_episode_breaks():
    bench = Benchmark()
    env = bench.make("raise")
    broken = bench.episodes("eval", "raise", 1)[0].to_dict()
    with pytest.raises(ZeroDivisionError):
        episodes.rollout(job(control="camera-moved", episode=broken), bench, env, Recorder())
    assert env.shifts == {}


def test_the_check_of_moved_cameras_sees_before_while_and_after():
    bench = Benchmark()
    found = episodes.moved(job(), bench, bench.make("move"))
    before, while_, after = (pictures["front"] for pictures in found["pictures"])
    assert np.array_equal(before, after) and not np.array_equal(before, while_)
    assert found["states"].tolist() == [[1.0, 0.0]] * 3  # the expert has been there


@pytest.mark.parametrize(
    ("control", "lacks"), [("camera-moved", "camera_moves"), ("instruction-paraphrased", "paraphrase")]
)
def test_a_benchmark_that_lacks_what_a_control_needs_is_told_so(control, lacks, monkeypatch):
    monkeypatch.delattr(Benchmark, lacks)
    with pytest.raises(UserError, match=f"control {control} was asked for, but fake-v1 has no {lacks}"):
        play(Recorder(), control=control)


def test_a_paraphrase_is_told_in_place_of_the_instruction():
    chooser = Recorder()
    play(chooser, control="instruction-paraphrased")
    assert {o.instruction for o in chooser.seen} == {"kindly move"}


def test_a_start_that_is_told_the_paraphrase_by_itself_gets_the_instruction():
    bench, chooser = Benchmark(), Recorder()
    start = replace(bench.episodes("eval", "move", 1)[0], instruction="kindly move").to_dict()
    episodes.rollout(job(control="instruction-paraphrased", episode=start), bench, bench.make("move"), chooser)
    assert {o.instruction for o in chooser.seen} == {"please move"}


def test_in_a_chain_every_task_is_paraphrased(monkeypatch):
    """The fake's chain tells its subtasks by number; here they are the sentences of two other tasks."""
    monkeypatch.setattr(Benchmark, "chains", ("chain",), raising=False)
    see = FakeEnv._see
    told = ("please move", "please slide", "")
    monkeypatch.setattr(FakeEnv, "_see", lambda self: replace(see(self), instruction=told[self.completed]))
    bench, chooser = Benchmark(), Recorder()
    start = bench.episodes("eval", "chain", 1)[0].to_dict()
    played = job(control="instruction-paraphrased", episode=start)
    episodes.rollout(played, bench, bench.make("chain"), chooser)
    assert [o.instruction for o in chooser.seen] == ["kindly move", "kindly slide"]


def test_the_instruction_of_the_job_is_what_the_policy_is_told():
    chooser = Recorder()
    play(chooser, control="instruction-swapped", instruction="please slide")
    assert {o.instruction for o in chooser.seen} == {"please slide"}


def test_a_solved_subtask_drops_the_chunk_and_asks_with_the_next_instruction():
    chooser = Recorder(window=2)
    result, _ = play(chooser, task="chain", execute=3)
    assert (result["success"], result["completed"], result["steps"], result["failure"]) == (True, 2, 4, None)
    assert [o.instruction for o in chooser.seen] == ["please move 0", "please move 1"]
    assert [float(o.state[0]) for o in chooser.seen] == [0.0, 0.5]
    # after two of three steps; the history begins there
    assert [o.images[v][0, 0, 0] for o in chooser.seen for v in ("front", "front@-1")] == [0, 0, 50, 50]
    assert play(Recorder(looks=False), task="chain", execute=3)[0]["completed"] == 2


def test_a_failed_subtask_ends_the_episode_before_the_step_limit():
    result, _ = play(Recorder(speed=0.0), task="chain")
    assert (result["success"], result["completed"], result["steps"]) == (False, 0, 5)
    assert result["failure"] == episodes.OVER and play(Recorder())[0]["completed"] is None


def test_a_swapped_instruction_stays_in_a_chain():
    chooser = Recorder()
    play(chooser, task="chain", control="instruction-swapped", instruction="please slide")
    assert {o.instruction for o in chooser.seen} == {"please slide"}


def test_an_unknown_control_is_refused_with_a_guess():
    with pytest.raises(UserError, match="'image-blank'"):
        play(Recorder(), control="image-blnk")


def test_demonstrations_keep_clean_labels_and_go_on_after_success():
    bench = Benchmark()
    base = {"episode": job()["episode"], "after_success": 2} | PICTURES
    clean = episodes.demo(base | {"noise": 0.0}, bench, bench.make("move"))
    assert clean["successes"].tolist() == [False, False, False, True, True, True]
    assert clean["images"]["front"].shape == (6, 4, 4, 3) and clean["states"].shape == (6, 1)
    noisy = [episodes.demo(base | {"noise": 0.5}, bench, bench.make("move")) for _ in range(2)]
    assert np.array_equal(noisy[0]["states"], noisy[1]["states"])  # the noise is the episode's
    assert not np.array_equal(noisy[0]["states"][:4], clean["states"][:4])
    label = np.minimum(1.0, 4 * (1 - noisy[0]["states"][:, 0]))
    assert np.allclose(noisy[0]["actions"][:, 0], label) and not np.allclose(noisy[0]["executed"][:, 0], label)
    assert np.array_equal(clean["executed"], clean["actions"])
    assert noisy[0]["vectors"] == {}  # this benchmark's data have no format of their own


def test_what_a_format_of_its_own_wants_to_know_is_kept_of_every_moment():
    bench = Benchmark()
    env = bench.make("move")
    env.vectors = lambda: {"place": np.array([env.x])}
    asked = {"episode": job()["episode"], "after_success": 0, "noise": 0.0, "pictures": False}
    demo = episodes.demo(asked, bench, env)
    assert demo["vectors"]["place"][:, 0].tolist() == [0, 0.25, 0.5, 0.75, 1.0]  # one more than actions
    assert demo["images"] == {} and len(demo["actions"]) == 4


def test_replay_gives_the_state_at_the_start_and_after_each_step():
    bench = Benchmark()
    actions = np.array([[1, 1], [0.5, 1]], np.float32)
    result = episodes.replay({"episode": job()["episode"], "actions": actions}, bench.make("move"))
    assert result["start"].tolist() == [0, 0]
    assert result["states"][:, 0].tolist() == [0.25, 0.375] and result["successes"].tolist() == [False, False]


def test_only_cameras_that_somebody_looks_through_are_drawn():
    blind = Recorder()
    blind.cameras = frozenset()
    play(blind)
    assert all(seen.images == {} for seen in blind.seen)
    blind.seen.clear()
    result, _ = play(blind, video=True)
    assert len(result["frames"]) == result["steps"] + 1  # a video needs its own
