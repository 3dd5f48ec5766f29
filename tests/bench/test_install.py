import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlm4vla.bench import install
from vlm4vla.types import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A benchmark folder and an empty home; the environment's making is played by ``make``."""
    folder = tmp_path / "bench" / "toy"
    folder.mkdir(parents=True)
    (folder / "requirements.txt").write_text("numpy\n")
    monkeypatch.setenv("VLM4VLA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(install, "folder_of", lambda name: folder)
    monkeypatch.setattr(install.registry, "names", lambda room: ["toy"])
    return folder


def make(script=f'exec {sys.executable} "$@"'):
    """An environment whose interpreter is ours, or another script."""
    python = install.home() / "envs" / "toy" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return python


def ended(words, status=0, out="", err=""):
    return subprocess.CompletedProcess(words, status, out, err)


def test_home_follows_the_variable_and_has_a_default(monkeypatch, tmp_path):
    monkeypatch.setenv("VLM4VLA_HOME", str(tmp_path))
    assert install.home() == tmp_path
    monkeypatch.delenv("VLM4VLA_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert install.home() == tmp_path / "c" / "vlm4vla"


def test_a_half_made_environment_is_not_installed(folder):
    make()
    assert not install.is_installed("toy")
    with pytest.raises(UserError, match="vlm4vla bench install toy"):
        install.python_of("toy")
    install._write_stamp("toy", install._WHOLE)
    assert install.python_of("toy").name == "python"


def test_changed_requirements_make_it_stale(folder):
    make()
    install._write_stamp("toy", install._WHOLE)
    (folder / "requirements.txt").write_text("numpy>2\n")
    assert not install.is_installed("toy")


def test_each_package_path_has_its_own_link(folder, monkeypatch, tmp_path):
    """A second checkout must not change the code that workers of a running study import."""
    mine = install.link_folder()
    assert (mine / "vlm4vla").resolve() == install._PACKAGE and [f.name for f in mine.iterdir()] == ["vlm4vla"]
    other = tmp_path / "other" / "vlm4vla"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("")
    monkeypatch.setattr(install, "_PACKAGE", other)
    theirs = install.link_folder()
    assert theirs != mine and (theirs / "vlm4vla").resolve() == other
    assert (mine / "vlm4vla" / "types.py").is_file()
    (theirs / "vlm4vla").unlink()
    (theirs / "vlm4vla").symlink_to(tmp_path / "gone")
    assert (install.link_folder() / "vlm4vla").resolve() == other


def test_a_second_install_is_instant_and_a_failed_smoke_test_costs_no_download(folder, monkeypatch):
    ran, smoke = [], [ended([], 1, err="no picture"), ended([], 0, out="noise smoke test: {}")]

    def call(words, lock):
        assert lock is not None
        ran.append(next(word for word in ("venv", "pip", "-c") if word in words))
        if ran[-1] == "venv":
            make()
        return smoke.pop(0) if ran[-1] == "-c" else ended(words)

    monkeypatch.setattr(install, "_call", call)
    with pytest.raises(UserError, match="no picture"):
        install.install("toy", lambda line: None)
    assert not install.is_installed("toy") and ran == ["venv", "pip", "-c"]
    lines = []
    install.install("toy", lines.append)
    assert install.is_installed("toy") and ran[3:] == ["-c"]
    assert "toy: {}" in lines
    install.install("toy", lines.append)
    assert len(ran) == 4 and "already installed" in lines[-1]
    smoke.append(ended([], 0, out="smoke test: {}"))
    (folder / "requirements.txt").write_text("numpy>2\n")
    install.install("toy", lines.append)  # another list: everything anew
    assert ran[4:] == ["venv", "pip", "-c"]


def test_packages_without_their_dependencies_are_a_part_of_the_requirements(folder, monkeypatch):
    ran = []

    def call(words, lock):
        if "pip" in words:
            ran.append([word for word in words if word == "--no-deps" or word.endswith(".txt")])
        elif "venv" in words:
            make()
        return ended(words, out="smoke test: {}")

    monkeypatch.setattr(install, "_call", call)
    bare = folder / "requirements-no-deps.txt"
    install.install("toy", lambda line: None)
    assert ran == [[str(folder / "requirements.txt")]]
    bare.write_text("greedy==1\n")
    assert not install.is_installed("toy")
    install.install("toy", lambda line: None)
    assert ran[1:] == [[str(folder / "requirements.txt")], ["--no-deps", str(bare)]]
    assert install.is_installed("toy")
    bare.write_text("greedy==2\n")
    assert not install.is_installed("toy")


def test_the_smoke_test_tells_a_refusal_in_its_own_words(folder, tmp_path, monkeypatch):
    """Here: our own interpreter has no simulator. As a missing OpenGL library does, the benchmark says so itself."""
    python = make()
    monkeypatch.setattr(install, "_python", lambda name: python)
    with Path(os.devnull).open() as lock, pytest.raises(UserError) as told:
        install._smoke_test("metaworld", lock.fileno())
    assert str(told.value).startswith("The simulator of metaworld-v1 is not installed")
    assert "Possible:" in str(told.value) and "Traceback" not in str(told.value)
    python.write_text("#!/bin/sh\necho out of order >&2; exit 3\n")
    with Path(os.devnull).open() as lock, pytest.raises(UserError, match=r"(?s)does not start.*out of order.*delete"):
        install._smoke_test("metaworld", lock.fileno())


def test_a_fitting_interpreter_is_found_or_named(folder, monkeypatch):
    assert install._interpreter(folder) == sys.executable
    (folder / "python.txt").write_text("3.7\n")
    monkeypatch.setattr(install.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"python3\.7"):
        install._interpreter(folder)
    monkeypatch.setattr(install.shutil, "which", lambda name: f"/opt/{name}")
    assert install._interpreter(folder) == "/opt/python3.7"


def test_missing_debian_packages_are_named_to_those_who_may_not_install_them(folder, monkeypatch):
    (folder / "apt.txt").write_text("libosmesa6\n")
    monkeypatch.setattr(install, "_has_package", lambda package: False)
    monkeypatch.setattr(install.os, "geteuid", lambda: 1000)
    lines = []
    install._debian(folder, lines.append)
    assert "apt-get install libosmesa6" in lines[0]


def test_a_failing_apt_is_told_and_the_smoke_test_decides(folder, monkeypatch):
    (folder / "apt.txt").write_text("libosmesa6\n")
    monkeypatch.setattr(install, "_has_package", lambda package: False)
    monkeypatch.setattr(install.os, "geteuid", lambda: 0)
    monkeypatch.setattr(install.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(install, "_call", lambda words, lock: ended(words, 100, err="E: no network"))
    lines = []
    install._debian(folder, lines.append)
    assert "no network" in lines[-1] and "apt-get install libosmesa6" in lines[-1]


def test_a_failing_command_shows_its_last_words(folder):
    with Path(os.devnull).open() as lock, pytest.raises(UserError, match="no-such-file"):
        install._run([sys.executable, "no-such-file"], lock.fileno(), "It failed", "Do something else.")


def test_a_command_cannot_ask(folder):
    script = "import os; print(os.environ['DEBIAN_FRONTEND']); input()"
    done = install._call([sys.executable, "-c", script], None)
    assert done.stdout.strip() == "noninteractive" and "EOFError" in done.stderr


def test_a_full_disk_during_pip_is_called_that(folder):
    done = ended(["pip"], 1, err=f"ERROR: [Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}")
    with pytest.raises(UserError, match=r"the disk is full.*Possible.*VLM4VLA_HOME"):
        install._check(done, "pip cannot install", "Check the network.")


@pytest.mark.parametrize("use", [install.link_folder, lambda: install.install("toy", print)])
def test_a_home_that_cannot_be_written_to_is_told(folder, monkeypatch, tmp_path, use):
    def fail(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VLM4VLA_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"a part of the path is a file\. Possible.*VLM4VLA_HOME"):
        use()
    monkeypatch.setenv("VLM4VLA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(UserError, match=r"it is read-only\. Possible.*VLM4VLA_HOME"):
        use()


def test_who_waits_for_another_installer_is_told(tmp_path):
    lines, path = [], tmp_path / "lock"
    with path.open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)

        def log(line):
            lines.append(line)
            fcntl.flock(first, fcntl.LOCK_UN)

        with install._locked(path, log):
            assert "Waiting" in lines[0] and len(lines) == 1
    with install._locked(path, lines.append):
        assert len(lines) == 1


def test_a_pip_that_outlives_its_killed_installer_keeps_the_lock(tmp_path):
    lock, pid = tmp_path / "lock", tmp_path / "pid"
    script = (
        "import sys; from pathlib import Path; from vlm4vla.bench import install\n"
        "child = 'import os, sys, time; print(os.getpid(), file=open(sys.argv[1], \"w\")); time.sleep(3600)'\n"
        "with install._locked(Path(sys.argv[1]), print) as lock:\n"
        "    install._call([sys.executable, '-c', child, sys.argv[2]], lock)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(lock), str(pid)]) as installer:
        while not (pid.is_file() and pid.read_text().endswith("\n")) and installer.poll() is None:
            time.sleep(0.02)
        installer.kill()
    with lock.open("w") as mine:
        with pytest.raises(BlockingIOError):
            fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.kill(int(pid.read_text()), 9)
        fcntl.flock(mine, fcntl.LOCK_EX)  # as soon as it is gone
