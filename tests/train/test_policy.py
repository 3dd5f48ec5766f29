"""The policy folder: what is saved is what acts, in another process too; wrong folders and inputs are refused."""

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_run import SPEC, SyntheticReader, train_config

from vlm4vla import policy_folder
from vlm4vla.data.normalize import Normalizer
from vlm4vla.policy import Facts, Policy
from vlm4vla.schemas import NormalizerConfig, PolicyConfig
from vlm4vla.types import Observation, RunFailed, UserError


def make(proprioception: bool = False, queries: int = 1) -> Policy:
    settings = train_config(Path("s"), Path("o")).policy.model_dump()
    config = PolicyConfig.model_validate({**settings, "proprioception": proprioception, "queries": queries})
    normalizer = Normalizer.fit(SPEC, None, NormalizerConfig(kind="limits"))
    return Policy.create(config, Facts(SPEC, normalizer, ("x", "y"), (0.5, 0.5), (0.2, 0.2), {}), seed=3).eval()


def observations(count: int, state: bool = True) -> list[Observation]:
    episode = SyntheticReader().episode(1)
    states = episode.states
    assert states is not None
    return [
        Observation({"front": episode.images["front"][i]}, episode.instruction, states[i] if state else None)
        for i in range(count)
    ]


def test_saved_policy_acts_bit_equally_in_another_process(tmp_path: Path) -> None:
    policy = make()
    policy.save_pretrained(tmp_path / "policy")
    ours = policy.act(observations(3), tokens=40)
    np.savez(tmp_path / "images.npz", images=np.stack([o.images["front"] for o in observations(3)]))
    script = f"""
import numpy as np
from vlm4vla.policy import Policy
from vlm4vla.types import Observation
policy = Policy.from_pretrained({str(tmp_path / "policy")!r})
images = np.load({str(tmp_path / "images.npz")!r})["images"]
chunk = policy.act([Observation({{"front": i}}, "push the block") for i in images], tokens=40)
np.save({str(tmp_path / "chunk.npy")!r}, chunk)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert ours.shape == (3, 4, 4)
    assert np.array_equal(np.load(tmp_path / "chunk.npy"), ours)


def test_batch_mates_do_not_change_actions_at_a_fixed_shape() -> None:
    policy, seen = make(), observations(4)
    together = policy.act(seen, tokens=40)
    for i in range(4):
        padded = policy.act([seen[i], seen[0], seen[0], seen[0]], tokens=40)
        assert np.array_equal(padded[0], together[i])


def test_proprioception_is_read_when_declared_and_only_then() -> None:
    without, with_state = make(), make(proprioception=True)
    assert without.state_names == () and with_state.state_names == ("x", "y")
    seen = observations(1)
    moved = [Observation(seen[0].images, seen[0].instruction, seen[0].state + 1)]
    assert np.array_equal(without.act(seen), without.act(moved))
    assert not np.array_equal(with_state.act(seen), with_state.act(moved))
    with pytest.raises(UserError, match="reads proprioception"):
        with_state.act(observations(1, state=False))


def test_several_queries(tmp_path: Path) -> None:
    policy = make(queries=3)
    assert policy.act(observations(2)).shape == (2, 4, 4)
    assert policy.count_tokens("push the block") == make().count_tokens("push the block") + 2


def test_accounting_covers_every_parameter() -> None:
    policy = make()
    policy.freeze(["vision", "embedding"])
    counts = policy.parameters_by_group()
    assert sum(c.total for c in counts) == sum(p.numel() for p in policy.parameters())
    assert sum(c.trainable for c in counts) == sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert [c.group for c in counts if c.new] == ["query and head"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_changed_files_are_refused(tmp_path: Path, name: str) -> None:
    make().save_pretrained(tmp_path / "policy")
    file = tmp_path / "policy" / name
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(UserError, match="is not the file that"):
        Policy.from_pretrained(tmp_path / "policy")


def test_changed_settings_are_refused(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path / "policy")
    meta = tmp_path / "policy" / "policy.json"
    meta.write_text(meta.read_text().replace("What action should", "Which action should"))
    with pytest.raises(UserError, match="was changed after it was written"):
        Policy.from_pretrained(tmp_path / "policy")


def test_a_save_that_fails_leaves_the_earlier_policy_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make()
    policy.save_pretrained(tmp_path / "policy")
    before = {f.name: f.read_bytes() for f in (tmp_path / "policy").iterdir()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(policy_folder, "save_file", full)
    with pytest.raises(RunFailed, match="the disk is full"):
        make(queries=2).save_pretrained(tmp_path / "policy")
    assert {f.name: f.read_bytes() for f in (tmp_path / "policy").iterdir()} == before
    assert [f.name for f in tmp_path.iterdir()] == ["policy"]


def test_a_policy_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    first = make().save_pretrained(tmp_path / "policy")
    assert make(queries=2).save_pretrained(tmp_path / "policy") != first
    assert Policy.from_pretrained(tmp_path / "policy").config.queries == 2
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    with pytest.raises(UserError, match="holds something else than a policy"):
        make().save_pretrained(tmp_path / "thesis")


def test_what_is_no_policy_is_refused_with_a_guess(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path / "policy")
    with pytest.raises(UserError, match="Did you mean") as info:
        Policy.from_pretrained(str(tmp_path))
    assert "policy" in str(info.value)


def test_saved_again_it_is_the_same_policy(tmp_path: Path) -> None:
    digest = make().save_pretrained(tmp_path / "a")
    assert Policy.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b") == digest


def test_a_policy_acts_with_another_kernel_and_type(tmp_path: Path) -> None:
    policy = make()
    policy.save_pretrained(tmp_path / "policy")
    other = Policy.from_pretrained(tmp_path / "policy", attention="eager", dtype="bfloat16")
    assert next(other.backbone.parameters()).dtype == torch.bfloat16 and other.query_QD.dtype == torch.float32
    np.testing.assert_allclose(other.act(observations(2))[..., :3], policy.act(observations(2))[..., :3], atol=0.05)


def test_missing_camera_is_refused_by_name() -> None:
    seen = observations(1)[0]
    with pytest.raises(UserError, match="Camera 'front' is missing"):
        make().act([Observation({"wrist": seen.images["front"]}, "push")])


def test_a_vlm_is_never_written_over_something(tmp_path: Path) -> None:
    (tmp_path / "vlm").mkdir()
    (tmp_path / "vlm" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        make().save_vlm(tmp_path / "vlm")
    assert [file.name for file in tmp_path.rglob("*")] == ["vlm", "thesis.txt"]
