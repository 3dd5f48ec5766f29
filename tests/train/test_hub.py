"""``push_to_hub`` against a local folder and a stand-in endpoint (never the real hub; see ``fake_hub.py``)."""

import os
import subprocess
import sys
from pathlib import Path

import fake_hub
import numpy as np
import yaml
from test_policy import make, observations

from vlm4vla.policy_folder import CARD, META, WEIGHTS

SCRIPT = """
import sys
import numpy as np
from vlm4vla.policy import Policy
from vlm4vla.types import Observation
what, revision, *words = sys.argv[1:]
if what == "push":
    print(Policy.from_pretrained(words[0]).push_to_hub("policy", private=True, revision=revision or None))
else:
    policy = Policy.from_pretrained("me/policy", revision=revision or None)
    images = np.load(words[1])
    np.save(words[0], policy.act([Observation({"front": i}, "push the block") for i in images], 40))
"""


def client(hub: fake_hub.FakeHub, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_nothing", "HF_HOME": str(home)}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, env=environment)


def test_a_policy_goes_to_a_hub_and_comes_back_bit_equal(tmp_path: Path) -> None:
    """The name without an owner becomes the user's; a branch is made, written and read."""
    policy = make()
    policy.save_pretrained(tmp_path / "policy")
    images = np.stack([o.images["front"] for o in observations(2)])
    np.save(tmp_path / "images.npy", images)
    with fake_hub.running() as hub:
        done = client(hub, tmp_path / "a", "push", "trial", str(tmp_path / "policy"))
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == f"{hub.url}/me/policy/commit/{fake_hub.COMMIT}"
        assert hub.created["visibility"] == "private" and hub.created["name"] == "policy"
        assert {"POST /api/models/me/policy/branch/trial", "POST /api/models/me/policy/commit/trial"} <= {*hub.requests}
        assert {META, WEIGHTS, CARD, "config.json", "tokenizer.json"} <= hub.files.keys()
        changed = [name for name in hub.files if (tmp_path / "policy" / name).read_bytes() != hub.files[name]]
        assert set(changed) <= {"tokenizer_config.json", META}  # the library notes there how it read the tokenizer
        done = client(hub, tmp_path / "b", "pull", "trial", str(tmp_path / "chunk.npy"), str(tmp_path / "images.npy"))
        assert done.returncode == 0, done.stderr
        assert any(request.startswith("HEAD /me/policy/resolve/trial/policy.json") for request in hub.requests)
    assert np.array_equal(np.load(tmp_path / "chunk.npy"), policy.act(observations(2), 40))


def test_a_public_repository_is_not_written_when_private_was_asked_for(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path / "policy")
    with fake_hub.running() as hub:
        hub.private = False
        done = client(hub, tmp_path / "a", "push", "", str(tmp_path / "policy"))
        assert "me/policy exists and is public" in done.stderr and not hub.files


def test_what_is_no_policy_is_refused_before_its_weights_are_fetched(tmp_path: Path) -> None:
    with fake_hub.running() as hub:
        hub.files = {"config.json": b"{}", WEIGHTS: b"many gigabytes"}
        done = client(hub, tmp_path / "a", "pull", "", "chunk.npy", "images.npy")
        assert "a repository without policy.json" in done.stderr
        assert not any(WEIGHTS in request for request in hub.requests)
        address = hub.url
    gone = fake_hub.FakeHub()
    gone.server_close()
    done = client(gone, tmp_path / "c", "pull", "", "chunk.npy", "images.npy")
    assert "cannot be reached" in done.stderr, (address, done.stderr)


def test_the_card_says_what_was_trained_on_what(tmp_path: Path) -> None:
    policy = make()
    policy.save_pretrained(tmp_path)
    text = (tmp_path / CARD).read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head == {"library_name": "vlm4vla", "pipeline_tag": "robotics"}
    for said in ("preset:tiny", "qwen3_vl", "Cameras: front", policy.config.backbone.prompt, "no success rate"):
        assert said in text
    assert all(f"| {d.name} | {d.kind} | {d.unit} |" in text for d in policy.action_spec.dimensions)
