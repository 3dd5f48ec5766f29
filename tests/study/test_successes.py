"""Rows become arrays: nothing is matched by position, and nothing is pooled that does not belong together."""

import random

import numpy as np
import pytest
from study_rows import rows

from vlm4vla.study.successes import chain_lengths, successes
from vlm4vla.types import UserError

A1 = rows("a1", {"x": [True, False, True], "y": [True, False]})
A2 = rows("a2", {"x": [False, False, True], "y": [True, True]})
B1 = rows("b1", {"x": [False, False, False], "y": [False, True]})
B2 = rows("b2", {"x": [True, True, True], "y": [False, False]})


def test_arms_seeds_and_starts_are_where_they_belong() -> None:
    found = successes({"a": [A1, A2], "b": [B1, B2]})
    assert (found.benchmark, found.arms, found.tasks, found.seeds) == ("bench@1", ("a", "b"), ("x", "y"), 2)
    x, y = found.outcomes
    assert x.shape == (2, 2, 3) and y.shape == (2, 2, 2)
    assert x[0].tolist() == [[True, False, True], [False, False, True]]
    assert y[1].tolist() == [[False, True], [False, False]]


def test_the_order_of_rows_means_nothing() -> None:
    shuffled = [random.Random(k).sample(part, len(part)) for k, part in enumerate((A1, A2, B1, B2))]
    found, other = successes({"a": [A1, A2], "b": [B1, B2]}), successes({"a": shuffled[:2], "b": shuffled[2:]})
    assert all(np.array_equal(p, q) for p, q in zip(found.outcomes, other.outcomes, strict=True))


@pytest.mark.parametrize(
    ("arms", "word"),
    [
        ({}, "no arms"),
        ({"a": [A1, A2], "b": [B1]}, r"2 training runs \(a\), 1 training runs \(b\)"),
        ({"a": []}, "0 training runs"),
        ({"a": [A1, A1]}, "same training run, a1"),
        ({"a": [A1, []]}, "no rows of 'a, run 2'"),
        ({"a": [A1, A2 + B1]}, "more than one run: a2, b1"),
        ({"a": [A1, A2[:-1]]}, "5 starts, 'a, run 2' has 4"),
        ({"a": [A1, rows("a2", {"x": [True] * 3, "y": [True] * 2}, benchmark="bench@2")]}, r"bench@1.*bench@2"),
        ({"a": [A1, [r.model_copy(update={"seed": 7}) for r in A2]]}, "different starts"),
    ],
)
def test_refusals(arms: dict, word: str) -> None:
    with pytest.raises(UserError, match=word):
        successes(arms)


def test_chains_know_their_initial_state() -> None:
    made = rows("a1", {"chain": [True] * 3})
    chain = [r.model_copy(update={"completed": k, "subtasks": 3}) for k, r in enumerate(made)]
    told = [r.model_copy(update={"initial_state": state}) for r, state in zip(chain, (5, 6, 5), strict=True)]
    lengths, states, longest = chain_lengths(told, "a")
    assert (lengths.tolist(), states.tolist(), longest) == ([0, 1, 2], [5, 6, 5], 3)
    with pytest.raises(UserError, match="1 episodes of 'a' are no chains or have no initial state"):
        chain_lengths([*told[:2], chain[2]], "a")
    with pytest.raises(UserError, match="5 episodes of 'a' are no chains"):
        chain_lengths(A1, "a")
