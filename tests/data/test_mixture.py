"""Several stores as one: exact shares, no repetition, ranks, and a loader that is killed anywhere and goes on."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from synthetic_data import cameras, episode, spec, writer

from vlm4vla.data.batch import Samples
from vlm4vla.data.build import build
from vlm4vla.data.mixture import Mixture
from vlm4vla.data.order import BatchSampler, Order
from vlm4vla.data.readers.lerobot_v3 import Reader
from vlm4vla.data.statistics import Statistics
from vlm4vla.schemas import AugmentConfig, MixtureSource
from vlm4vla.types import UserError


def make(folder, first, lengths, arm=3, names=("front",), size=16):
    action_spec, views = spec(arm), cameras(*names)
    out = writer(folder / "set", action_spec, views, benchmark="toy-v1")
    for number, length in enumerate(lengths):
        out.add(f"{number:04d}", episode(first + number, length, action_spec, views))
    out.finish()
    return build(Reader(folder / "set"), folder / "store", size, "png")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture")
    return [make(folder / str(k), 10 * k, lengths) for k, lengths in enumerate([(5, 1, 9), (4,), (7, 4)])]


sources = st.lists(st.tuples(st.integers(1, 25), st.integers(1, 25)), min_size=1, max_size=4)


@given(sources=sources, seed=st.integers(0, 99), blocks=st.integers(1, 6))
def test_shares_are_exact_in_every_block_and_no_sample_returns_before_its_source_is_done(sources, seed, blocks):
    lengths, draws = zip(*sources, strict=True)
    size, starts = sum(draws), np.cumsum([0, *lengths])
    stream = Order(lengths, draws, seed).between(0, blocks * size)
    seen = [Counter() for _ in lengths]
    for block in range(blocks):
        places = stream[block * size : (block + 1) * size]
        of_source = [int(np.searchsorted(starts, index, side="right")) - 1 for index, _ in places]
        assert tuple(of_source.count(k) for k in range(len(lengths))) == draws
        for (index, epoch), k in zip(places, of_source, strict=True):
            seen[k][(index, epoch)] += 1
    for k, counter in enumerate(seen):
        drawn = blocks * draws[k]
        assert set(counter.values()) == {1}  # index and epoch together name a draw
        per_epoch = Counter(epoch for _, epoch in counter)
        whole, rest = divmod(drawn, lengths[k])
        assert per_epoch == Counter(dict.fromkeys(range(whole), lengths[k]) | ({whole: rest} if rest else {}))


@given(
    sources=sources, seed=st.integers(0, 99), part=st.integers(1, 7), world=st.integers(1, 4), start=st.integers(0, 9)
)
def test_ranks_share_the_order_and_any_step_can_be_the_first(sources, seed, part, world, start):
    lengths, draws = zip(*sources, strict=True)
    whole = Order(lengths, draws, seed).between(0, (start + 5) * part * world)
    ranks = [iter(BatchSampler(Order(lengths, draws, seed), part * world, r, world, start)) for r in range(world)]
    for step in range(start, start + 5):
        union = [place for rank in ranks for place in next(rank)]
        assert union == whole[step * part * world : (step + 1) * part * world]


def test_blocks_are_shuffled_by_the_seed():
    def sources_of(seed, block):
        return [index < 50 for index, _ in Order((50, 50), (50, 50), seed).between(100 * block, 100 * block + 100)]

    orders = [sources_of(seed, block) for seed in (0, 1) for block in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert all(15 < sum(order[:50]) < 35 for order in orders)  # neither source comes first


@given(weights=st.lists(st.floats(0.5, 10), min_size=3, max_size=3))
def test_weights_become_whole_draws(stores, weights):
    mixture = Mixture(stores, weights)
    assert sum(mixture.draws) == len(mixture) == 30
    exact = 30 * np.array(weights) / sum(weights)
    assert np.abs(np.array(mixture.draws) - exact).max() < 1


def test_frames_of_a_mixture_are_those_of_its_stores(stores):
    mixture = Mixture(stores, [1, 2, 3])
    samples = Samples(mixture, 3, ("front",), AugmentConfig(), 0)
    at = 0
    for store in stores:
        alone = Samples(Mixture([store], [1]), 3, ("front",), AugmentConfig(), 0)
        for frame in range(len(store)):
            ours, theirs = samples.sample(at, 0), alone.sample(frame, 0)
            assert np.array_equal(ours.actions, theirs.actions) and np.array_equal(ours.mask, theirs.mask)
            assert np.array_equal(ours.images["front"], theirs.images["front"])
            at += 1
    assert at == len(samples) == 30


def test_one_store_is_an_ordinary_epoch_and_keeps_its_name(stores):
    alone = Mixture(stores[:1], [7.0])
    assert alone.digest == stores[0].digest and alone.draws == (15,)
    assert alone.order(3).between(0, 40) == Order.of_one(15, 3).between(0, 40)
    assert alone.statistics() == stores[0].statistics()
    assert alone.state_statistics() == Statistics.of(stores[0].states)


def test_the_name_of_a_mixture_covers_contents_and_weights(stores):
    digests = [Mixture(stores, weights).digest for weights in ([1, 1, 1], [1, 1, 2])]
    digests += [Mixture(stores[:2], [1, 1]).digest, stores[0].digest]
    assert len(set(digests)) == 4
    assert Mixture(stores, [2, 2, 4]).digest == digests[1]  # the same shares


def test_a_normaliser_sees_what_training_sees(stores):
    """Weights that are whole multiples of the lengths: the same as copying the rows so often."""
    mixture = Mixture(stores[:2], [15 * 3, 4 * 2])
    copied = np.concatenate([np.repeat(stores[0].actions, 3, axis=0), np.repeat(stores[1].actions, 2, axis=0)])
    found, wanted = mixture.statistics(), Statistics.of(copied)
    for name in ("min", "max", "mean", "std"):
        assert np.allclose(getattr(found, name), getattr(wanted, name), rtol=1e-12), name
    quantiles = np.quantile(copied.astype(float), [0.01, 0.99], axis=0, method="inverted_cdf")
    assert np.allclose([found.q01, found.q99], quantiles)
    states = np.concatenate([np.repeat(stores[0].states, 3, axis=0), np.repeat(stores[1].states, 2, axis=0)])
    assert np.allclose(mixture.state_statistics().mean, states.astype(float).mean(0), rtol=1e-12)


def test_what_does_not_fit_together_is_refused(stores, tmp_path):
    other = make(tmp_path / "arm", 50, (3,), arm=2)
    with pytest.raises(UserError, match=r"4 dimensions against 3.*has ActionSpec.*has ActionSpec"):
        Mixture([stores[0], other], [1, 1])
    for name, changes in (("cameras", {"names": ("top",)}), ("size", {"size": 8})):
        with pytest.raises(UserError, match="cameras"):
            Mixture([stores[0], make(tmp_path / name, 60, (3,), **changes)], [1, 1])
    with pytest.raises(UserError, match="same content"):
        Mixture([stores[0], stores[0]], [1, 1])
    with pytest.raises(UserError, match="would never be drawn"):
        Mixture(stores[:2], [1, 1000])


def test_it_is_opened_from_the_configuration(stores):
    mixture = Mixture.open([MixtureSource(store=s.path, weight=w) for s, w in zip(stores, (1, 2, 1), strict=True)])
    assert mixture.shares == (0.25, 0.5, 0.25) and mixture.digest == Mixture(stores, [1, 2, 1]).digest


def collate(samples):
    return [np.stack([s.images["front"] for s in samples]), np.stack([s.actions for s in samples])]


def test_a_loader_killed_anywhere_goes_on_bit_exactly(stores):
    """20 random kill points over 25 steps, each with another number of processes before and after, augmented."""
    augment = AugmentConfig(shift=2, crop=0.9, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05)
    mixture = Mixture(stores, [3, 1, 2])

    def run(start, stop, workers, rank=0, world=1):
        samples = Samples(mixture, 3, ("front",), augment, 11, window=2)
        sampler = BatchSampler(samples.order(), 6, rank, world, start)
        options = {"multiprocessing_context": "fork", "prefetch_factor": 2} if workers else {}
        loader = torch.utils.data.DataLoader(
            samples, batch_sampler=sampler, num_workers=workers, collate_fn=collate, **options
        )
        return [batch for _, batch in zip(range(start, stop), loader, strict=False)]

    whole = run(0, 25, 0)
    random = np.random.default_rng(0)
    for attempt in range(20):
        stop = int(random.integers(1, 25))
        before, after = ((0, 1, 3)[(attempt + k) % 3] for k in (0, 1))
        both = [*run(0, stop, before), *run(stop, 25, after)]
        for mine, wanted in zip(both, whole, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(mine, wanted, strict=True))
    halves = [run(3, 9, workers, rank, 2) for rank, workers in ((0, 0), (1, 3))]
    for parts, wanted in zip(zip(*halves, strict=True), whole[3:9], strict=True):
        for k in range(2):
            assert np.array_equal(np.concatenate([part[k] for part in parts]), wanted[k])
