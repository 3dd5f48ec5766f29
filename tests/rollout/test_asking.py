import threading
from dataclasses import replace

import numpy as np
import pytest
from fake_bench import Benchmark
from websockets.sync.server import serve

from vlm4vla.rollout.asking import Server, check_spec, request_keys, split_gripper
from vlm4vla.rollout.wire import NOISE_KEY, ServerError, image_keys, pack
from vlm4vla.rollout.worker import Worker
from vlm4vla.types import Observation, UserError

URI = "ws://127.0.0.1:1"
SPEC = Benchmark.action_spec
OURS = {"server": "vlm4vla"}


class Client:
    uri = URI

    def __init__(self, metadata, reply):
        self.metadata, self.reply, self.asked = metadata, reply, []

    def infer(self, request):
        self.asked.append(request)
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


def test_equal_specs_pass_and_different_ones_are_printed():
    check_spec(OURS | {"action_spec": SPEC.to_dict()}, SPEC, False, URI)
    other = replace(SPEC, control_hz=5.0).to_dict()
    with pytest.raises(UserError, match=r"5\.0 Hz against 10\.0 Hz.*policy declares.*Possible: the benchmark's"):
        check_spec(OURS | {"action_spec": other}, SPEC, True, URI)  # a declared spec is never overruled


def test_a_server_without_spec_needs_the_users_word():
    with pytest.raises(UserError, match="assume_spec"):
        check_spec({}, SPEC, False, URI)
    check_spec({}, SPEC, True, URI)


def test_a_foreign_server_gets_openpi_names_and_ours_gets_what_it_declares():
    bench = Benchmark()
    assert request_keys({}, bench, URI) == ({"front": "observation/image"}, True)
    ours = OURS | {"observation": {"images": {"front": {"key": "observation/image"}}, "state": None}}
    assert request_keys(ours, bench, URI) == ({"front": "observation/image"}, False)
    ours["observation"]["images"] = {"wrist": {"key": "observation/image"}}
    with pytest.raises(UserError, match="wrist"):
        request_keys(ours, bench, URI)
    with pytest.raises(UserError, match="state"):
        request_keys(OURS | {"observation": {"images": {}, "state": {"names": ["y"]}}}, bench, URI)


@pytest.mark.parametrize("own", [{}, {"server": "theirs"}, {"server": 7}])
def test_what_a_foreign_server_means_by_our_keys_is_not_guessed(own):
    foreign = own | {"observation": ["image", "state"], "action_spec": {"dims": 7}}
    assert request_keys(foreign, Benchmark(), URI) == ({"front": "observation/image"}, True)
    with pytest.raises(UserError, match="declares no action spec"):
        check_spec(foreign, SPEC, False, URI)
    check_spec(foreign, SPEC, True, URI)


def test_a_policy_with_a_history_gets_the_pictures_it_declares():
    keys = image_keys(("front@-1", "front"))
    assert keys == {"front@-1": "observation/image@-1", "front": "observation/image"}
    metadata = OURS | {"observation": {"images": {view: {"key": key} for view, key in keys.items()}, "state": None}}
    client = Client(metadata, {"actions": np.zeros((3, 2))})
    server = Server(client, Benchmark(), execute=1, seed=0)
    assert server.window == 2
    images = {"front": np.ones((4, 4, 3), np.uint8), "front@-1": np.zeros((4, 4, 3), np.uint8)}
    server.ask(Observation(images, "go", np.zeros(1, np.float32)))
    sent = client.asked[0]
    assert sent["observation/image"].all() and not sent["observation/image@-1"].any()
    metadata["observation"]["images"] = {"wrist@-1": {"key": "observation/image"}}
    with pytest.raises(UserError, match="wrist@-1"):
        request_keys(metadata, Benchmark(), URI)


def test_no_state_is_sent_where_the_benchmark_has_none():
    bench = Benchmark()
    bench.state_names = ()
    assert request_keys({}, bench, URI) == ({"front": "observation/image"}, False)


def test_an_error_of_the_server_is_told_in_its_words():
    seen = Observation({"front": np.zeros((4, 4, 3), np.uint8)}, "go", np.zeros(1, np.float32))
    failing = Client({}, ServerError("a sequence of 30 tokens. Possible: at most 20."))
    with pytest.raises(UserError, match=rf"The policy at {URI} answered with an error: a sequence of 30 tokens"):
        Server(failing, Benchmark(), execute=1, seed=0).ask(seen)


def test_requests_and_replies():
    seen = Observation({"front": np.zeros((4, 4, 3), np.uint8)}, "go", np.zeros(1, np.float32))
    client = Client({}, {"actions": np.zeros((3, 2))})
    assert Server(client, Benchmark(), execute=2, seed=0).ask(seen).shape == (3, 2)
    assert set(client.asked[0]) == {"observation/image", "observation/state", "prompt"}
    with pytest.raises(UserError, match="at least 4"):
        Server(client, Benchmark(), execute=4, seed=0).ask(seen)
    with pytest.raises(UserError, match=r"shape \(2,\)"):
        Server(Client({}, {"actions": np.zeros(2)}), Benchmark(), execute=1, seed=0).ask(seen)
    with pytest.raises(UserError, match="openpi"):
        Server(Client({}, {"error": 1}), Benchmark(), execute=1, seed=0).ask(seen)


def test_a_policy_that_draws_is_told_the_noise_of_seed_episode_and_question():
    bench = Benchmark()
    drawing = {"images": {"front": {"key": "observation/image"}}, "state": None, "noise": {"key": NOISE_KEY}}
    seen = Observation({"front": np.zeros((4, 4, 3), np.uint8)}, "go", np.zeros(1, np.float32))
    first, second = bench.episodes("eval", bench.tasks()[0], 2)

    def noises(seed, *episodes, metadata=OURS | {"observation": drawing}):
        client = Client(metadata, {"actions": np.zeros((3, 2))})
        server = Server(client, bench, execute=1, seed=seed)
        for episode in episodes:
            server.reset(episode)
            for _ in range(3):
                server.ask(seen)
        return [request.get(NOISE_KEY) for request in client.asked]

    both = noises(0, first, second)
    assert noises(0, second) == both[3:], "what was played before does not matter"
    assert len({*both, *noises(1, first, second)}) == 12 and all(0 <= n < 2**63 for n in both)
    assert noises(0, first, metadata={}) == [None] * 3, "another's server is not sent what it does not know"
    deterministic = {key: value for key, value in drawing.items() if key != "noise"}
    assert noises(0, first, metadata=OURS | {"observation": deterministic}) == [None] * 3


@pytest.mark.parametrize(("gripper", "told"), [("close_positive", -1.0), ("close_negative", 1.0)])
def test_the_gripper_of_another_sense_is_turned_exactly_once(gripper, told):
    seen = Observation({"front": np.zeros((4, 4, 3), np.uint8)}, "go", np.zeros(1, np.float32))
    actions = np.array([[0.5, 1.0], [-0.5, -1.0], [0.25, 0.5]], np.float32)
    actions.flags.writeable = False  # as those of a real reply
    server = Server(Client({}, {"actions": actions}), Benchmark(), execute=1, seed=0, gripper=gripper)
    for _ in range(3):  # the same reply each time: nothing adds up
        assert np.array_equal(server.ask(seen), actions * np.float32([1.0, told]))
    plain = Server(Client({}, {"actions": actions}), Benchmark(), execute=1, seed=0)
    assert np.array_equal(plain.ask(seen), actions)


@pytest.mark.parametrize(
    ("given", "address", "gripper"),
    [
        (URI, URI, None),
        (f"{URI}?gripper=close_positive", URI, "close_positive"),
        (f"{URI}/?gripper=close_negative", f"{URI}/", "close_negative"),
        (f"{URI}/p?token=a%2Bb&gripper=close_positive&x=1", f"{URI}/p?token=a%2Bb&x=1", "close_positive"),
        (f"{URI}?token=a", f"{URI}?token=a", None),
    ],
)
def test_the_gripper_stands_in_the_address_and_is_not_sent_along(given, address, gripper):
    assert split_gripper(given) == (address, gripper)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("gripper=close_postive", "Did you mean 'gripper=close_positive'"),
        ("gripper", "Possible: gripper=close_positive, gripper=close_negative"),
        ("griper=close_positive", "has the setting 'griper=close_positive'"),
        ("gripper=close_positive&gripper=close_negative", "Give one of these once"),
    ],
)
def test_slips_in_the_address_are_refused(query, told):
    with pytest.raises(UserError, match=told):
        split_gripper(f"{URI}?{query}")


def test_a_server_that_declares_its_actions_is_not_told_otherwise():
    address = f"{URI}?gripper=close_positive"
    with pytest.raises(UserError, match="declares its own action spec"):
        check_spec(OURS | {"action_spec": SPEC.to_dict()}, SPEC, True, address)
    check_spec({}, SPEC, True, address)
    with pytest.raises(UserError, match=r"\?gripper=close_positive"):
        check_spec({}, SPEC, False, URI)


def test_a_worker_turns_the_gripper_of_another_tools_server(monkeypatch):
    """From the address of an evaluation to the simulator: it answers -1 for open, and the environment gets +1."""
    paths, grippers = [], []

    def answer(connection):
        paths.append(connection.request.path)
        connection.send(pack({}))
        for _ in connection:
            connection.send(pack({"actions": np.float32([[0.5, -1.0], [0.5, -1.0]])}))

    bench = Benchmark()
    check = type(bench.action_spec).check
    monkeypatch.setattr(
        type(bench.action_spec), "check", lambda spec, action: (grippers.append(action[1]), check(spec, action))[1]
    )
    episode = bench.episodes("eval", "move", 1)[0].to_dict()
    job = {"kind": "rollout", "id": "a", "episode": episode, "control": None, "other": None, "instruction": "go"}
    job |= {"execute": 2, "seed": 0, "video": False, "assume_spec": True}
    with serve(answer, "127.0.0.1", 0, compression=None) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        uri = f"ws://127.0.0.1:{listening.socket.getsockname()[1]}"
        worker = Worker(bench, lambda message: None)
        told = [worker.work(job | {"policy": uri + query}) for query in ("?gripper=close_positive",) * 2 + ("",)]
        worker.close()
        listening.shutdown()
        thread.join()
    assert [result["success"] for result in told] == [True] * 3
    assert len(paths) == 1 and "gripper" not in paths[0]
    assert grippers == [1.0] * 16 + [-1.0] * 8
