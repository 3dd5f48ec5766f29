"""Samples, and the order in which a training run sees them.

Everything is a function of numbers: the order of epoch e of (seed, e), the augmentation of a sample of (seed, e, i). So
the state of the loader is one integer, the step, whatever the number of loader processes or ranks.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlm4vla.data.augment import random_shift
from vlm4vla.data.store import Store
from vlm4vla.schemas import AugmentConfig
from vlm4vla.types import Image, Vector, refuse

# First word of every seed: the streams of the two purposes never meet.
_ORDER, _AUGMENT = 1, 2


@dataclass(frozen=True, eq=False)
class Sample:
    """One frame and the H actions from it on.

    ``images`` (H, W, 3) uint8 after augmentation; ``state`` (S,) float32 or None; ``actions`` (H, A) float32 in raw
    units; ``mask`` (H,) bool: False, and zero actions, for steps after the end of the episode.
    """

    images: Mapping[str, Image]
    instruction: str
    state: Vector | None
    actions: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]


class Samples:
    """Map-style data set over all frames of a store; keys are (index, epoch), as :class:`BatchSampler` yields them."""

    def __init__(self, store: Store, chunk: int, cameras: tuple[str, ...], augment: AugmentConfig, seed: int) -> None:
        known = [c.name for c in store.cameras]
        for name in cameras:
            if name not in known:
                raise refuse(
                    f"The store has no camera {name!r}", given=name, possible=known, todo="Name one of these cameras."
                )
        self.store, self.chunk, self.cameras, self.augment, self.seed = store, chunk, cameras, augment, seed

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        return self.sample(*key)

    def sample(self, i: int, epoch: int) -> Sample:
        """Frame ``i`` with the augmentation of ``epoch``; its actions are exactly ``actions[i : i + H]``."""
        store = self.store
        episode = store.episode_of(i)
        images = {name: store.image(i, name) for name in self.cameras}
        if self.augment.shift:
            generator = np.random.default_rng([_AUGMENT, self.seed, epoch, i])
            images = {name: random_shift(image, self.augment.shift, generator) for name, image in images.items()}
        else:
            images = {name: image.copy() for name, image in images.items()}
        valid = min(self.chunk, episode.stop - i)
        actions = np.zeros((self.chunk, store.action_spec.size), np.float32)
        actions[:valid] = store.actions[i : i + valid]
        return Sample(
            images=images,
            instruction=episode.instruction,
            state=store.states[i].copy() if store.states is not None else None,
            actions=actions,
            mask=np.arange(self.chunk) < valid,
        )


class BatchSampler:
    """Endless batches of (index, epoch) for one rank; ``torch.utils.data.DataLoader(batch_sampler=...)`` takes it.

    The samples form one stream: the permutations of epoch 0, 1, ... one after the other. Step s takes the places
    s * batch .. (s + 1) * batch - 1 of it, and each rank its own equal part of these, so every batch is full, every
    epoch is seen exactly once, and the union over ranks does not depend on ``world``. ``batch`` is the global size.
    """

    def __init__(self, length: int, batch: int, seed: int, rank: int = 0, world: int = 1, start_step: int = 0) -> None:
        assert length > 0 and batch > 0 and 0 <= rank < world and start_step >= 0, "a bad sampler"
        if batch % world:
            fitting = [b for b in range(batch - world + 1, batch + world) if b > 0 and b % world == 0]
            raise refuse(
                f"A global batch of {batch} cannot be split over {world} processes",
                possible=f"multiples of {world}, such as {' or '.join(map(str, fitting))}",
                todo="Change the batch size or the number of processes.",
            )
        self._length, self._batch, self._seed = length, batch, seed
        self._rank, self._part, self._start = rank, batch // world, start_step
        self._orders: dict[int, npt.NDArray[np.int64]] = {}

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self._start
        while True:
            yield self.at(step)
            step += 1

    def at(self, step: int) -> list[tuple[int, int]]:
        """This rank's part of a step, as (index, epoch)."""
        first = step * self._batch + self._rank * self._part
        places = (divmod(place, self._length) for place in range(first, first + self._part))
        return [(int(self._order(epoch)[at]), epoch) for epoch, at in places]

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = np.random.default_rng([_ORDER, self._seed, epoch]).permutation(self._length)
        return self._orders[epoch]
