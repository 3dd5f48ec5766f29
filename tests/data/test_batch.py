from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from synthetic_data import dataset

from vlm4vla.data.augment import random_shift
from vlm4vla.data.batch import BatchSampler, Samples
from vlm4vla.data.build import build
from vlm4vla.schemas import AugmentConfig
from vlm4vla.types import UserError

LENGTHS = (5, 1, 9)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batch")
    return build(dataset(folder / "set", LENGTHS), folder / "store", 16, "png")


@given(seed=st.integers(0, 1000), pad=st.integers(0, 6), height=st.integers(1, 9), width=st.integers(1, 9))
def test_shift_is_a_cut_of_the_padded_picture(seed, pad, height, width):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    shifted = random_shift(image, pad, np.random.default_rng(seed))
    down, right = np.random.default_rng(seed).integers(0, 2 * pad + 1, size=2)
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    assert shifted.dtype == np.uint8 and np.array_equal(shifted, padded[down : down + height, right : right + width])
    assert not np.shares_memory(image, shifted)


def test_every_offset_of_the_shift_occurs():
    image = np.arange(9 * 9, dtype=np.uint8).reshape(9, 9, 1).repeat(3, 2)
    random = np.random.default_rng(0)
    middles = Counter(int(random_shift(image, 1, random)[4, 4, 0]) for _ in range(900))
    assert set(middles) == {30, 31, 32, 39, 40, 41, 48, 49, 50} and min(middles.values()) > 60


def test_a_chunk_begins_at_its_own_frame_and_ends_with_the_episode(store):
    samples = Samples(store, 4, ("front",), AugmentConfig(), 0)
    assert len(samples) == 15
    for entry in store.episodes:
        for t in range(entry.length):
            sample = samples.sample(entry.start + t, epoch=0)
            valid = min(4, entry.length - t)
            assert sample.mask.tolist() == [True] * valid + [False] * (4 - valid)
            assert np.array_equal(sample.actions[:valid], store.actions[entry.start + t : entry.start + t + valid])
            assert not sample.actions[valid:].any() and sample.actions.dtype == np.float32
            assert sample.instruction == entry.instruction
            assert np.array_equal(sample.state, store.states[entry.start + t])
            assert list(sample.images) == ["front"]
            assert np.array_equal(sample.images["front"], store.image(entry.start + t, "front"))


def test_augmentation_is_a_function_of_seed_epoch_and_sample(store):
    def pictures(seed, epoch, order=range(15)):
        samples = Samples(store, 2, ("front", "wrist"), AugmentConfig(shift=3), seed)
        found = {i: samples[(i, epoch)].images for i in order}
        return [found[i][name] for i in range(15) for name in ("front", "wrist")]

    first = pictures(0, 0)
    assert all(np.array_equal(a, b) for a, b in zip(first, pictures(0, 0, reversed(range(15))), strict=True))
    for other in (pictures(1, 0), pictures(0, 1)):
        assert sum(np.array_equal(a, b) for a, b in zip(first, other, strict=True)) < 5  # 1 of 49 by chance


def test_loader_processes_change_nothing(store):
    samples = Samples(store, 3, ("front",), AugmentConfig(shift=2), 7)

    def batches(workers):
        sampler = BatchSampler(len(samples), 6, seed=7, start_step=1)
        loader = torch.utils.data.DataLoader(samples, batch_sampler=sampler, num_workers=workers, collate_fn=list)
        found = []
        for batch, _ in zip(loader, range(4), strict=False):
            found.append(np.stack([s.images["front"] for s in batch]))
        return np.stack(found)

    assert np.array_equal(batches(0), batches(2))


def test_an_unknown_camera_is_refused(store):
    with pytest.raises(UserError, match="Did you mean 'wrist'"):
        Samples(store, 2, ("wirst",), AugmentConfig(), 0)


@given(
    length=st.integers(1, 40),
    part=st.integers(1, 9),
    world=st.integers(1, 4),
    seed=st.integers(0, 99),
    start=st.integers(0, 30),
)
def test_order(length, part, world, seed, start):
    batch, steps = part * world, 12
    whole = BatchSampler(length, batch, seed)
    stream = [place for step in range(start + steps) for place in whole.at(step)]
    # every epoch is an exact permutation, in order, whatever the batch size
    for epoch in range(len(stream) // length):
        piece = stream[epoch * length : (epoch + 1) * length]
        assert {e for _, e in piece} == {epoch} and sorted(i for i, _ in piece) == list(range(length))
    # the union over ranks is the same whatever their number, without overlap; the state is the step
    ranks = [iter(BatchSampler(length, batch, seed, rank, world, start)) for rank in range(world)]
    for step in range(start, start + steps):
        parts = [next(rank) for rank in ranks]
        assert all(len(p) == part for p in parts)
        assert [place for p in parts for place in p] == stream[step * batch : (step + 1) * batch]


def test_epochs_and_seeds_differ_and_nothing_else_does():
    def order(seed, epoch):
        return [i for i, _ in BatchSampler(50, 50, seed).at(epoch)]

    assert order(0, 0) == order(0, 0) != order(0, 1) != order(1, 0)
    assert order(0, 3) == [i for i, _ in list(zip(BatchSampler(50, 50, 0), range(4), strict=False))[3][0]]


def test_a_batch_that_cannot_be_split_is_refused():
    with pytest.raises(UserError, match="such as 8 or 12"):
        BatchSampler(100, 10, 0, rank=0, world=4)
