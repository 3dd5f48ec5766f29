"""Chains of subtasks in a study: one unit, initial states as what is drawn, and intervals that cover."""

import itertools
import types

import numpy as np
import pytest
from study_rows import rows

from vlm4vla import records, registry
from vlm4vla.records import Comparison, EpisodeRow, Estimate, RunRecord
from vlm4vla.report import sentences
from vlm4vla.study.chains import paired_interval, per_state, sign_flips, told
from vlm4vla.study.compare import compare, estimates
from vlm4vla.study.intervals import chains
from vlm4vla.study.recipes import conclude
from vlm4vla.study.retrained import compare_recipes, recipes
from vlm4vla.study.successes import Successes, successes
from vlm4vla.study.summary import summary
from vlm4vla.types import EpisodeSpec, UserError

STATES = 64
OF_CHAIN = np.repeat(np.arange(STATES), 3 + np.arange(STATES) % 5)  # three to seven chains of a state
SHARED, OWN = 1.2, 0.6  # SD of a state's luck on the logit scale: of all policies, and of one


def chain_rows(run: str, lengths, states=None, **changes) -> list[EpisodeRow]:
    made = rows(run, {"chain": [length == 5 for length in lengths]})
    facts = [{"completed": int(x), "subtasks": 5} for x in lengths]
    if states is not None:
        facts = [fact | {"initial_state": int(state)} for fact, state in zip(facts, states, strict=True)]
    return [r.model_copy(update=fact | changes) for r, fact in zip(made, facts, strict=True)]


def drawn(generator: np.random.Generator, logits) -> np.ndarray:
    """(...,) logits of single subtasks, per policy -> (..., chains): lengths of five that share their states' luck."""
    mean = np.asarray(logits, dtype=float)[..., None]
    luck = SHARED * generator.standard_normal(STATES) + OWN * generator.standard_normal((*mean.shape[:-1], STATES))
    chance = 1 / (1 + np.exp(-(mean + luck)[..., OF_CHAIN]))
    return np.cumprod(generator.random((*chance.shape, 5)) < chance[..., None], axis=-1).sum(axis=-1)


def expected(logit: float, *more: float) -> float:
    """Subtasks in a row over states (and over further normal effects with these SDs)."""
    points, weights = np.polynomial.hermite_e.hermegauss(61)
    chance = 1 / (1 + np.exp(-(logit + np.sqrt(SHARED**2 + OWN**2 + sum(x**2 for x in more)) * points)))
    return sum(float(weights @ chance**k) / float(weights.sum()) for k in range(1, 6))


@pytest.mark.parametrize(("logits", "seed"), [((1.2, 0.5), 1), ((-1.5, -1.5), 2)])
def test_what_intervals_of_checkpoints_cover(logits: tuple[float, float], seed: int) -> None:
    generator, trials = np.random.default_rng(seed), 200
    truth = [expected(x) for x in logits]
    means = pairs = independent = 0
    for trial in range(trials):
        a, b = drawn(generator, logits)
        found = chains(a, OF_CHAIN, resamples=200, seed=trial)["average"]
        means += found.low <= truth[0] <= found.high
        low, high = paired_interval(a - b, OF_CHAIN, level=0.95, resamples=200, seed=trial)
        pairs += low <= truth[0] - truth[1] <= high
        independent += abs(a.mean() - truth[0]) <= 1.96 * a.std(ddof=1) / len(a) ** 0.5
    assert 0.93 <= means / trials <= 0.98 and 0.93 <= pairs / trials <= 0.98
    assert independent / trials < 0.85  # chains as independent episodes


def test_changes_of_sign_are_all_tried_and_reject_a_true_null_as_often_as_they_say() -> None:
    generator = np.random.default_rng(3)
    for _ in range(20):
        states = generator.integers(0, 7, 20)
        difference = generator.integers(-5, 6, 20)
        sums = np.array([difference[states == s].sum() for s in np.unique(states)])
        every = [abs(np.dot(signs, sums)) >= abs(sums.sum()) for signs in itertools.product((-1, 1), repeat=len(sums))]
        assert sign_flips(difference, states) == pytest.approx(np.mean(every))
    assert sign_flips(np.zeros(8, int), np.arange(8)) == 1
    pairs = (drawn(generator, (0.8, 0.8)) for _ in range(300))
    assert 0.02 <= np.mean([sign_flips(a - b, OF_CHAIN) <= 0.05 for a, b in pairs]) <= 0.085


def test_numbers_of_states_have_the_mean_of_the_chains() -> None:
    lengths = drawn(np.random.default_rng(4), [[1.0, 0.2], [0.5, -1.0]])
    found = per_state(lengths, OF_CHAIN)
    assert found.shape == (2, 2, STATES) and found.mean(axis=-1) == pytest.approx(lengths.mean(axis=-1))
    equal = lengths[0, 0, : 2 * STATES]
    by_hand = equal.reshape(2, STATES).mean(axis=0)
    assert per_state(equal, np.arange(2 * STATES) % STATES) == pytest.approx(by_hand)
    without = [lengths[0, 0][s != OF_CHAIN].mean() for s in range(STATES)]  # the jackknife, by hand
    variance = (STATES - 1) / STATES * np.sum((np.array(without) - np.mean(without)) ** 2)
    assert found[0, 0].var(ddof=1) / STATES == pytest.approx(variance)


@pytest.mark.parametrize(("seeds", "sd"), [(2, 0.3), (3, 0.0), (3, 0.4)])
def test_what_intervals_of_recipes_cover(seeds: int, sd: float) -> None:
    generator, trials, logits = np.random.default_rng(10 * seeds), 150, np.array([1.0, 1.0, 0.2])
    truth = [expected(x, sd) for x in logits]
    means = differences = 0
    for _ in range(trials):
        runs = logits[:, None] + sd * generator.standard_normal((3, seeds))
        shares = per_state(drawn_of_recipes(generator, runs) / 5, OF_CHAIN)
        table = Successes("b", ("x", "y", "z"), ("chain",), (shares,), 5, len(OF_CHAIN))
        means += sum(r.low <= t <= r.high for r, t in zip(recipes(table), truth, strict=True))
        (first, *_) = compare_recipes(table)
        differences += first.low <= 0 <= first.high
    assert 0.92 <= means / trials / 3 <= 0.985 and 0.93 <= differences / trials <= 0.985


def drawn_of_recipes(generator: np.random.Generator, logits: np.ndarray) -> np.ndarray:
    """(arms, seeds) logits -> lengths; a state's own luck belongs to the arm, not to the training run."""
    own = OWN * generator.standard_normal((len(logits), 1, STATES)) + SHARED * generator.standard_normal(STATES)
    chance = 1 / (1 + np.exp(-(logits[..., None] + own)[..., OF_CHAIN]))
    return np.cumprod(generator.random((*chance.shape, 5)) < chance[..., None], axis=-1).sum(axis=-1)


def test_a_recipe_is_never_narrower_than_its_checkpoints_together() -> None:
    lengths = drawn(np.random.default_rng(6), [1.0, 1.0])
    twice = {
        arm: [chain_rows(f"{arm}{s}", own, OF_CHAIN) for s in (0, 1)] for arm, own in zip("ab", lengths, strict=True)
    }
    means, _ = conclude(twice)  # the same results from both training runs
    for mean, own in zip(means, lengths, strict=True):
        pooled = chains(own, OF_CHAIN)["average"]
        assert (mean.measure, mean.longest, mean.rate) == ("completed", 5, pytest.approx(pooled.value))
        assert mean.high - mean.low >= pooled.high - pooled.low


def test_a_study_says_what_the_summary_says(tmp_path, monkeypatch) -> None:
    class Benchmark:
        id = "bench@1"

        def episodes(self, split, task, count):
            return tuple(EpisodeSpec(self.id, split, task, i, i, "do it") for i in range(count))

        def describe(self, episode):
            return {"initial_state": int(OF_CHAIN[episode.index]), "subtasks": list("abcde")}

    find = registry.find
    module = types.SimpleNamespace(Benchmark=Benchmark)
    monkeypatch.setattr(registry, "find", lambda room, name: module if room == "bench" else find(room, name))
    run = {"run": "a", "kind": "eval", "config": {"bench": "b", "split": "eval"}, "config_hash": "0", "commit": None}
    run |= {"dirty": None, "packages": {}, "hardware": {}, "seed": 0, "started": "2026-01-01"}
    records.write_one(tmp_path / "run.json", RunRecord.model_validate(run))
    old = chain_rows("a", drawn(np.random.default_rng(7), 0.5), subtasks=None)  # as rows were before: no state in them
    records.write_all(tmp_path / "rows.jsonl", old)
    lines = {line["what"]: line for line in summary(tmp_path)}
    found = estimates(told(old, Benchmark(), "eval"))
    assert [(e.task, e.in_a_row) for e in found] == [
        ("chain", None),
        *(("chain", k) for k in range(1, 6)),
        (None, None),
    ]
    for e in found:
        line = lines[f"in a row: {e.in_a_row or 'average'}"]
        assert [e.rate, e.low, e.high, e.method] == [line[key] for key in ("value", "low", "high", "method")]
        assert "over 64 initial states" in e.method and e.estimand == line["estimand"] == "E2"
    assert found[0].measure == "completed" and {e.measure for e in found[1:6]} == {"success"}


def test_a_comparison_of_chains_is_about_subtasks_and_initial_states() -> None:
    lengths = drawn(np.random.default_rng(8), [1.5, 0.3])
    a, b = (chain_rows(name, own, OF_CHAIN) for name, own in zip("ab", lengths, strict=True))
    c, back = compare(a, b, "a", "b"), compare(b, a, "b", "a")
    difference = lengths[0] - lengths[1]
    assert (c.measure, c.longest, c.pairs) == ("completed", 5, len(OF_CHAIN))
    assert c.difference == -back.difference == pytest.approx(difference.mean()) and c.p_value == back.p_value
    assert (c.only_a, c.only_b) == ((difference > 0).sum(), (difference < 0).sum())
    assert "64 initial states" in c.interval_method and "initial states" in c.p_method and c.p_value < 0.01
    assert f"A did better than b ({sentences.points(c.difference, 'completed')} subtasks in a row" in sentences.reading(
        c
    )
    same = compare(a, chain_rows("c", lengths[0], OF_CHAIN), "a", "c")
    assert same.p_value == 1 and same.low < 0 < same.high  # nothing differed, and that is no certainty


def test_units_are_never_mixed() -> None:
    chain = chain_rows("a", [5, 0, 3], [0, 1, 1])
    single = rows("a", {"open": [True, False]})
    with pytest.raises(UserError, match=r"Chains \(chain\) stand beside other tasks: open"):
        estimates(chain + single)
    with pytest.raises(UserError, match="stand beside other tasks"):
        successes({"a": [chain + single]})
    with pytest.raises(UserError, match="no initial state"):
        estimates(chain_rows("a", [5, 0, 3]))
    with pytest.raises(UserError, match="rows are of bench@1, and the benchmark here is other"):
        told(chain_rows("a", [1]), types.SimpleNamespace(id="other"), "eval")
    assert told(single, types.SimpleNamespace(id="other"), "eval") == single  # nothing is asked about single tasks


def test_records_from_before_are_about_success() -> None:
    old = {"arm": "a", "control": None, "benchmark": "b", "task": None, "episodes": 4, "successes": 2, "rate": 0.5}
    old |= {"low": 0.1, "high": 0.9, "level": 0.95, "method": "Wilson", "estimand": "E2"}
    assert Estimate.model_validate(old).measure == "success"
    pair = {"a": "a", "b": "b", "benchmark": "b", "pairs": 4, "only_a": 1, "only_b": 0, "difference": 0.25, "low": 0}
    pair |= {"high": 1, "level": 0.95, "interval_method": "", "p_value": 1, "p_method": "", "estimand": "E2"}
    assert Comparison.model_validate(pair).measure == "success"
