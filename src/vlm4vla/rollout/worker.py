"""A simulator worker: one process, one live environment, one job at a time, until its channel closes.

Started by ``pool.py`` with ``--bench NAME --read FD --write FD --parent PID`` in the simulator's environment. It says
``{"kind": "ready", "id", "versions"}`` first, then answers each job (kinds: rollout, demo, frame, moved, replay;
see ``episodes.py``; ceiling: ``forecast.py``) with ``{"kind": "result", "id", ...}`` or ``{"kind": "failure", "id",
"error", "user"}``, with ``"start": true`` where the start itself cannot be put in place. In between it may say
``{"kind": "alive"}``. Its stdout and stderr belong to the simulator.
"""

import argparse
import importlib.util
import os
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlm4vla import registry
from vlm4vla.processes import die_with_parent
from vlm4vla.rollout import episodes, forecast
from vlm4vla.rollout.asking import REPLY_TIMEOUT_S, Chooser, Chunk, Expert, Idle, Server, check_spec, split_gripper
from vlm4vla.rollout.control import Channel
from vlm4vla.rollout.names import BUILTIN, BUILTINS, DO_NOTHING, EXPERT
from vlm4vla.rollout.wire import PolicyClient
from vlm4vla.types import Benchmark, Env, EpisodeSpec, Observation, StartFailed, UserError, refuse

KINDS = ("rollout", "demo", "frame", "moved", "replay", "ceiling")
_ALIVE_S = 5.0


class _Reporting:
    """A chooser that says after its answers that the worker lives: an episode with a slow policy may take hours."""

    def __init__(self, chooser: Chooser, say: Callable[[dict[str, Any]], None]) -> None:
        self._chooser, self._say = chooser, say
        self.looks, self.cameras, self.window = chooser.looks, chooser.cameras, chooser.window
        self._said = time.monotonic()

    def reset(self, episode: EpisodeSpec) -> None:
        self._chooser.reset(episode)

    def ask(self, observation: Observation | None) -> Chunk:
        chunk = self._chooser.ask(observation)
        if time.monotonic() - self._said >= _ALIVE_S:
            self._say({"kind": "alive"})
            self._said = time.monotonic()
        return chunk


class Worker:
    """Keeps the environment of the current task and the connection to the policy between jobs."""

    def __init__(self, bench: Benchmark, say: Callable[[dict[str, Any]], None]) -> None:
        self._bench, self._say = bench, say
        self._env: Env | None = None
        self._task: str | None = None
        self._client: PolicyClient | None = None

    def work(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one job; an exception becomes a failure, and the next job starts afresh."""
        identity = {"id": job["id"]}
        try:
            return {"kind": "result"} | identity | self._do(job)
        except UserError as error:
            self._forget()
            return {"kind": "failure", "error": str(error), "user": True} | identity
        except Exception as error:  # noqa: BLE001 (a simulator may raise anything; the pool decides what it means)
            with suppress(OSError):  # no room for the log
                traceback.print_exc()
            self._forget()
            told = {"error": f"{type(error).__name__}: {error}", "user": False, "start": isinstance(error, StartFailed)}
            return {"kind": "failure"} | told | identity

    def close(self) -> None:
        self._forget()

    def _do(self, job: Mapping[str, Any]) -> dict[str, Any]:
        kind: str = job["kind"]
        if kind not in KINDS:
            raise refuse(f"Unknown job {kind!r}", given=kind, possible=KINDS, todo="Send one of these.")
        env = self._open(job["episode"]["task"])
        if kind == "rollout":
            return episodes.rollout(job, self._bench, env, _Reporting(self._chooser(job, env), self._say))
        if kind == "demo":
            return episodes.demo(job, self._bench, env)
        if kind == "frame":
            return episodes.frame(job, self._bench, env)
        if kind == "moved":
            return episodes.moved(job, self._bench, env)
        if kind == "ceiling":
            return forecast.play(job, self._bench, env)
        return episodes.replay(job, env)

    def _open(self, task: str) -> Env:
        """The environment of ``task``; the one of another task is closed first (one renderer a process)."""
        if self._env is None or self._task != task:
            self._close_env()
            self._env, self._task = self._bench.make(task), task
        return self._env

    def _chooser(self, job: Mapping[str, Any], env: Env) -> Chooser:
        policy: str = job["policy"]
        if policy == EXPERT:
            return Expert(self._bench, env)
        if policy == DO_NOTHING:
            return Idle(self._bench.do_nothing())
        if policy.startswith(BUILTIN):
            raise refuse(f"Unknown policy {policy!r}", given=policy, possible=BUILTINS, todo="Use one of these.")
        address, gripper = split_gripper(policy)
        if self._client is None or self._client.uri != address:
            self._close_client()
            self._client = PolicyClient(address, REPLY_TIMEOUT_S)
        check_spec(self._client.metadata, self._bench.action_spec, job["assume_spec"], policy)
        return Server(self._client, self._bench, job["execute"], job["seed"], gripper or "close_negative")

    def _forget(self) -> None:
        self._close_client()
        self._close_env()

    def _close_env(self) -> None:
        env, self._env, self._task = self._env, None, None
        if env is not None:
            env.close()

    def _close_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()


def load(bench: str) -> Benchmark:
    """The benchmark of that name, or of that ``env.py`` file (one that is being written, or a test's)."""
    if not bench.endswith(".py"):
        found: Benchmark = registry.find("bench", bench).Benchmark()
        return found
    spec = importlib.util.spec_from_file_location(Path(bench).stem, bench)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    of_file: Benchmark = module.Benchmark()
    return of_file


def main() -> int:
    parser = argparse.ArgumentParser(prog="vlm4vla.rollout.worker")
    parser.add_argument("--bench", required=True)
    parser.add_argument("--read", type=int, required=True)
    parser.add_argument("--write", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    die_with_parent(options.parent)
    channel = Channel(options.read, options.write)
    try:
        bench = load(options.bench)
        versions = bench.versions()
    except Exception as error:  # noqa: BLE001 (whatever a simulator's import raises, the runner must hear of it)
        traceback.print_exc()
        user = isinstance(error, UserError)
        text = str(error) if user else f"{type(error).__name__}: {error}"
        channel.send({"kind": "failure", "id": None, "error": text, "user": user})
        return 1
    worker = Worker(bench, channel.send)
    try:
        channel.send({"kind": "ready", "id": bench.id, "versions": versions})
        while (job := channel.receive()) is not None:
            _answer(channel, worker.work(job))
    except (BrokenPipeError, ConnectionError):  # the runner is gone: nobody is left to tell
        return 1
    finally:
        worker.close()
    return 0


def _answer(channel: Channel, answer: dict[str, Any]) -> None:
    try:
        channel.send(answer)
    except UserError as error:  # too large a message; nothing of it was sent
        channel.send({"kind": "failure", "id": answer["id"], "error": str(error), "user": True})


if __name__ == "__main__":
    status = main()
    # Some simulators hang or crash in their exit handlers; all that must be closed is closed.
    os._exit(status)
