import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from rollout_fakes import LONG, SPEC, FakePolicy, answer, expected, picture, request
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from vlm4vla.rollout import wire
from vlm4vla.rollout.server import PolicyServer
from vlm4vla.rollout.wire import PolicyClient, ServerError
from vlm4vla.types import ActionSpec, Observation, UserError


def get(uri: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(uri.replace("ws://", "http://") + path, timeout=LONG) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_metadata_comes_first_and_says_everything() -> None:
    policy = FakePolicy()
    policy.cameras, policy.state_names = ("front", "wrist"), ("x", "y")
    with PolicyServer(policy, batch=2, tokens=20) as server, PolicyClient(server.uri, LONG) as client:
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
    with PolicyServer(policy, batch=4, tokens=20) as server, PolicyClient(server.uri, LONG) as client:
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
    with PolicyServer(policy, 1, None) as server, PolicyClient(server.uri, LONG) as client:
        sent = {"observation/image": picture(1, side=40), "prompt": "go", "observation/state": state}
        actions = client.infer(sent)["actions"]
    np.testing.assert_array_equal(actions, answer(Observation({"front": picture(1, 40)}, "go", state.astype("f4"))))
    assert policy.batches[1][0].state is not None and policy.batches[1][0].state.dtype == np.float32


def test_only_a_policy_that_draws_is_told_its_noise() -> None:
    policy = FakePolicy()
    policy.noisy = True
    with PolicyServer(policy, 2, 20) as server, PolicyClient(server.uri, LONG) as client:
        assert client.metadata["observation"]["noise"] == {"key": "vlm4vla/noise"}
        for noise in (7, 2**63 - 1, np.int64(5)):
            client.infer(request() | {"vlm4vla/noise": noise})
        client.infer(request())  # a client of openpi's does not know of it
        for wrong in (-1, 2**63, 1.5, True, "7"):
            with pytest.raises(ServerError, match="not a whole number from 0 to 2"):
                client.infer(request() | {"vlm4vla/noise": wrong})
    assert [[o.noise for o in batch] for batch in policy.batches[1:]] == [[7] * 2, [2**63 - 1] * 2, [5] * 2, [0] * 2]
    with PolicyServer(FakePolicy(), 2, 20) as server, PolicyClient(server.uri, LONG) as client:
        assert "noise" not in client.metadata["observation"]
        with pytest.raises(ServerError, match=r"not known here \['vlm4vla/noise'\]"):
            client.infer(request() | {"vlm4vla/noise": 7})


def test_without_a_length_the_server_keeps_one_that_it_tells() -> None:
    policy = FakePolicy()  # "go" has 11 tokens
    with PolicyServer(policy, 1, None) as server, PolicyClient(server.uri, LONG) as client:
        assert client.metadata["tokens"] == server.tokens == 64
        client.infer(request(prompt="go"))
        client.infer(request(prompt="a " * 54))
        with pytest.raises(ServerError, match=r"sequence of 65 tokens\. Possible: at most 64 tokens"):
            client.infer(request(prompt="a " * 55))
    assert policy.tokens == [64] * 3


def test_clients_beside_each_other_and_patience_change_no_answer() -> None:
    def rounds(patience: float) -> list[np.ndarray]:
        policy = FakePolicy()
        answers: dict[tuple[int, int], np.ndarray] = {}

        def robot(number: int) -> None:
            with PolicyClient(server.uri, LONG) as client:
                for turn in range(5):
                    answers[number, turn] = client.infer(request(10 * number + turn))["actions"]

        with PolicyServer(policy, 3, 20, patience=patience) as server, ThreadPoolExecutor(3) as threads:
            list(threads.map(robot, range(3)))
        assert {len(b) for b in policy.batches} == {3}
        return [answers[key] for key in sorted(answers)]

    for answers in (rounds(0.0), rounds(1.0)):
        np.testing.assert_array_equal(answers, [expected(10 * n + turn) for n in range(3) for turn in range(5)])


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
    with PolicyServer(FakePolicy(), 2, 20) as server, PolicyClient(server.uri, LONG) as client:
        with pytest.raises(ServerError, match=sentence):
            client.infer(sent)
        np.testing.assert_array_equal(client.infer(request(5))["actions"], expected(5))


def test_a_wrong_state_is_told() -> None:
    policy = FakePolicy()
    policy.state_names = ("x", "y")
    with PolicyServer(policy, 2, None) as server, PolicyClient(server.uri, LONG) as client:
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
        raw.recv(LONG)
        for frame, sentence in (("hello", "A text frame came in"), (b"\xc1", "cannot be read"), (b"\x90", "type list")):
            raw.send(frame)
            told = raw.recv(LONG)
            assert isinstance(told, str) and sentence in told
        raw.send(wire.pack(request(1)))
        np.testing.assert_array_equal(wire.unpack(raw.recv(LONG))["actions"], expected(1))


def test_an_oversized_frame_closes_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 5000)
    with PolicyServer(FakePolicy(), 1, None) as server, PolicyClient(server.uri, LONG) as client:
        with pytest.raises(ConnectionError, match=r"exceeds limit of 5000 bytes"):
            client.infer({"observation/image": picture(0, 64), "prompt": "go"})
        with PolicyClient(server.uri, LONG) as other:
            assert other.infer(request(2))["actions"].shape == (3, 4)


def test_slow_inference_does_not_kill_the_connection() -> None:
    """Pings are answered while the policy computes: it computes off the event loop."""
    policy = FakePolicy()
    server = PolicyServer(policy, 1, None, ping_interval=0.1, ping_timeout=LONG)
    with server, connect(server.uri, compression=None, proxy=None) as raw:
        raw.recv(LONG)
        with policy.held():
            raw.send(wire.pack(request(1)))
            assert policy.entered.acquire(timeout=LONG)
            for _ in range(3):
                assert raw.ping().wait(LONG / 2)
        np.testing.assert_array_equal(wire.unpack(raw.recv(LONG))["actions"], expected(1))


def test_no_answer_in_time_is_told() -> None:
    policy = FakePolicy()
    with PolicyServer(policy, 1, None) as server, PolicyClient(server.uri, LONG) as client:
        client.timeout = 0.2
        with policy.held(), pytest.raises(TimeoutError, match=r"gave no answer in 0.2 s"):
            client.infer(request())


def test_a_client_that_leaves_while_it_waits_harms_nobody() -> None:
    policy = FakePolicy()
    with PolicyServer(policy, 2, None) as server:
        with connect(server.uri, compression=None, proxy=None) as gone, policy.held():
            gone.recv(LONG)
            gone.send(wire.pack(request(1)))
            assert policy.entered.acquire(timeout=LONG)
            gone.socket.shutdown(socket.SHUT_RDWR)
        with PolicyClient(server.uri, LONG) as client:
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
            assert release.wait(LONG)
            return super().act(observations, tokens)

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = PolicyServer(Slow(), 1, None, port=port)
    uri = f"ws://127.0.0.1:{port}"
    with ThreadPoolExecutor(1) as threads:
        entering = threads.submit(server.__enter__)
        assert seen.wait(LONG)
        assert get(uri, "/health") == (503, "warming up\n")
        with pytest.raises(InvalidStatus, match="503"), connect(uri, proxy=None):
            pass
        assert not entering.done()
        release.set()
        entering.result(LONG)
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


def child(script: str) -> list[str]:
    """The command for a script that finds the fakes of this folder."""
    header = "import sys; sys.path.insert(0, sys.argv[1])\nfrom rollout_fakes import FakePolicy\n"
    return [sys.executable, "-c", header + script, str(Path(__file__).parent)]


def test_serve_forever_ends_on_a_signal() -> None:
    script = (
        "from vlm4vla.rollout.server import serve_forever\n"
        "serve_forever(FakePolicy(), 1, None, '127.0.0.1', 0, lambda text: print(text, flush=True))\n"
        "print('ended')\n"
    )
    server = subprocess.Popen(child(script), stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    uri = server.stdout.readline().strip()
    assert "1 observations of 64 tokens" in server.stdout.readline()
    assert get(uri, "/health")[0] == 200
    server.terminate()
    assert server.communicate(timeout=LONG)[0] == "ended\n" and server.returncode == 0


INTERRUPTED = """
import signal, threading
from vlm4vla.rollout.server import PolicyServer
heard = threading.Event()

def interrupt(*_):
    heard.set()
    raise KeyboardInterrupt

class Slow(FakePolicy):
    def act(self, observations, tokens, precision):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        assert heard.wait(60)
        return super().act(observations, tokens, precision)

signal.signal(signal.SIGINT, interrupt)
try:
    PolicyServer(Slow(), 1, None).__enter__()
except KeyboardInterrupt:
    print("interrupted,", threading.active_count(), "thread")
"""


def test_ctrl_c_while_it_warms_up_ends_the_process() -> None:
    done = subprocess.run(child(INTERRUPTED), capture_output=True, text=True, timeout=LONG)
    assert (done.stdout, done.returncode) == ("interrupted, 1 thread\n", 0), done.stderr
