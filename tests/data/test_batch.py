import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from synthetic_data import cameras, dataset, spec

from vlm4vla.data.augment import draw
from vlm4vla.data.batch import Samples
from vlm4vla.data.build import build
from vlm4vla.data.mixture import Mixture
from vlm4vla.data.order import BatchSampler, Order
from vlm4vla.data.store import EpisodeEntry
from vlm4vla.schemas import AugmentConfig
from vlm4vla.types import UserError, view_names

LENGTHS = (5, 1, 9)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batch")
    return build(dataset(folder / "set", LENGTHS), folder / "store", 16, "png")


def samples_of(store, chunk, cameras=("front",), augment=None, seed=0, window=1):
    return Samples(Mixture([store], [1.0]), chunk, cameras, augment or AugmentConfig(), seed, window)


def test_a_chunk_begins_at_its_own_frame_and_ends_with_the_episode(store):
    samples = samples_of(store, 4)
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


@pytest.mark.parametrize("augment", [AugmentConfig(shift=3), AugmentConfig(shift=2, crop=0.9, contrast=0.2, hue=0.05)])
def test_augmentation_is_a_function_of_seed_epoch_and_sample(store, augment):
    def pictures(seed, epoch, order=range(15)):
        samples = samples_of(store, 2, ("front", "wrist"), augment, seed)
        found = {i: samples[(i, epoch)].images for i in order}
        return [found[i][name] for i in range(15) for name in ("front", "wrist")]

    first = pictures(0, 0)
    assert all(np.array_equal(a, b) for a, b in zip(first, pictures(0, 0, reversed(range(15))), strict=True))
    for other in (pictures(1, 0), pictures(0, 1)):
        assert sum(np.array_equal(a, b) for a, b in zip(first, other, strict=True)) < 5  # 1 of 49 by chance


class FakeStore:
    """A store in memory, of episodes of given lengths; every action and picture tells its frame."""

    digest, path, cameras, state_names, states = "fake", "fake", cameras("front", size=(2, 2)), (), None
    action_spec = spec()

    def __init__(self, lengths):
        starts = np.cumsum([0, *lengths[:-1]])
        self.episodes = [
            EpisodeEntry(k, int(s), n, "go", "go", k) for k, (s, n) in enumerate(zip(starts, lengths, strict=True))
        ]
        frames = np.arange(1, sum(lengths) + 1, dtype=np.float32)
        self.actions = frames[:, None] + np.array([0, 0.25, 0.5, 0.75], np.float32)

    def __len__(self):
        return len(self.actions)

    def episode_of(self, frame):
        return next(e for e in self.episodes if e.start <= frame < e.stop)

    def image(self, frame, camera):
        return np.full((2, 2, 3), frame, np.uint8)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    chunk=st.integers(1, 40),
    window=st.integers(1, 5),
    data=st.data(),
)
def test_chunk_and_history_of_any_frame_of_any_episodes(lengths, chunk, window, data):
    store = FakeStore(lengths)
    entry = data.draw(st.sampled_from(store.episodes))
    t = data.draw(st.integers(0, entry.length - 1))
    sample = samples_of(store, chunk, window=window).sample(entry.start + t, epoch=0)
    episode = store.actions[entry.start : entry.start + entry.length]
    wanted = episode[t : t + chunk]
    assert np.array_equal(sample.actions[sample.mask], wanted) and sample.actions.shape == (chunk, 4)
    assert np.array_equal(sample.mask, np.arange(chunk) < len(wanted)) and not sample.actions[~sample.mask].any()
    names = view_names(("front",), window)
    assert tuple(sample.images) == names and names[-1] == "front" and len(names) == window
    shown = [int(sample.images[name][0, 0, 0]) - entry.start for name in names]
    assert shown == [max(0, t - age) for age in range(window - 1, -1, -1)]


def test_the_pictures_of_a_history_are_changed_alike_and_cameras_are_not(store):
    augment = AugmentConfig(shift=3, crop=0.8, brightness=0.2)
    first, last = store.episodes[2].start, store.episodes[2].start + 1
    with_history = samples_of(store, 1, ("front", "wrist"), augment, window=3).sample(first, epoch=4).images
    assert list(with_history) == ["front@-2", "front@-1", "front", "wrist@-2", "wrist@-1", "wrist"]
    for camera in ("front", "wrist"):
        assert np.array_equal(with_history[camera], with_history[f"{camera}@-2"])  # the same frame, three times
    alone = samples_of(store, 1, ("front", "wrist"), augment).sample(first, epoch=4).images
    assert all(np.array_equal(with_history[c], alone[c]) for c in alone)
    generator = np.random.default_rng([2, 0, 0, last])
    front, wrist = draw(augment, generator), draw(augment, generator)
    images = samples_of(store, 1, ("front", "wrist"), augment, window=2).sample(last, epoch=0).images
    assert np.array_equal(images["front@-1"], front(store.image(first, "front")))
    assert np.array_equal(images["wrist"], wrist(store.image(last, "wrist")))


def test_loader_processes_change_nothing(store):
    samples = samples_of(store, 3, augment=AugmentConfig(shift=2), seed=7)

    def batches(workers):
        sampler = BatchSampler(samples.order(), 6, start_step=1)
        loader = torch.utils.data.DataLoader(samples, batch_sampler=sampler, num_workers=workers, collate_fn=list)
        found = []
        for batch, _ in zip(loader, range(4), strict=False):
            found.append(np.stack([s.images["front"] for s in batch]))
        return np.stack(found)

    assert np.array_equal(batches(0), batches(2))


def test_an_unknown_camera_is_refused(store):
    with pytest.raises(UserError, match="Did you mean 'wrist'"):
        samples_of(store, 2, ("wirst",))


@given(
    length=st.integers(1, 40),
    part=st.integers(1, 9),
    world=st.integers(1, 4),
    seed=st.integers(0, 99),
    start=st.integers(0, 30),
)
def test_order(length, part, world, seed, start):
    batch, steps = part * world, 12
    whole = BatchSampler(Order.of_one(length, seed), batch)
    stream = [place for step in range(start + steps) for place in whole.at(step)]
    # every epoch is an exact permutation, in order, whatever the batch size
    for epoch in range(len(stream) // length):
        piece = stream[epoch * length : (epoch + 1) * length]
        assert {e for _, e in piece} == {epoch} and sorted(i for i, _ in piece) == list(range(length))
    # the union over ranks is the same whatever their number, without overlap; the state is the step
    ranks = [iter(BatchSampler(Order.of_one(length, seed), batch, rank, world, start)) for rank in range(world)]
    for step in range(start, start + steps):
        parts = [next(rank) for rank in ranks]
        assert all(len(p) == part for p in parts)
        assert [place for p in parts for place in p] == stream[step * batch : (step + 1) * batch]


def test_epochs_and_seeds_differ_and_nothing_else_does():
    def order(seed, epoch):
        return [i for i, _ in BatchSampler(Order.of_one(50, seed), 50).at(epoch)]

    assert order(0, 0) == order(0, 0) != order(0, 1) != order(1, 0)
    assert order(0, 3) == [i for i, _ in list(zip(BatchSampler(Order.of_one(50, 0), 50), range(4), strict=False))[3][0]]


def test_a_batch_that_cannot_be_split_is_refused():
    with pytest.raises(UserError, match="such as 8 or 12"):
        BatchSampler(Order.of_one(100, 0), 10, rank=0, world=4)


def test_noise_is_another_for_every_sample_epoch_and_seed_and_the_same_again(store):
    def noises(seed, epoch):
        return [samples_of(store, 2, seed=seed).sample(i, epoch).noise for i in range(15)]

    every = [*noises(0, 0), *noises(0, 1), *noises(1, 0)]
    assert len(set(every)) == 45 and all(0 <= noise < 2**63 for noise in every)
    assert noises(0, 1) == every[15:30]
