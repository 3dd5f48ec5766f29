"""The vla-eval side of the server with hand-made messages; ``test_real_clients`` meets the harness itself."""

import io
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
from PIL import Image
from rollout_fakes import ARM, LONG, FakePolicy, answer, expected, picture
from websockets.sync.client import ClientConnection, connect

from vlm4vla.rollout import harness
from vlm4vla.rollout.server import PolicyServer
from vlm4vla.types import ActionSpec, Dimension, Observation

TURN = tuple(Dimension(name, "rad", "delta", "hand", -0.5, 0.5) for name in ("roll", "pitch", "yaw"))


@pytest.fixture
def line() -> Iterator[ClientConnection]:
    with PolicyServer(FakePolicy(), 1, None) as server, connect(server.uri + "/vla-eval", proxy=None) as connection:
        yield connection


def say(line: ClientConnection, kind: str, payload: object, seq: int = 1) -> dict[str, Any]:
    line.send(msgpack.packb({"type": kind, "payload": payload, "seq": seq, "timestamp": 0.0}))
    reply: dict[str, Any] = msgpack.unpackb(line.recv(LONG))
    return reply


def encoded(array: np.ndarray, form: str) -> dict[str, Any]:
    if form == "array":
        return {"__ndarray__": True, "data": array.tobytes(), "dtype": array.dtype.str, "shape": list(array.shape)}
    told = {"__image__": True, "format": form, "shape": list(array.shape)}
    if form == "raw":
        return told | {"data": array.tobytes(), "dtype": array.dtype.str}
    with io.BytesIO() as file:
        Image.fromarray(array).save(file, format=form)
        return told | {"data": file.getvalue()}


def observation(image: object, **more: object) -> dict[str, Any]:
    return {"images": {"front": image}, "task_description": "open the drawer"} | more


def actions(reply: dict[str, Any]) -> np.ndarray:
    assert reply["type"] == "action", reply
    told = reply["payload"]["actions"]
    return np.frombuffer(told["data"], told["dtype"]).reshape(told["shape"])


@pytest.mark.parametrize("form", ["png", "raw", "array"])
def test_pictures_without_loss(line: ClientConnection, form: str) -> None:
    reply = say(line, "observation", observation(encoded(picture(4), form)), seq=17)
    assert reply["seq"] == 17
    np.testing.assert_array_equal(actions(reply), expected(4)[0] * [1, 1, 1, -1])


def test_jpeg(line: ClientConnection) -> None:
    flat = np.full((16, 16, 3), 200, np.uint8)
    got = actions(say(line, "observation", observation(encoded(flat, "jpeg"))))
    np.testing.assert_allclose(got[:2], answer(Observation({"front": flat}, "open the drawer"))[0][:2], atol=0.01)


def test_hello_declares_the_gripper_as_it_is_sent(line: ClientConnection) -> None:
    told = say(line, "hello", {"harness_version": "0.8.0", "protocol_version": 1})["payload"]
    assert told["protocol_version"] == 1
    assert told["action_spec"]["position"]["format"] == "delta_xyz" and told["action_spec"]["position"]["dims"] == 3
    assert told["action_spec"]["gripper"] == {
        "name": "gripper",
        "dims": 1,
        "format": "binary_close_positive",
        "range": [-1.0, 1.0],
        "description": "1 in hand",
    }
    assert set(told["observation_spec"]) == {"front", "language"}
    assert "vlm4vla" in told["harness_version"]


def test_another_protocol_version_is_refused(line: ClientConnection) -> None:
    reply = say(line, "hello", {"harness_version": "9", "protocol_version": 2})
    assert reply["type"] == "error" and "version 2 came in" in reply["payload"]["error"]


@pytest.mark.parametrize(
    ("kind", "payload", "sentence"),
    [
        ("dance", {}, "type 'dance'"),
        ("observation", [], "type 'observation'"),
        ("observation", {}, "without a map of images"),
        ("observation", {"images": {"a": 1, "b": 2}, "task_description": "x"}, "['a', 'b'] came in, ['front'] missing"),
        ("observation", {"images": {"front": None}, "task_description": "x"}, "NoneType, not an array"),
        ("observation", observation(encoded(picture(0), "png"), task_description=3), "int, not text"),
        ("observation", observation(encoded(picture(0), "png") | {"shape": [8, 8, 3]}), "declared as [8, 8, 3]"),
        ("observation", observation(encoded(picture(0), "png") | {"shape": None}), "without bytes or shape"),
        ("observation", observation(encoded(picture(0), "png") | {"data": b"no"}), "cannot be read"),
        ("observation", observation(encoded(picture(0), "gif")), "cannot be read"),
        ("observation", observation(encoded(picture(0), "array") | {"dtype": "O"}), "dtype |O"),
        ("observation", observation(encoded(picture(0)[..., :1], "array")), "shape (16, 16, 1)"),
        ("observation", observation(encoded(picture(0), "png"), task_description="crash"), "weights on fire"),
    ],
)
def test_mistakes_are_told_and_the_session_goes_on(
    line: ClientConnection, kind: str, payload: object, sentence: str
) -> None:
    reply = say(line, kind, payload)
    assert reply["type"] == "error" and sentence in reply["payload"]["error"]
    np.testing.assert_array_equal(
        actions(say(line, "observation", observation(encoded(picture(1), "png")))), expected(1)[0] * [1, 1, 1, -1]
    )


def test_a_truncated_png(line: ClientConnection) -> None:
    whole = encoded(picture(0), "png")
    reply = say(line, "observation", observation(whole | {"data": whole["data"][:-40]}))
    assert reply["type"] == "error" and "cannot be read" in reply["payload"]["error"]


def test_an_openpi_client_on_this_path_is_told_where_to_go(line: ClientConnection) -> None:
    for frame in (msgpack.packb({"prompt": "go"}), "text"):
        line.send(frame)
        reply = msgpack.unpackb(line.recv(LONG))
        assert reply["type"] == "error" and "clients of openpi connect to the path /" in reply["payload"]["error"]


def test_cameras_by_name_and_the_state() -> None:
    policy = FakePolicy()
    policy.cameras, policy.state_names = ("front", "wrist"), ("x", "y")
    with PolicyServer(policy, 1, None) as server, connect(server.uri + "/vla-eval", proxy=None) as line:
        images = {"wrist": encoded(picture(1), "png"), "extra": encoded(picture(2), "png")}
        images["front"] = encoded(picture(3), "png")
        state = encoded(np.array([1.0, 2.0]), "array")
        sent = {"images": images, "task_description": "go", "state": state}
        got = actions(say(line, "observation", sent))
        want = answer(Observation({"front": picture(3), "wrist": picture(1)}, "go", np.float32([1, 2])))[0]
        np.testing.assert_array_equal(got, want * [1, 1, 1, -1])
        say(line, "hello", {"protocol_version": 1})
        line.send(msgpack.packb({"type": "episode_start", "payload": {}, "seq": 2, "timestamp": 0.0}))
        reply = say(line, "observation", sent | {"state": None})
        assert reply["type"] == "error" and "state is NoneType" in reply["payload"]["error"]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("?griper=close_negative", "Did you mean 'gripper'"),
        ("?gripper=open", "Possible: close_positive, close_negative"),
        ("?execute=4", "Possible: 1 to 3"),
        ("?execute=0", "Possible: 1 to 3"),
        ("?execute=two", "Possible: 1 to 3"),
    ],
)
def test_a_wrong_address_is_told_before_the_handshake(query: str, sentence: str) -> None:
    with PolicyServer(FakePolicy(), 1, None) as server:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(server.uri.replace("ws://", "http://") + "/vla-eval" + query, timeout=LONG)
        with caught.value as told:
            assert told.code == 400 and sentence in told.read().decode()


@pytest.mark.parametrize(
    ("arm", "rotation", "formats"),
    [
        (ARM + TURN, "euler_xyz", {"position": "delta_xyz", "rotation": "euler_xyz"}),
        (ARM + TURN, "axis_angle", {"position": "delta_xyz", "rotation": "axis_angle"}),
        ((*ARM, *TURN, TURN[0]), "quaternion", {"position": "delta_xyz", "rotation": "quaternion_xyzw"}),
        (ARM + TURN, "none", {"position": "raw"}),
        (ARM[:2], "none", {"position": "raw"}),
    ],
)
def test_components_of_other_arms(arm: tuple[Dimension, ...], rotation: Any, formats: dict[str, str]) -> None:
    policy = FakePolicy()
    policy.action_spec = ActionSpec(arm, rotation, 10.0)
    told = harness.action_components(policy, "close_positive")
    assert {name: part["format"] for name, part in told.items()} == formats
    assert sum(part["dims"] for part in told.values()) == len(arm)
