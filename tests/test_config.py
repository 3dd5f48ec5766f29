"""Configurations: strict, typed, overridable, and every mistake told in words."""

from pathlib import Path

import pytest

from vlm4vla import config as configs
from vlm4vla.schemas import OptimizerConfig, StudyConfig, TrainConfig
from vlm4vla.types import UserError

STUDIES = sorted((Path(__file__).parents[1] / "studies").glob("*.yaml"))


@pytest.mark.parametrize("file", STUDIES, ids=lambda f: f.stem)
def test_shipped_studies_are_valid(file: Path) -> None:
    assert configs.load(StudyConfig, file).name == file.stem


def test_overrides_are_typed_and_nested() -> None:
    study = configs.load(StudyConfig, STUDIES[0], ["--train.steps", "7", "--train.optimizer.lr=0.1"])
    assert study.train.steps == 7 and study.train.optimizer.lr == 0.1


def test_unknown_key_gets_the_four_parts() -> None:
    with pytest.raises(UserError) as info:
        configs.load(OptimizerConfig, None, ["--lr", "1", "--warmup_step", "3"])
    text = str(info.value)
    assert "Unknown setting 'warmup_step'" in text
    assert "Possible: betas, clip_norm" in text and "Did you mean 'warmup_steps'?" in text
    assert "Remove it or spell it" in text


def test_unknown_nested_key_lists_its_own_section() -> None:
    with pytest.raises(UserError, match="Did you mean 'image_size'"):
        configs.load(StudyConfig, STUDIES[0], ["--train.policy.backbone.image_sizes", "96"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--train.steps", "0"], "train.steps"),
        (["--train.steps"], "has no value"),
        (["train.steps", "3"], "Unexpected argument"),
        (["--train.precision", "fp8"], "fp32"),
        (["--train.steps.more", "3"], "not a section"),
    ],
)
def test_bad_values_are_refused_in_words(words: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        configs.load(StudyConfig, STUDIES[0], words)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("a: [1")
    with pytest.raises(UserError, match=r"Did you mean .*train\.yaml"):
        configs.load(TrainConfig, tmp_path / "trian.yaml")
    with pytest.raises(UserError, match="not valid YAML"):
        configs.load(TrainConfig, tmp_path / "train.yaml")
    (tmp_path / "train.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="a mapping of settings"):
        configs.load(TrainConfig, tmp_path / "train.yaml")


def test_configs_are_frozen_and_hashes_follow_content() -> None:
    a, b = OptimizerConfig(lr=1e-3), OptimizerConfig(lr=1e-3)
    assert configs.digest(a) == configs.digest(b) != configs.digest(OptimizerConfig(lr=2e-3))
    with pytest.raises(Exception, match="frozen"):
        a.lr = 3  # type: ignore[misc]


def test_yaml_there_and_back() -> None:
    study = configs.load(StudyConfig, STUDIES[0])
    assert configs.validate(StudyConfig, configs.to_dict(study), "test") == study


def test_diff_and_override() -> None:
    a = {"x": {"y": 1, "z": [1]}}
    b = configs.override(a, {"x.y": 2, "x.w": 3})
    assert configs.diff(a, b) == {"x.y": (1, 2), "x.w": (None, 3)}
    assert a == {"x": {"y": 1, "z": [1]}}


def test_weights_that_cannot_learn_are_refused() -> None:
    """Updates smaller than half a step of bfloat16 vanish: "trained" would mostly mean "frozen"."""
    words = ["--train.policy.backbone.dtype", "bfloat16"]
    with pytest.raises(UserError, match="would lose every update smaller than"):
        configs.load(StudyConfig, STUDIES[0], words)
    frozen = [*words, "--train.freeze", "[vision, connector, language, embedding]"]
    assert configs.load(StudyConfig, STUDIES[0], frozen).train.policy.backbone.dtype == "bfloat16"
