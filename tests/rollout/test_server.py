import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from rollout_fakes import SPEC, FakePolicy, answer, expected, picture, request
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from vlm4vla.rollout import wire
from vlm4vla.rollout.server import PolicyServer
from vlm4vla.rollout.wire import PolicyClient, ServerError
from vlm4vla.types import ActionSpec, Observation, UserError


def get(uri: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(uri.replace("ws://", "http://") + path, timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_metadata_comes_first_and_says_everything() -> None:
    policy = FakePolicy()
    policy.cameras, policy.state_names = ("front", "wrist"), ("x", "y")
    with PolicyServer(policy, batch=2, tokens=20) as server, PolicyClient(server.uri, 5) as client:
        told = client.metadata
    assert ActionSpec.from_dict(told["action_spec"]) == SPEC
    assert (told["server"], told["chunk"], told["batch"], told["digest"]) == ("vlm4vla", 3, 2, "fake0123")
    assert told["observation"] == {
        "images": {
            "front": {"key": "observation/image", "shape": [16, 16, 3], "dtype": "uint8"},
            "wrist": {"key": "observation/wrist_image", "shape": [16, 16, 3], "dtype": "uint8"},
        },
        "state": {"key": "observation/state", "shape": [2], "dtype": "float32", "names": ["x", "y"]},
        "instruction": {"key": "prompt"},
    }


def test_one_request_is_padded_to_the_fixed_shape() -> None:
    policy = FakePolicy()
    with PolicyServer(policy, batch=4, tokens=20) as server, PolicyClient(server.uri, 5) as client:
        actions = client.infer(request(3))["actions"]
    assert actions.dtype == np.float32
    np.testing.assert_array_equal(actions, expected(3))
    warm, real = policy.batches
    assert len(warm) == len(real) == 4 and policy.tokens == [20, 20]
    assert all((o.images["front"] == picture(3)).all() for o in real), "the rest of the batch repeats the first"
    assert len(policy.threads) == 1 and "inference" in policy.threads.pop()


def test_state_and_pictures_of_another_size_reach_the_policy() -> None:
    policy = FakePolicy()
    policy.state_names = ("x", "y")
    state = np.array([1.0, 2.0])  # clients send float64 as NumPy makes it
    with PolicyServer(policy, 1, None) as server, PolicyClient(server.uri, 5) as client:
        sent = {"observation/image": picture(1, side=40), "prompt": "go", "observation/state": state}
        actions = client.infer(sent)["actions"]
    np.testing.assert_array_equal(actions, answer(Observation({"front": picture(1, 40)}, "go", state.astype("f4"))))
    assert policy.batches[1][0].state is not None and policy.batches[1][0].state.dtype == np.float32


def test_what_waits_goes_together_and_the_answer_does_not_depend_on_it() -> None:
    policy = FakePolicy(delay=0.15)
    with PolicyServer(policy, batch=4, tokens=20) as server, ThreadPoolExecutor(9) as threads:
        clients = [PolicyClient(server.uri, 10) for _ in range(9)]
        began = time.monotonic()
        replies = list(threads.map(lambda i: clients[i].infer(request(i))["actions"], range(9)))
        took = time.monotonic() - began
        for client in clients:
            client.close()
    for i, actions in enumerate(replies):
        np.testing.assert_array_equal(actions, expected(i))
    assert {len(b) for b in policy.batches} == {4}
    assert len(policy.batches) - 1 <= 4, "nine requests: one or more at first, then full batches"
    assert took < 4 * 0.15 + 0.3


def test_patience_fills_the_batches_and_changes_no_answer() -> None:
    def rounds(patience: float) -> tuple[int, list[np.ndarray]]:
        policy = FakePolicy(delay=0.06)
        answers: dict[tuple[int, int], np.ndarray] = {}

        def robot(number: int) -> None:
            with PolicyClient(server.uri, 10) as client:
                for turn in range(5):
                    answers[number, turn] = client.infer(request(10 * number + turn))["actions"]
                    time.sleep(0.02)

        with PolicyServer(policy, 3, 20, patience=patience) as server, ThreadPoolExecutor(3) as threads:
            list(threads.map(robot, range(3)))
        return len(policy.batches) - 1, [answers[key] for key in sorted(answers)]

    hasty, patient = rounds(0.0), rounds(1.0)
    assert patient[0] <= 7 < 9 <= hasty[0], "calls of the policy for 3 x 5 requests in batches of up to 3"
    np.testing.assert_array_equal(hasty[1], patient[1])
    np.testing.assert_array_equal(hasty[1][7], expected(12))


def test_patience_does_not_wait_for_who_is_not_there() -> None:
    policy = FakePolicy(delay=0.1)
    with PolicyServer(policy, 4, None, patience=50.0) as server, PolicyClient(server.uri, 5) as client:
        began = time.monotonic()
        for seed in range(3):
            client.infer(request(seed))
        assert time.monotonic() - began < 0.3 + 0.2, "the only client never waits for others"
        with PolicyClient(server.uri, 5):  # connected and silent
            began = time.monotonic()
            client.infer(request(5))
            assert 1.0 <= time.monotonic() - began < 1.6, "patience has an end"


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ({"image": picture(0), "prompt": "go"}, r"keys \['image', 'prompt'\].*missing \['observation/image'\]"),
        (request() | {"observation/state": np.zeros(2, "f4")}, r"not known here \['observation/state'\]"),
        ({"prompt": "go"}, r"missing \['observation/image'\]"),
        (request() | {"observation/image": picture(0).astype("f4")}, r"shape \(16, 16, 3\) and dtype float32"),
        (request() | {"observation/image": picture(0).transpose(2, 0, 1)}, r"shape \(3, 16, 16\) and dtype uint8"),
        (request() | {"observation/image": [1, 2]}, "is list, not an array"),
        (request() | {"prompt": 7}, "instruction is int, not text"),
        (request(prompt="a " * 20), "sequence of 30 tokens. Possible: at most 20 tokens"),
        (request(prompt="refuse"), "This instruction is refused. Say something else."),
        (request(prompt="crash"), "The policy failed with RuntimeError: weights on fire"),
    ],
)
def test_a_wrong_request_gets_a_sentence_and_the_connection_stays(sent: dict[str, object], sentence: str) -> None:
    with PolicyServer(FakePolicy(), 2, 20) as server, PolicyClient(server.uri, 5) as client:
        with pytest.raises(ServerError, match=sentence):
            client.infer(sent)
        np.testing.assert_array_equal(client.infer(request(5))["actions"], expected(5))


def test_a_wrong_state_is_told() -> None:
    policy = FakePolicy()
    policy.state_names = ("x", "y")
    with PolicyServer(policy, 2, None) as server, PolicyClient(server.uri, 5) as client:
        for state, sentence in (
            (np.zeros(3, "f4"), r"state is shape \(3,\), dtype float32"),
            (np.zeros(2, "i8"), "dtype int64"),
            (np.array([0, np.nan]), "not finite"),
            ([0.0, 0.0], "state is list"),
        ):
            with pytest.raises(ServerError, match=sentence):
                client.infer(request() | {"observation/state": state})


def test_frames_that_are_no_requests() -> None:
    with PolicyServer(FakePolicy(), 1, None) as server, connect(server.uri, compression=None, proxy=None) as raw:
        raw.recv(5)
        for frame, sentence in (("hello", "A text frame came in"), (b"\xc1", "cannot be read"), (b"\x90", "type list")):
            raw.send(frame)
            told = raw.recv(5)
            assert isinstance(told, str) and sentence in told
        raw.send(wire.pack(request(1)))
        np.testing.assert_array_equal(wire.unpack(raw.recv(5))["actions"], expected(1))


def test_one_bad_request_does_not_fail_its_batch_mates() -> None:
    policy = FakePolicy(delay=0.1)
    prompts = ["first", "crash", "third", "refuse"]
    with PolicyServer(policy, batch=4, tokens=None) as server, ThreadPoolExecutor(5) as threads:
        clients = [PolicyClient(server.uri, 10) for _ in range(5)]
        ahead = threads.submit(clients[4].infer, request(9))  # keeps the thread busy, so that the others wait together
        time.sleep(0.05)
        futures = [threads.submit(c.infer, request(0, p)) for c, p in zip(clients, prompts, strict=False)]
        outcomes = [f.exception() for f in futures]
        assert ahead.exception() is None
        for client in clients:
            client.close()
    assert [type(o) for o in outcomes] == [type(None), ServerError, type(None), ServerError]
    assert any({o.instruction for o in b} == set(prompts) for b in policy.batches), "they did share a batch"


def test_an_oversized_frame_closes_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 5000)
    with PolicyServer(FakePolicy(), 1, None) as server, PolicyClient(server.uri, 5) as client:
        with pytest.raises(ConnectionError, match=r"exceeds limit of 5000 bytes"):
            client.infer({"observation/image": picture(0, 64), "prompt": "go"})
        with PolicyClient(server.uri, 5) as other:
            assert other.infer(request(2))["actions"].shape == (3, 4)


def test_slow_inference_does_not_kill_the_connection() -> None:
    """Pings of both sides are answered while the policy computes for far longer than they may take."""
    server = PolicyServer(FakePolicy(delay=3.0), 1, None, ping_interval=0.3, ping_timeout=0.5)
    with server, connect(server.uri, compression=None, proxy=None, ping_interval=0.3, ping_timeout=0.5) as raw:
        raw.recv(5)
        began = time.monotonic()
        raw.send(wire.pack(request(1)))
        np.testing.assert_array_equal(wire.unpack(raw.recv(10))["actions"], expected(1))
        assert time.monotonic() - began >= 3.0


def test_no_answer_in_time_is_told() -> None:
    server = PolicyServer(FakePolicy(delay=0.6), 1, None)
    message = r"gave no answer in 0.2 s"
    with server, PolicyClient(server.uri, 0.2) as client, pytest.raises(TimeoutError, match=message):
        client.infer(request())


def test_a_client_that_leaves_while_it_waits_harms_nobody() -> None:
    with PolicyServer(FakePolicy(delay=0.3), 2, None) as server:
        with connect(server.uri, compression=None, proxy=None) as gone:
            gone.recv(5)
            gone.send(wire.pack(request(1)))
            gone.socket.shutdown(socket.SHUT_RDWR)
        with PolicyClient(server.uri, 5) as client:
            np.testing.assert_array_equal(client.infer(request(2))["actions"], expected(2))


def test_busy_port_names_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"Port {port} on 127.0.0.1 is in use.*--port 0.*ss -ltnp"):
            PolicyServer(FakePolicy(), 1, None, port=port).__enter__()


def test_an_address_of_another_machine() -> None:
    with pytest.raises(UserError, match=r"'192.0.2.7' is not an address of this machine.*--host"):
        PolicyServer(FakePolicy(), 1, None, host="192.0.2.7").__enter__()


def test_health_is_ready_only_after_the_warm_up() -> None:
    release, seen = threading.Event(), threading.Event()

    class Slow(FakePolicy):
        def act(self, observations, tokens, precision):  # type: ignore[no-untyped-def]
            seen.set()
            assert release.wait(10)
            return super().act(observations, tokens)

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = PolicyServer(Slow(), 1, None, port=port)
    uri = f"ws://127.0.0.1:{port}"
    with ThreadPoolExecutor(1) as threads:
        entering = threads.submit(server.__enter__)
        assert seen.wait(10)
        assert get(uri, "/health") == (503, "warming up\n")
        with pytest.raises(InvalidStatus, match="503"), connect(uri, proxy=None):
            pass
        assert not entering.done()
        release.set()
        entering.result(10)
        assert get(uri, "/health") == (200, "ready\n")
        status, text = get(uri, "/nowhere")
        assert status == 404 and "/vla-eval" in text
        server.__exit__()


def test_a_policy_that_fails_when_warmed_up_is_told_at_once() -> None:
    class Broken(FakePolicy):
        def act(self, observations, tokens, precision):  # type: ignore[no-untyped-def]
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        PolicyServer(Broken(), 1, None).__enter__()


def test_a_wrong_answer_shape_is_the_policys_fault() -> None:
    class Short(FakePolicy):
        def act(self, observations, tokens, precision):  # type: ignore[no-untyped-def]
            return super().act(observations, tokens)[:, :2]

    with pytest.raises(AssertionError, match="returned"):
        PolicyServer(Short(), 1, None).__enter__()


def test_web_pages_are_refused() -> None:
    server, page = PolicyServer(FakePolicy(), 1, None), Origin("https://example.org")
    with server, pytest.raises(InvalidStatus, match="403"), connect(server.uri, origin=page, proxy=None):
        pass


def test_serve_forever_ends_on_a_signal() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from rollout_fakes import FakePolicy\n"
        "from vlm4vla.rollout.server import serve_forever\n"
        "serve_forever(FakePolicy(), 1, None, '127.0.0.1', 0, lambda uri: print(uri, flush=True))\n"
        "print('ended')\n"
    )
    here = __file__.rsplit("/", 1)[0]
    child = subprocess.Popen([sys.executable, "-c", script, here], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    uri = child.stdout.readline().strip()
    assert get(uri, "/health")[0] == 200
    child.terminate()
    assert child.communicate(timeout=10)[0] == "ended\n" and child.returncode == 0
