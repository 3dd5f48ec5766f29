"""Assets: a folder that the user names, or the official repositories; whole or not at all."""

import json
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from vlm4vla import registry
from vlm4vla.bench import assets
from vlm4vla.types import UserError


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A benchmark whose assets lie in a git repository of our own; returns that repository."""
    monkeypatch.setenv("VLM4VLA_HOME", str(tmp_path / "home"))
    repository = tmp_path / "repository"
    (repository / "data/scenes").mkdir(parents=True)
    (repository / "data/scenes/a.urdf").write_text("<robot/>")
    (repository / "code.py").write_text("never wanted")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(repository), *words], check=True)
    config = ["config", "uploadpack.allowAnySHA1InWant", "true"]
    subprocess.run(["git", "-C", str(repository), *config], check=True)
    head = subprocess.run(["git", "-C", str(repository), "rev-parse", "HEAD"], capture_output=True, text=True)
    plan = {
        "required": ["env/data/scenes/a.urdf"],
        "official": [{"git": repository.as_uri(), "commit": head.stdout.strip(), "paths": ["data"], "into": "env"}],
    }
    module = ModuleType("toy")
    module.__file__ = str(tmp_path / "toy" / "env.py")
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "assets.json").write_text(json.dumps(plan))
    monkeypatch.setattr(registry, "find", lambda _room, _name: module)
    return repository


def test_official_files_are_fetched_once(bench: Path) -> None:
    with pytest.raises(UserError, match="are not set"):
        assets.folder("toy")
    said: list[str] = []
    assets.provide("toy", None, said.append)
    found = assets.folder("toy")
    assert (found / "env/data/scenes/a.urdf").read_text() == "<robot/>"
    assert not list(found.rglob("code.py")) and "fetching data of" in said[0]
    assets.provide("toy", None, said.append)
    assert len(said) == 2 and "assets from" in said[1]


def test_paths_may_be_relative_to_a_folder_of_the_repository(bench: Path, tmp_path: Path) -> None:
    plan_file = tmp_path / "toy/assets.json"
    plan = json.loads(plan_file.read_text())
    plan["official"][0] |= {"from": "data", "paths": ["scenes"], "into": ""}
    plan_file.write_text(json.dumps(plan | {"required": ["scenes/a.urdf"]}))
    assets.provide("toy", None, lambda _: None)
    assert (assets.folder("toy") / "scenes/a.urdf").is_file()


def test_a_folder_of_the_users_is_linked_and_checked(bench: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "env/data/scenes").mkdir(parents=True)
    with pytest.raises(UserError, match=r"a\.urdf is missing"):
        assets.provide("toy", mine, lambda _: None)
    (mine / "env/data/scenes/a.urdf").touch()
    assets.provide("toy", mine, lambda _: None)
    assert assets.folder("toy") == mine
    (mine / "env/data/scenes/a.urdf").unlink()
    with pytest.raises(UserError, match=r"a\.urdf is missing"):
        assets.folder("toy")


def test_an_unreachable_source_is_a_sentence_and_leaves_nothing(bench: Path, tmp_path: Path) -> None:
    bench.rename(tmp_path / "gone")
    with pytest.raises(UserError, match=r"cannot be fetched .* give the folder with --assets"):
        assets.provide("toy", None, lambda _: None)
    assert list((tmp_path / "home/assets").iterdir()) == []


def test_a_benchmark_without_assets_takes_none(tmp_path: Path) -> None:
    assets.provide("metaworld", None, lambda _: None)
    with pytest.raises(UserError, match="needs no assets"):
        assets.provide("metaworld", tmp_path, lambda _: None)
