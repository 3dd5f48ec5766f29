"""A scripted robot that knows where everything is, bound to a live environment."""

import re

from vlm4vla.bench.calvin.hand import Moves
from vlm4vla.bench.calvin.scripts import Scripts
from vlm4vla.bench.calvin.sim import TableEnv
from vlm4vla.types import EpisodeSpec, Vector


class ScriptedExpert:
    """Plays the script of the subtask that is to be solved, again and again (``scripts.py``)."""

    def __init__(self, env: TableEnv) -> None:
        self._env = env
        self._moves: Moves = iter(())
        self._doing = ""
        self._carries = True

    def reset(self, episode: EpisodeSpec) -> None:
        assert episode.task == self._env.task
        self._doing = ""
        self._carries = True

    def act(self) -> Vector:
        task = self._env.subtask
        if task != self._doing:
            # A lifted block stays in the hand until it is placed; other tasks that take hold of one are done with it.
            if re.match("lift|place|stack|rotate|unstack", self._doing):
                self._carries = self._doing.startswith("lift")
            self._doing, self._moves = task, Scripts(self._env.world).play(task, self._carries)
        return next(self._moves)
