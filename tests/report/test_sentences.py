"""The printed forms of numbers, and the sentences that limit them."""

import pytest

from vlm4vla.records import Comparison
from vlm4vla.report import sentences, view


@pytest.mark.parametrize(
    ("x", "text"), [(0.2, "+20.0"), (-0.0712, "−7.1"), (0.0, "0.0"), (-0.0004, "0.0"), (1, "+100.0")]
)
def test_points(x: float, text: str) -> None:
    assert sentences.points(x) == text


@pytest.mark.parametrize(("p", "text"), [(0.0004, "p < 0.001"), (0.0312, "p = 0.031"), (1.0, "p > 0.99")])
def test_p_value(p: float, text: str) -> None:
    assert sentences.p_value(p) == text


@pytest.mark.parametrize(
    ("x", "text"),
    [(None, "–"), (True, "yes"), (3_014_919, "3\u202f014\u202f919"), (2e-5, "2e-05"), ([], "none"), (["a", 1], "a, 1"),
     ({"k": 2}, "k 2"), ("as is", "as is")],
)  # fmt: skip
def test_recorded_values(x: object, text: str) -> None:
    assert view.value(x) == text


@pytest.mark.parametrize(
    ("s", "text"), [(None, "–"), (42.4, "42 s"), (1830, "30 min"), (3599, "1 h 00 min"), (4210, "1 h 10 min")]
)
def test_duration(s: float | None, text: str) -> None:
    assert view.duration(s) == text


def test_moment() -> None:
    assert view.moment("2026-11-20T06:02:11Z") == "2026-11-20 06:02 UTC"
    assert view.moment("2026-11-20T06:02:11.123456+00:00") == "2026-11-20 06:02 UTC"
    assert view.moment("yesterday") == "yesterday"


def comparison(**changes: object) -> Comparison:
    facts: dict[str, object] = {
        "a": "a", "b": "b", "benchmark": "x@1", "pairs": 50, "only_a": 3, "only_b": 12, "difference": -0.18,
        "low": -0.3,
        "high": -0.05, "level": 0.95, "interval_method": "m", "p_value": 0.035, "p_method": "t", "estimand": "E2",
    }  # fmt: skip
    return Comparison.model_validate(facts | changes)


def test_reading() -> None:
    assert sentences.reading(comparison(), "Left", "Right") == (
        "Left did worse than Right (−18.0 points, 95% interval −30.0 to −5.0, p = 0.035, 50 pairs of episodes). "
        "This is about these two checkpoints on starts like these; with one training run on either side it "
        "says nothing about retraining."
    )


def test_a_sentence_begins_with_a_capital() -> None:
    assert sentences.difference_sentence(comparison(), "left", "right").startswith("Left did worse than right")


@pytest.mark.parametrize("changes", [{"high": 0.01}, {"p_value": 0.051}, {"low": 0.0, "high": 0.2}])
def test_interval_and_test_must_agree_before_one_is_called_better(changes: dict[str, object]) -> None:
    assert "cannot be told apart" in sentences.difference_sentence(comparison(**changes), "a", "b")


def test_each_estimand_has_its_scope() -> None:
    scopes = {sentences.scope_sentence(comparison(estimand=e, seeds=4)) for e in ("E1", "E2", "E3")}
    assert len(scopes) == 3 and any("4 training runs per arm" in s for s in scopes)
