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
if sys.argv[1] == "push":
    print(Policy.from_pretrained(sys.argv[2]).push_to_hub("me/policy", private=True))
else:
    images = np.load(sys.argv[3])
    chunk = Policy.from_pretrained("me/policy").act([Observation({"front": i}, "push the block") for i in images], 40)
    np.save(sys.argv[2], chunk)
"""


def client(hub: fake_hub.FakeHub, home: Path, *words: str) -> str:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_nothing", "HF_HOME": str(home)}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", SCRIPT, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()


def test_a_policy_goes_to_a_hub_and_comes_back_bit_equal(tmp_path: Path) -> None:
    policy = make()
    policy.save_pretrained(tmp_path / "policy")
    images = np.stack([o.images["front"] for o in observations(2)])
    np.save(tmp_path / "images.npy", images)
    with fake_hub.running() as hub:
        url = client(hub, tmp_path / "a", "push", str(tmp_path / "policy"))
        assert url == f"{hub.url}/me/policy/commit/{fake_hub.COMMIT}"
        assert hub.created["visibility"] == "private" and hub.created["name"] == "policy"
        assert {META, WEIGHTS, CARD, "config.json", "tokenizer.json"} <= hub.files.keys()
        changed = [name for name in hub.files if (tmp_path / "policy" / name).read_bytes() != hub.files[name]]
        assert set(changed) <= {"tokenizer_config.json"}  # the library notes there where it read the tokenizer
        client(hub, tmp_path / "b", "pull", str(tmp_path / "chunk.npy"), str(tmp_path / "images.npy"))
    assert np.array_equal(np.load(tmp_path / "chunk.npy"), policy.act(observations(2), 40))


def test_the_card_says_what_was_trained_on_what(tmp_path: Path) -> None:
    policy = make()
    policy.save_pretrained(tmp_path)
    text = (tmp_path / CARD).read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head == {"library_name": "vlm4vla", "pipeline_tag": "robotics"}
    for said in ("preset:tiny", "qwen3_vl", "Cameras: front", policy.config.backbone.prompt, "no success rate"):
        assert said in text
    assert all(f"| {d.name} | {d.kind} | {d.unit} |" in text for d in policy.action_spec.dimensions)
