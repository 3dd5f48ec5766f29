"""Who chooses the actions of a rollout: a policy server, the benchmark's own expert, or nobody.

Runs in the simulator's environment: numpy, msgpack and websockets only.

A server that is not ours does not say what its numbers mean: ``--assume_spec true`` says that they mean what the
benchmark's do. Where its gripper alone counts the other way round, the address says so, in the words of the path
``/vla-eval`` (:mod:`vlm4vla.rollout.harness`)::

    ws://HOST:PORT?gripper=close_positive

``close_negative``, our own sense (+1 open, -1 closed), is the default here: benchmarks have it.
"""

import hashlib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vlm4vla.rollout.names import GRIPPER_SENSES
from vlm4vla.rollout.wire import (
    INSTRUCTION_KEY,
    NOISE_KEY,
    NOISES,
    STATE_KEY,
    PolicyClient,
    ServerError,
    image_keys,
    is_ours,
)
from vlm4vla.types import ActionSpec, Benchmark, Env, EpisodeSpec, Observation, Vector, camera_and_age, refuse

REPLY_TIMEOUT_S = 300.0  # the first answer of a server may include compiling the model
Chunk = npt.NDArray[np.float32]


class Chooser(Protocol):
    """``looks`` says whether ``ask`` needs an observation; builtin policies get None.

    ``cameras`` are those whose pictures it must hold; ``window`` is the number of pictures of each: that of the last
    frame and those of the frames before.
    """

    looks: bool
    cameras: frozenset[str]
    window: int

    def reset(self, episode: EpisodeSpec) -> None: ...
    def ask(self, observation: Observation | None) -> Chunk: ...


class Expert:
    """The scripted expert of the live environment, one action at a time."""

    looks = False
    cameras: frozenset[str] = frozenset()
    window = 1

    def __init__(self, bench: Benchmark, env: Env) -> None:
        self._expert = bench.expert(env)

    def reset(self, episode: EpisodeSpec) -> None:
        self._expert.reset(episode)

    def ask(self, _: Observation | None) -> Chunk:
        return self._expert.act()[None]


class Idle:
    """Does nothing, the way the benchmark means it."""

    looks = False
    cameras: frozenset[str] = frozenset()
    window = 1

    def __init__(self, action: Vector) -> None:
        self._chunk = action[None]

    def reset(self, episode: EpisodeSpec) -> None: ...

    def ask(self, _: Observation | None) -> Chunk:
        return self._chunk


class Server:
    """A policy server, asked over one connection that is kept for the life of the worker.

    One of ours whose policy draws at random is told with which noise: that of ``seed``, the episode, and the how
    many-th question of the episode it is. ``gripper``: one of ``GRIPPER_SENSES``, that of a server that is not ours.
    """

    looks = True

    def __init__(
        self, client: PolicyClient, bench: Benchmark, execute: int, seed: int, gripper: str = "close_negative"
    ) -> None:
        self._client, self._execute, self._seed = client, execute, seed
        self._noisy = is_ours(client.metadata) and "noise" in client.metadata["observation"]
        self._episode: EpisodeSpec | None = None
        self._asked = 0
        self._actions = bench.action_spec.size
        self._turn = np.ones(self._actions, np.float32)
        self._turn[list(bench.action_spec.gripper)] = GRIPPER_SENSES[gripper]
        self._keys, self._sends_state = request_keys(client.metadata, bench, client.uri)
        self.cameras = frozenset(camera_and_age(view)[0] for view in self._keys)
        self.window = 1 + max((camera_and_age(view)[1] for view in self._keys), default=0)

    def reset(self, episode: EpisodeSpec) -> None:
        self._episode, self._asked = episode, 0

    def ask(self, observation: Observation | None) -> Chunk:
        """Chunk (H, A) in the benchmark's units; refuses one that is malformed or shorter than what is executed.

        An error that the server tells is refused in its words; TimeoutError and ConnectionError come from ``infer``.
        """
        assert observation is not None
        request: dict[str, Any] = {key: observation.images[view] for view, key in self._keys.items()}
        if self._sends_state:
            assert observation.state is not None
            request[STATE_KEY] = observation.state
        if self._noisy:
            assert self._episode is not None
            request[NOISE_KEY] = noise_of(self._seed, self._episode, self._asked)
            self._asked += 1
        try:
            reply = self._client.infer(request | {INSTRUCTION_KEY: observation.instruction})
        except ServerError as error:
            raise refuse(
                f"The policy at {self._client.uri} answered with an error: {error}",
                todo="Mend that on the server's side, then run the same command again.",
            ) from error
        if "actions" not in reply:
            raise refuse(
                f"The policy at {self._client.uri} answered with the keys {sorted(map(str, reply))}",
                possible=["actions"],
                todo="Give the address of a server that speaks openpi's protocol.",
            )
        chunk = np.asarray(reply["actions"], np.float32)
        if chunk.ndim != 2 or chunk.shape[0] < self._execute or chunk.shape[1] != self._actions:
            raise refuse(
                f"The policy at {self._client.uri} answered with actions of shape {chunk.shape}",
                possible=f"(H, {self._actions}) with H of at least {self._execute}, the steps executed of each chunk",
                todo="Lower execute, or serve a policy of this benchmark.",
            )
        return chunk * self._turn


def noise_of(seed: int, episode: EpisodeSpec, question: int) -> int:
    """Seed of the noise that answers a question of an episode: the same wherever and after whatever it is played."""
    named = (seed, episode.benchmark, episode.split, episode.task, episode.index, episode.seed, question)
    return int.from_bytes(hashlib.sha256("/".join(map(str, named)).encode()).digest()[:8], "big") % NOISES


def request_keys(metadata: Mapping[str, Any], bench: Benchmark, uri: str) -> tuple[dict[str, str], bool]:
    """Name of a picture -> its key in a request, and whether the state is sent.

    A server of ours declares what it wants; any other gets all cameras under openpi's usual names, and the state if the
    benchmark has one, whatever its metadata holds.
    """
    cameras = [camera.name for camera in bench.cameras]
    if not is_ours(metadata):
        return image_keys(cameras), bool(bench.state_names)
    wanted = metadata["observation"]
    for camera in wanted["images"]:
        if camera_and_age(camera)[0] not in cameras:
            raise refuse(
                f"The policy at {uri} wants the camera {camera!r}",
                given=camera,
                possible=cameras,
                todo="Serve a policy that was trained on this benchmark's cameras.",
            )
    names = list(wanted["state"]["names"]) if wanted["state"] else []
    if names and names != list(bench.state_names):
        raise refuse(
            f"The policy at {uri} wants the state {names}",
            possible=list(bench.state_names),
            todo="Serve a policy that was trained on this benchmark's state.",
        )
    return {camera: entry["key"] for camera, entry in wanted["images"].items()}, bool(names)


def split_gripper(uri: str) -> tuple[str, str | None]:
    """(Address to connect to, gripper sense that it named, or None) of an address; the sense is not sent along.

    Refuses a sense that does not exist, and a setting whose name is nearly ``gripper``; any other is the server's own.
    """
    address, _, query = uri.partition("?")
    rest: list[str] = []
    gripper: str | None = None
    for setting in query.split("&"):
        name, _, value = setting.partition("=")
        if name == "gripper" and value in GRIPPER_SENSES and gripper is None:
            gripper = value
        elif name == "gripper" or get_close_matches(name.lower(), ["gripper"]):
            raise refuse(
                f"The address {uri!r} has the setting {setting!r}",
                given=value if name == "gripper" else name,
                possible=[f"gripper={sense}" for sense in GRIPPER_SENSES],
                todo="Give one of these once, or none where its +1 opens and its -1 closes.",
            )
        else:
            rest.append(setting)
    return "?".join((address, "&".join(rest)) if any(rest) else (address,)), gripper


def check_spec(metadata: Mapping[str, Any], spec: ActionSpec, assume_spec: bool, uri: str) -> None:
    """Refuse a server whose actions mean something else than the benchmark's, or that does not say what they mean."""
    if not is_ours(metadata):
        if assume_spec:
            return
        raise refuse(
            f"The policy at {uri} is not a server of vlm4vla's, so it declares no action spec",
            possible=f"the benchmark's: {spec}",
            todo="If its actions mean exactly that, say so with --assume_spec true; if its gripper alone counts the "
            "other way round (+1 closes), add ?gripper=close_positive to its address as well.",
        )
    if split_gripper(uri)[1] is not None:
        raise refuse(
            f"The address {uri!r} names a gripper sense, but the server declares its own action spec",
            possible="gripper for servers that declare none",
            todo="Leave ?gripper=... out of the address.",
        )
    theirs = ActionSpec.from_dict(metadata["action_spec"])
    differences = theirs.differences(spec)
    if differences:
        raise refuse(
            f"The actions of the policy at {uri} do not mean what the benchmark's do: {'; '.join(differences)}. "
            f"The policy declares {theirs}",
            possible=f"the benchmark's: {spec}",
            todo="Serve a policy that was trained on actions of this spec, or name a conversion.",
        )
