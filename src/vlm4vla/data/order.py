"""The order in which a training run sees its samples: a function of the seed and the place alone."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from vlm4vla.types import refuse

# First word of every seed: the streams of the purposes never meet (``data/batch.py`` takes 2).
_ORDER, _BLOCK = 1, 3

Rows = npt.NDArray[np.int64]


class Order:
    """An endless stream of (index, epoch), made of blocks of equal length.

    Each source has a stream of its own: the permutations of its epochs 0, 1, ... one after the other. Block e takes the
    next ``draws[k]`` samples of the stream of source k, and shuffles what it took. So the shares are exact in every
    block, and no sample of a source comes again before all others of that source have come. One source alone is not
    shuffled again: with as many draws as it has samples, a block is an epoch. ``index`` counts over the sources one
    after the other; ``epoch`` is that of the sample's source.
    """

    def __init__(self, lengths: Sequence[int], draws: Sequence[int], seed: int) -> None:
        assert lengths and len(lengths) == len(draws) and min(lengths) > 0 and min(draws) > 0, "a bad order"
        self._lengths, self._draws, self._seed = tuple(lengths), tuple(draws), seed
        self._starts = np.cumsum([0, *lengths])
        self._size = sum(draws)
        self._blocks: dict[int, Rows] = {}

    @classmethod
    def of_one(cls, length: int, seed: int) -> "Order":
        """One source, epoch after epoch."""
        return cls((length,), (length,), seed)

    def between(self, first: int, last: int) -> list[tuple[int, int]]:
        """Places ``first`` .. ``last - 1`` of the stream, as (index, epoch)."""
        found: list[tuple[int, int]] = []
        while first < last:
            number, at = divmod(first, self._size)
            rows = self._block(number)[at : at + last - first]
            found += [(index, epoch) for index, epoch in rows.tolist()]
            first += len(rows)
        return found

    def _block(self, number: int) -> Rows:
        """(places, 2): index and epoch of the samples of a block."""
        if number not in self._blocks:
            self._blocks = {n: rows for n, rows in self._blocks.items() if n == number - 1}
            parts = [self._part(source, number) for source in range(len(self._lengths))]
            rows = np.concatenate(parts)
            if len(parts) > 1:
                rows = rows[np.random.default_rng([_BLOCK, self._seed, number]).permutation(len(rows))]
            self._blocks[number] = rows
        return self._blocks[number]

    def _part(self, source: int, block: int) -> Rows:
        """The samples that a block takes from the stream of one source."""
        length, draws = self._lengths[source], self._draws[source]
        first = block * draws
        rows: list[Rows] = []
        for epoch in range(first // length, -(-(first + draws) // length)):
            order = np.random.default_rng([_ORDER, self._seed, epoch, source]).permutation(length)
            taken = order[max(0, first - epoch * length) : first + draws - epoch * length] + self._starts[source]
            rows.append(np.stack([taken, np.full_like(taken, epoch)], axis=1))
        return np.concatenate(rows)


class BatchSampler:
    """Endless batches of (index, epoch) for one rank; ``torch.utils.data.DataLoader(batch_sampler=...)`` takes it.

    Step s takes the places s * batch .. (s + 1) * batch - 1 of the order, and each rank its own equal part of these, so
    every batch is full and the union over ranks does not depend on ``world``. ``batch`` is the global size.
    """

    def __init__(self, order: Order, batch: int, rank: int = 0, world: int = 1, start_step: int = 0) -> None:
        assert batch > 0 and 0 <= rank < world and start_step >= 0, "a bad sampler"
        if batch % world:
            fitting = [b for b in range(batch - world + 1, batch + world) if b > 0 and b % world == 0]
            raise refuse(
                f"A global batch of {batch} cannot be split over {world} processes",
                possible=f"multiples of {world}, such as {' or '.join(map(str, fitting))}",
                todo="Change the batch size or the number of processes.",
            )
        self._order, self._batch = order, batch
        self._rank, self._part, self._start = rank, batch // world, start_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self._start
        while True:
            yield self.at(step)
            step += 1

    def at(self, step: int) -> list[tuple[int, int]]:
        """This rank's part of a step, as (index, epoch)."""
        first = step * self._batch + self._rank * self._part
        return self._order.between(first, first + self._part)
