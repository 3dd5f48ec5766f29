import sys

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
    monkeypatch.setattr(install, "_folder", lambda name: folder)
    monkeypatch.setattr(install.registry, "names", lambda room: ["toy"])
    return folder


def make():
    env = install.home() / "envs" / "toy"
    (env / "bin").mkdir(parents=True)
    (env / "bin" / "python").symlink_to(sys.executable)
    (env / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    return env


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
    install._write_stamp("toy")
    assert install.python_of("toy").name == "python"


def test_changed_requirements_make_it_stale(folder):
    make()
    install._write_stamp("toy")
    (folder / "requirements.txt").write_text("numpy>2\n")
    assert not install.is_installed("toy")


def test_the_link_follows_the_running_package(folder, tmp_path):
    env = make()
    install._write_stamp("toy")
    link = env / "lib" / "python3.11" / "site-packages" / "vlm4vla"
    link.symlink_to(tmp_path / "where" / "it" / "was")
    install.python_of("toy")
    assert link.resolve() == install._PACKAGE
    assert (link / "types.py").is_file()


def test_a_second_install_is_instant_and_a_failed_one_leaves_no_stamp(folder, monkeypatch):
    ran = []

    def run(words, problem, todo):
        ran.append(words)
        if "venv" in words:
            make()
        if "-c" in words and len(ran) < 5:
            raise UserError("the smoke test failed")
        return "{}"

    monkeypatch.setattr(install, "_run", run)
    with pytest.raises(UserError):
        install.install("toy", lambda line: None)
    assert not install.is_installed("toy") and len(ran) == 3
    install.install("toy", lambda line: None)  # starts over: venv, pip, smoke test
    assert install.is_installed("toy") and len(ran) == 6
    lines = []
    install.install("toy", lines.append)
    assert len(ran) == 6 and "already installed" in lines[0]


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


def test_a_failing_command_shows_its_last_words(folder):
    with pytest.raises(UserError, match="no-such-file"):
        install._run([sys.executable, "no-such-file"], "It failed", "Do something else.")
