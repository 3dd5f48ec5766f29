"""Adjusted p-values and letters."""

import itertools

import numpy as np
import pytest

from vlm4vla.study.multiplicity import benjamini_hochberg, holm, letters


def test_by_hand() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert benjamini_hochberg(p) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert holm([]) == benjamini_hochberg([]) == []


def test_letters_of_a_known_display() -> None:
    found = letters(["a", "b", "c", "d"], {("a", "c"), ("a", "d"), ("d", "b")})
    assert found == {"a": "a", "b": "ab", "c": "bc", "d": "c"}
    assert set(letters(["a", "b"], []).values()) == {"a"}


@pytest.mark.parametrize("seed", range(30))
def test_two_names_share_a_letter_exactly_when_they_are_not_told_apart(seed: int) -> None:
    generator = np.random.default_rng(seed)
    names = [f"n{k}" for k in range(int(generator.integers(1, 9)))]
    pairs = list(itertools.combinations(names, 2))
    different = {pair for pair in pairs if generator.random() < generator.random()}
    found = letters(names, {pair[::-1] if generator.random() < 0.5 else pair for pair in different})
    for one, other in pairs:
        assert bool(set(found[one]) & set(found[other])) == ((one, other) not in different)
    columns = [{n for n in names if letter in found[n]} for letter in sorted(set("".join(found.values())))]
    assert not any(a < b for a in columns for b in columns)  # no letter says what another says already
    assert "a" in found[names[0]]
