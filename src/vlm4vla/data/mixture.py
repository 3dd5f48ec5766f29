"""One store, or several as one data set: which share of the samples comes from where, and what is fitted on them."""

import hashlib
import json
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from vlm4vla.data.order import Order
from vlm4vla.data.statistics import Statistics
from vlm4vla.data.store import Store
from vlm4vla.schemas import MixtureSource
from vlm4vla.types import refuse


class Mixture:
    """The frames of its stores one after the other: frame i of the mixture is frame i - ``start`` of its store.

    A block of the order is as long as all stores together and holds ``draws`` samples of each: its share of the weights
    by the largest remainder. The stores must agree in action spec, cameras and state names. ``digest`` names contents
    and shares; that of a single store is the store's.
    """

    def __init__(self, stores: Sequence[Store], weights: Sequence[float]) -> None:
        assert stores and len(stores) == len(weights) and min(weights) > 0, "a bad mixture"
        for one, other in combinations(stores, 2):
            _refuse_unlike(one, other)
        self.stores = tuple(stores)
        self.shares = tuple(weight / sum(weights) for weight in weights)
        self.lengths = tuple(len(store) for store in stores)
        self._starts = np.cumsum([0, *self.lengths])
        self.draws = _largest_remainder(sum(self.lengths), self.shares)
        for store, draws, share in zip(self.stores, self.draws, self.shares, strict=True):
            if draws == 0:
                raise refuse(
                    f"{store.path} would never be drawn: its share is {share:.2g} of {len(self)} samples",
                    possible=f"a share of at least 1/{len(self)}",
                    todo="Raise its weight, or leave the store out.",
                )
        first = self.stores[0]
        self.action_spec, self.cameras, self.state_names = first.action_spec, first.cameras, first.state_names
        self.digest = first.digest
        if len(stores) > 1:
            text = json.dumps([[s.digest, share] for s, share in zip(stores, self.shares, strict=True)])
            self.digest = hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def open(cls, sources: Sequence[MixtureSource]) -> "Mixture":
        return cls([Store.open(source.store) for source in sources], [source.weight for source in sources])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def find(self, index: int) -> tuple[Store, int]:
        """The store of a frame of the mixture, and the frame's place in it."""
        source = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.stores[source], index - int(self._starts[source])

    def order(self, seed: int) -> Order:
        return Order(self.lengths, self.draws, seed)

    def statistics(self) -> Statistics:
        """Of the actions as training sees them: a frame counts by how often it is drawn."""
        if len(self.stores) == 1:
            return self.stores[0].statistics()
        return Statistics.of(np.concatenate([store.actions for store in self.stores]), self._frame_weights())

    def state_statistics(self) -> Statistics | None:
        """Of the states, weighted in the same way; None where there are none."""
        states = [store.states for store in self.stores if store.states is not None]
        if not states:
            return None
        return Statistics.of(np.concatenate(states), self._frame_weights() if len(states) > 1 else None)

    def _frame_weights(self) -> np.ndarray:
        return np.repeat(np.array(self.shares) / self.lengths, self.lengths)


def _largest_remainder(total: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers with the sum ``total``, as near to the shares as possible; of equal remainders the first wins."""
    exact = [total * share for share in shares]
    whole = [int(x) for x in exact]
    for source in sorted(range(len(shares)), key=lambda k: whole[k] - exact[k])[: total - sum(whole)]:
        whole[source] += 1
    return tuple(whole)


def _refuse_unlike(first: Store, other: Store) -> None:
    if other.digest == first.digest:
        raise refuse(
            f"{other.path} and {first.path} have the same content", todo="List it once, with the weight it is to have."
        )
    differences = first.action_spec.differences(other.action_spec)
    if differences:
        raise refuse(
            f"The actions of {first.path} and {other.path} do not mean the same: {'; '.join(differences)}. "
            f"{first.path} has {first.action_spec}, {other.path} has {other.action_spec}",
            possible="stores of one action spec",
            todo="Leave one out, or convert the actions in its data set.",
        )
    for what in ("cameras", "state_names"):
        mine, theirs = getattr(first, what), getattr(other, what)
        if mine != theirs:
            raise refuse(
                f"{first.path} has the {what.replace('_', ' ')} {list(mine)}, {other.path} has {list(theirs)}",
                possible="stores that agree in them",
                todo="Build the stores with the same cameras, --image-size and states.",
            )
