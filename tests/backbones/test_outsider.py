"""A second distribution adds a family through an entry point: installed by pip, checked by the public command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "outsider"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of this interpreter with the outsider's wheel installed beside it."""
    site, source = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("source") / "outsider"
    source.mkdir()
    for file in PACKAGE.rglob("*"):  # building writes beside the sources
        if file.is_file() and file.suffix in {".py", ".toml", ".json"} and "build" not in file.parts:
            target = source / file.relative_to(PACKAGE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    words = ["install", "-q", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", *words, str(source)], check=True)
    return {**os.environ, "PYTHONPATH": str(site)}


def run(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "vlm4vla"), *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_an_outsiders_family_is_listed_and_passes_the_checks(environment: dict[str, str]) -> None:
    assert "llava15" in run(environment, "backbones", "list").stdout.split()
    done = run(environment, "backbones", "check", "llava15", "--json")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [f"{line['check']}: {line['found']}" for line in found if not line["passed"]] == []
    assert done.returncode == 0 and len(found) >= 15


def test_an_outsiders_family_can_be_inspected(environment: dict[str, str]) -> None:
    found = json.loads(run(environment, "inspect", "llava15", "--json").stdout)
    assert found["model_type"] == "llava" and found["image_tokens"] == 9
    assert found["query_position"] == found["tokens"] - 1


def test_it_is_unknown_without_its_package() -> None:
    done = run(dict(os.environ), "backbones", "check", "llava15")
    assert done.returncode == 2 and "Unknown name 'llava15'" in done.stderr
