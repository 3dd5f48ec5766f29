"""The house holds: names stay in their rooms, the simulator side runs without torch, ``--help`` is quick to import."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlm4vla import registry

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src/vlm4vla"
FORMATS = [SRC / "data" / part for part in ("readers", "writers", "formats")]


def _sources() -> list[Path]:
    return sorted(SRC.rglob("*.py"))


def test_package_inits_are_empty() -> None:
    """import-linter does not see what a parent ``__init__`` drags in, so there is nothing in them."""
    assert [str(f) for f in SRC.rglob("__init__.py") if f.read_text().strip()] == []


@pytest.mark.parametrize("room", ["backbones", "bench"])
def test_names_stay_in_their_rooms(room: str) -> None:
    """A backbone's or benchmark's name stands only in its own file or folder: anything else would be a special case."""
    for name in registry.names(room):
        word = re.compile(rf"{name.replace('_', '[_ -]?')}|{name.split('_')[0]}", re.IGNORECASE)
        first = name.split("_")[0]  # families of one line, dense and with experts, share the first word
        own = [SRC / room / other for other in registry.names(room) if other.split("_")[0] == first]
        for file in _sources():
            if any(file == place.with_suffix(".py") or place in file.parents for place in own):
                continue
            if room == "bench" and file.parent in FORMATS:
                continue  # file formats are called after the benchmark whose data they hold
            found = [text for text in _code_words(file) if word.search(text)]
            assert not found, f"{file.relative_to(ROOT)} names {name}: {found}"


def _code_words(file: Path) -> Iterator[str]:
    """Identifiers, imported modules and strings of a file; comments and docstrings may speak of a family."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                node.value.value = ""  # a docstring; ast.walk visits it after this node
            case ast.Constant(value=str(text)):
                yield text
            case ast.Name(id=text) | ast.Attribute(attr=text) | ast.FunctionDef(name=text) | ast.ClassDef(name=text):
                yield text
            case ast.ImportFrom(module=str(text)) | ast.alias(name=text):
                yield text


def test_simulator_side_imports_without_torch_and_pydantic(tmp_path: Path) -> None:
    """The worker and every benchmark import where torch and pydantic cannot be imported at all."""
    modules = ["vlm4vla.rollout.worker", "vlm4vla.rollout.wire", "vlm4vla.rollout.control"]
    modules += [f"vlm4vla.bench.{name}.env" for name in registry.names("bench")]
    script = (
        "import importlib, sys\n"
        "for name in ('torch', 'transformers', 'pydantic', 'yaml', 'pyarrow'): sys.modules[name] = None\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["--help"], ["bench", "--help"], ["study", "run", "--help"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    script = (
        "import sys\nfrom vlm4vla.cli.main import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'pydantic', 'scipy', 'datasets', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_report_needs_no_torch() -> None:
    script = "import sys; sys.modules['torch'] = None; import vlm4vla.report.build"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


def test_no_file_of_the_source_is_too_long() -> None:
    """Over 400 lines a file has two subjects."""
    assert {str(f.relative_to(ROOT)): n for f in _sources() if (n := len(f.read_text().splitlines())) > 400} == {}


def test_no_two_test_files_have_one_name() -> None:
    """pytest imports them by that name, and refuses the second."""
    names = [file.name for file in (ROOT / "tests").rglob("*.py") if file.name not in ("conftest.py", "__init__.py")]
    assert sorted(names) == sorted(set(names))
