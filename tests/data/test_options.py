"""Options of readers: texts become values of the declared types; everything else is a sentence."""

from pathlib import Path
from typing import Literal

import pytest
from moving_data import Memory, moving_episode
from synthetic_data import dataset

from vlm4vla.cli.main import main
from vlm4vla.data import inspect
from vlm4vla.data.base import open_reader, open_with_origin
from vlm4vla.data.build import build
from vlm4vla.data.options import split_pairs
from vlm4vla.data.readers import lerobot_v3
from vlm4vla.data.store import Store
from vlm4vla.types import UserError


class Toy:
    """A reader's constructor with one option of every type."""

    def __init__(
        self,
        root: Path,
        *,
        text: str = "a",
        count: int | None = None,
        rate: float = 1.0,
        flag: bool = False,
        file: Path | None = None,
        split: Literal["train", "val"] = "train",
        mixed: int | str = 0,
        program: list[int] | None = None,
    ) -> None:
        self.given = dict(locals())


class Needy:
    def __init__(self, root: Path, *, camera: str) -> None:
        self.camera = camera


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("text", "none", "none"),
        ("text", "x=y", "x=y"),
        ("count", "12", 12),
        ("count", "None", None),
        ("rate", "2", 2.0),
        ("rate", "1e-3", 0.001),
        ("flag", "yes", True),
        ("flag", "FALSE", False),
        ("file", "a/b.yaml", Path("a/b.yaml")),
        ("file", "null", None),
        ("split", "val", "val"),
        ("mixed", "7", 7),
        ("mixed", "seven", "seven"),
        ("count", 3, 3),
        ("rate", 3, 3.0),
        ("file", Path("x"), Path("x")),
        ("file", None, None),
        ("flag", True, True),
    ],
)
def test_values_have_the_declared_type(key, text, value):
    found = open_reader(Toy, Path("set"), {key: text}).given
    assert found[key] == value and type(found[key]) is type(value) and found["root"] == Path("set")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"splt": "val"}, r"no option 'splt'.*Did you mean 'split'.*split=train\|val \(without it: train\)"),
        ({"split": "vla"}, "split cannot be 'vla'.*Possible: train, val.*Did you mean 'val'"),
        ({"count": "1.5"}, "count cannot be '1.5'.*int|none"),
        ({"rate": "nan"}, "rate cannot be 'nan'"),
        ({"flag": "maybe"}, "flag cannot be 'maybe'.*bool"),
        ({"text": ""}, "text cannot be ''"),
        ({"count": True}, "count cannot be True"),
        ({"text": 3}, "text cannot be 3"),
        ({"program": "1"}, "program cannot be '1'"),
    ],
)
def test_mistakes_are_told(options, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        open_reader(Toy, Path("set"), options)
    assert "program=" not in str(error.value) or "program" in options  # no text can give it


def test_a_missing_option_and_bad_pairs_are_told():
    assert open_reader(Needy, Path("set"), {"camera": "front"}).camera == "front"
    with pytest.raises(UserError, match=r"needs the option 'camera'.*--option camera=VALUE"):
        open_reader(Needy, Path("set"), {})
    assert split_pairs(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    for words, sentence in ((["a"], "KEY=VALUE"), (["=1"], "KEY=VALUE"), (["a=1", "a=2"], "given twice")):
        with pytest.raises(UserError, match=sentence):
            split_pairs(words)


def test_a_reader_is_found_by_name_or_class(tmp_path):
    root = dataset(tmp_path / "set").root
    by_name, by_class = open_reader("lerobot_v3", root, {}), open_reader(lerobot_v3.Reader, root, {})
    assert type(by_name) is type(by_class) is lerobot_v3.Reader and by_name.digest() == by_class.digest()
    with pytest.raises(UserError, match="Did you mean 'lerobot_v3'"):
        open_reader("lerobot_v4", root, {})


def test_the_command_line_records_reader_and_options(tmp_path, capsys):
    root, out = dataset(tmp_path / "set").root, tmp_path / "store"
    words = ["data", "build", str(root), "--format", "lerobot_v3", "--out", str(out), "--image-size", "8"]
    assert main([*words, "--workers", "1", "--option", "zzz=front"]) == 2
    assert "has no option 'zzz'" in capsys.readouterr().err and not out.exists()
    assert main([*words, "--workers", "1"]) == 0
    store = Store.open(out)
    assert store.encoding == "jpeg"  # the default of the command
    assert inspect.info(store)["reader"] == {"format": "lerobot_v3", "options": {}}
    assert main(["data", "info", str(out)]) == 0
    assert "reader:\n  format: lerobot_v3" in capsys.readouterr().out


def test_options_are_kept_for_the_record_and_do_not_name_the_store(tmp_path):
    """The same path written in another way is no other data set: the source's digest says what is."""
    memory = Memory([moving_episode(0, 5)])
    origin = open_with_origin(Toy, Path("set"), {"split": "val", "file": "a/b"}).origin
    assert origin == {"format": "test_options", "options": {"file": "a/b", "split": "val"}}
    new = build(memory, tmp_path / "new", 32, "png", origin=origin)
    other = {"format": "test_options", "options": {"file": "c/../a/b", "split": "val"}}
    again = build(memory, tmp_path / "new", 32, "png", origin=other)
    assert again.digest == new.digest and inspect.info(again)["reader"] == origin
    assert inspect.info(build(memory, tmp_path / "bare", 32, "png"))["reader"] is None
