"""The scripted expert: it reads a task's goal and does its parts one after the other, knowing where everything is.

Parts are done in an order in which none undoes another: open and switch on, carry, shut. A part that fails is tried
again.
"""

from collections.abc import Iterator

from vlm4vla.bench.libero.carry import Carry
from vlm4vla.bench.libero.drawer import Drawer, make_room, pull, push
from vlm4vla.bench.libero.hand import OPEN, Hand
from vlm4vla.bench.libero.knob import Knob
from vlm4vla.bench.libero.microwave import Microwave
from vlm4vla.bench.libero.sim import PandaEnv
from vlm4vla.bench.libero.travel import Travel
from vlm4vla.types import EpisodeSpec, Vector, refuse

_TRIES = 3
_ORDER = ("open", "turnon", "in", "on", "close")
_STOVE, _MICROWAVE = "flat_stove", "microwave"

Goal = tuple[str, ...]


class ScriptedExpert:
    """Bound to a live environment; one action of the benchmark's spec per step."""

    def __init__(self, env: PandaEnv) -> None:
        self._env = env
        goals: list[Goal] = [tuple(goal) for goal in env.sim.parsed_problem["goal_state"]]
        for goal in goals:
            if not self._can(goal):
                raise refuse(
                    f"The scripted expert cannot do {env.task!r}: its goal has the part {' '.join(goal)}",
                    possible="things carried from above, drawers, knobs of stoves, and microwaves to be shut",
                    todo="Leave the task out; README.md of the benchmark says what the expert can do.",
                )
        self._goals = sorted(goals, key=lambda goal: _ORDER.index(goal[0]))
        self._steps: Iterator[Vector] = iter(())

    def reset(self, episode: EpisodeSpec) -> None:
        assert episode.task == self._env.task
        self._steps = self._work()

    def act(self) -> Vector:
        return next(self._steps)

    def _can(self, goal: Goal) -> bool:
        kind, name = goal[0], goal[-1]
        if kind in ("in", "on"):
            return True
        if kind == "turnon":
            return name.startswith(_STOVE)
        return (kind in ("open", "close") and self._in_drawer(name)) or (
            kind == "close" and name.startswith(_MICROWAVE)
        )

    def _in_drawer(self, name: str) -> bool:
        site = self._env.sim.object_sites_dict.get(name)
        return bool(site is not None and site.joints)

    def _work(self) -> Iterator[Vector]:
        hand = Hand(self._env)
        travel = Travel(self._env, hand)
        for _ in range(_TRIES):
            for goal in self._goals:
                if not self._holds(goal):
                    yield from self._part(travel, goal)
        while True:
            yield hand.action(hand.at, OPEN)

    def _part(self, travel: Travel, goal: Goal) -> Iterator[Vector]:
        kind, name = goal[0], goal[-1]
        drawer = Drawer(self._env, name) if self._in_drawer(name) else None
        if kind == "turnon":
            yield from Knob(self._env, name).turn_on(travel)
        elif kind == "open":
            assert drawer is not None
            yield from pull(travel, drawer)
        elif kind == "close":
            yield from push(travel, drawer) if drawer is not None else Microwave(self._env, name).shut(travel)
        elif name.startswith(_MICROWAVE) and kind == "in":
            parent = self._env.sim.object_sites_dict[name].parent_name
            yield from Microwave(self._env, parent).put_in(travel, goal[1])
        else:
            if drawer is not None and not drawer.has_room():
                yield from make_room(travel, drawer, goal[1])
                yield from pull(travel, drawer)
            there = [g[1] for g in self._goals if g[0] == kind and g[-1] == name]
            yield from Carry(travel, goal[1], name, there.index(goal[1]), len(there), drawer).steps()

    def _holds(self, goal: Goal) -> bool:
        return bool(self._env.sim._eval_predicate(list(goal)))
