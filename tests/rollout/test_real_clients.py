"""The published clients of both protocols, unchanged, each in an environment of its own, against our server."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rollout_fakes import FakePolicy, expected

from vlm4vla.bench.install import home
from vlm4vla.rollout.server import PolicyServer

pytestmark = pytest.mark.sim

OPENPI = ["openpi-client==0.1.2", "numpy<2", "typing_extensions"]
# Without its own requirements (ffmpeg, omegaconf and more), of which the connection needs none.
VLA_EVAL = ["--no-deps", "vla-eval==0.8.0"], ["anyio>=4", "msgpack>=1", "numpy>=1.24", "pillow>=9.4", "websockets>=13"]


def environment(name: str, *installs: list[str]) -> Path:
    """A virtual environment under VLM4VLA_HOME, made once; the stamp is written last."""
    folder = home() / "envs" / name
    stamp, wanted = folder / "stamp", hashlib.sha256(json.dumps(installs).encode()).hexdigest()
    python = folder / "bin" / "python"
    if not stamp.is_file() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        for words in installs:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *words], check=True, timeout=300)
        stamp.write_text(wanted)
    return python


@pytest.fixture(scope="session")
def openpi() -> Path:
    return environment("test-openpi", OPENPI)


@pytest.fixture(scope="session")
def vla_eval() -> Path:
    return environment("test-vla-eval", *VLA_EVAL)


def child(python: Path, script: str, *words: str) -> dict[str, Any]:
    """Run a script in another environment; its last line of output is one JSON document."""
    done = subprocess.run([python, "-I", "-c", script, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


OPENPI_SCRIPT = """
import json, sys
import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

policy = WebsocketClientPolicy("127.0.0.1", int(sys.argv[1]))
def request(seed, prompt="open the drawer"):
    image = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return {"observation/image": image, "prompt": prompt}
whole = [policy.infer(request(seed))["actions"] for seed in range(3)]
errors = []
for wrong in ({"prompt": "go"}, request(0, "crash")):
    try:
        policy.infer(wrong)
    except RuntimeError as error:
        errors.append(str(error))
broker = ActionChunkBroker(policy, action_horizon=2)
single = [broker.infer(request(seed))["actions"] for seed in (7, 8, 9)]
broker.reset()
single.append(broker.infer(request(11))["actions"])
told = {"numpy": np.__version__, "metadata": policy.get_server_metadata(), "errors": errors}
told |= {"dtype": str(whole[0].dtype), "whole": np.stack(whole).tolist(), "single": np.stack(single).tolist()}
print(json.dumps(told))
"""


def test_openpis_own_client_and_chunk_broker(openpi: Path) -> None:
    with PolicyServer(FakePolicy(), batch=2, tokens=20) as server:
        told = child(openpi, OPENPI_SCRIPT, server.uri.rsplit(":", 1)[1])
    assert told["numpy"].startswith("1."), "the client's NumPy is older than ours"
    assert told["metadata"]["chunk"] == 3 and told["metadata"]["action_spec"]["control_hz"] == 10.0
    assert told["dtype"] == "float32"
    np.testing.assert_array_equal(np.float32(told["whole"]), [expected(seed) for seed in range(3)])
    assert "missing ['observation/image']" in told["errors"][0] and "weights on fire" in told["errors"][1]
    # two steps of the first chunk, then a new one for the third observation; reset throws the rest away
    steps = [expected(7)[0], expected(7)[1], expected(9)[0], expected(11)[0]]
    np.testing.assert_array_equal(np.float32(told["single"]), steps)


VLA_EVAL_SCRIPT = """
import json, sys
import anyio
import numpy as np
from vla_eval.connection import Connection
from vla_eval.specs import GRIPPER_CLOSE_NEG, GRIPPER_CLOSE_POS, IMAGE_RGB, LANGUAGE, POSITION_DELTA
from vla_eval.specs import DimSpec, check_specs

def image(seed):
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)

def observation(seed, **more):
    return {"images": {"agentview": image(seed)}, "task_description": "open the drawer"} | more

async def main():
    out = {}
    async with Connection(sys.argv[1], timeout=10, max_retries=1) as conn:
        theirs = {k: DimSpec.from_dict(v) for k, v in conn.server_info["action_spec"].items()}
        seen = {k: DimSpec.from_dict(v) for k, v in conn.server_info["observation_spec"].items()}
        bench_seen = {"front": IMAGE_RGB, "language": LANGUAGE}
        for name, gripper in (("positive", GRIPPER_CLOSE_POS), ("negative", GRIPPER_CLOSE_NEG)):
            out[name] = check_specs(theirs, {"position": POSITION_DELTA, "gripper": gripper}, seen, bench_seen)
        await conn.start_episode({"task": "drawer"})
        actions = [(await conn.act(observation(seed)))["actions"] for seed in range(5)]
        await conn.end_episode({"success": False})
        await conn.start_episode({"task": "drawer"})
        actions.append((await conn.act(observation(20, state=np.zeros(8, np.float32))))["actions"])
        await conn.start_episode({"task": "drawer"})
        try:
            await conn.act({"images": {}, "task_description": "x"})
        except RuntimeError as error:
            out["error"] = str(error)
        actions.append((await conn.act(observation(21)))["actions"])
    out["actions"] = np.stack(actions).tolist()
    print(json.dumps(out))

anyio.run(main)
"""


@pytest.mark.parametrize(("query", "execute", "sign"), [("", 3, -1.0), ("?execute=2&gripper=close_negative", 2, 1.0)])
def test_the_harness_own_connection(vla_eval: Path, query: str, execute: int, sign: float) -> None:
    with PolicyServer(FakePolicy(), batch=2, tokens=20) as server:
        told = child(vla_eval, VLA_EVAL_SCRIPT, f"{server.uri}/vla-eval{query}")
    matching, other = ("positive", "negative") if sign < 0 else ("negative", "positive")
    assert told[matching] == [], "the harness has nothing to warn of"
    assert len(told[other]) == 1 and "gripper" in told[other][0]
    assert "['front'] missing" in told["error"]
    # per session one chunk is used up before the next is asked for; a new episode starts with a new chunk
    steps = [expected(seed - seed % execute)[seed % execute] for seed in range(5)] + [expected(20)[0], expected(21)[0]]
    np.testing.assert_array_equal(np.float32(told["actions"]), np.array(steps) * np.float32([1, 1, 1, sign]))
