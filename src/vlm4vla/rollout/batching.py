"""Requests of many connections become batches of one fixed shape, computed in one thread off the event loop.

Whatever waits when the thread becomes free goes, up to ``batch`` requests; the rest of the batch repeats the first
request. At a fixed shape the answer to a request does not depend on its batch mates, so episodes do not depend on how
many workers there are or who finished first.

Without patience (0, for robots: the answer comes at once) clients in step fall into two alternating groups, and half
of every padded batch is wasted. With ``patience`` 1 a batch that is not full waits, at most as long as the last batch
took, for open connections that have not asked yet: a third less time where simulating is faster than computing, up
to a fifth more where it is four times slower (measured with stand-ins; see the log).
"""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from vlm4vla.types import ActionSpec, Observation, UserError, refuse

Chunk = npt.NDArray[np.float32]
Precision = Literal["fp32", "bf16"]
_LONGEST_WAIT_S = 1.0
_SHORTEST = "go"  # no shorter instruction exists

T = TypeVar("T")
logger = logging.getLogger(__name__)


def usual_tokens(policy: "ActingPolicy") -> int:
    """The sequence length of a server that was given none: room for at least 32 tokens more than the shortest prompt.

    A fixed rule, so that a policy is served at one and the same length everywhere.
    """
    return -(-policy.count_tokens(_SHORTEST) // 32) * 32 + 32


class ActingPolicy(Protocol):
    """What the server asks of a policy.

    Pictures of ``image_size`` squared are expected, others are the policy's business; ``state_names`` is empty for a
    policy without proprioception; ``digest`` identifies the weights; ``about`` is what an evaluation's record says;
    the answer of a ``noisy`` one also depends on ``Observation.noise``.
    """

    @property
    def action_spec(self) -> ActionSpec: ...
    @property
    def chunk(self) -> int: ...
    @property
    def cameras(self) -> tuple[str, ...]: ...
    @property
    def image_size(self) -> int: ...
    @property
    def state_names(self) -> tuple[str, ...]: ...
    @property
    def noisy(self) -> bool: ...
    @property
    def digest(self) -> str: ...
    @property
    def about(self) -> dict[str, Any]: ...

    def act(self, observations: Sequence[Observation], tokens: int | None, precision: Precision) -> Chunk:
        """(B, H, A) float32 in the units of ``action_spec``; sequences are padded to ``tokens`` (None: the longest)."""
        ...

    def count_tokens(self, instruction: str) -> int:
        """Length of the whole sequence, image tokens and queries included."""
        ...


async def outcome(work: Coroutine[Any, Any, T]) -> tuple[T | None, str]:
    """``(result, "")``, or ``(None, sentence)`` for the client when the work failed; the server goes on either way."""
    task = asyncio.ensure_future(work)
    await asyncio.wait([task])
    error = task.exception()
    if error is None:
        return task.result(), ""
    if isinstance(error, UserError):
        return None, str(error)
    logger.error("a request failed", exc_info=error)
    return None, f"The policy failed with {type(error).__name__}: {error}. The server's log has the details."


class Batcher:
    """Lives on one event loop: ``await act(observation)`` -> (H, A). ``start`` first, ``stop`` at the end.

    ``clients``: connections that are open, set by the server; a batch waits for no more requests than that.
    """

    def __init__(self, policy: ActingPolicy, batch: int, tokens: int, precision: Precision, patience: float) -> None:
        assert batch > 0
        self._policy, self._batch, self._tokens, self._precision = policy, batch, tokens, precision
        self._waiting: deque[tuple[Observation, asyncio.Future[Chunk]]] = deque()
        self._arrived = asyncio.Event()
        # One thread for everything that touches the policy: tokenizers must not be entered twice at a time.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._count = lru_cache(maxsize=4096)(policy.count_tokens)
        self._task: asyncio.Task[None] | None = None
        self._patience = patience
        self._duration = 0.0  # seconds that the last batch took
        self.clients = 0

    async def warm_up(self) -> None:
        """One full batch, so that the first request does not pay for compilation and memory. Raises what act raises."""
        size = self._policy.image_size
        images = {name: np.zeros((size, size, 3), np.uint8) for name in self._policy.cameras}
        names = self._policy.state_names
        state = np.zeros(len(names), np.float32) if names else None
        blank = Observation(images=images, instruction=_SHORTEST, state=state)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._compute, [blank])

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for _, answer in self._waiting:
            answer.cancel()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)

    async def act(self, observation: Observation) -> Chunk:
        """(H, A) float32. Raises UserError for an observation that does not fit, or whatever the policy raised."""
        answer: asyncio.Future[Chunk] = asyncio.get_running_loop().create_future()
        self._waiting.append((observation, answer))
        self._arrived.set()
        return await answer

    async def _run(self) -> None:
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            await self._gather()
            taken = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            live = [(observation, answer) for observation, answer in taken if not answer.done()]
            if live:
                await self._serve(live)

    async def _gather(self) -> None:
        """Wait a little for the other clients, if there are any that have not asked yet."""
        loop = asyncio.get_running_loop()
        until = loop.time() + min(self._patience * self._duration, _LONGEST_WAIT_S)
        while len(self._waiting) < min(self._batch, self.clients):
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), until - loop.time())
            except TimeoutError:
                return

    async def _serve(self, taken: list[tuple[Observation, "asyncio.Future[Chunk]"]]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        done = loop.run_in_executor(self._thread, self._compute, [observation for observation, _ in taken])
        await asyncio.wait([done])
        self._duration = loop.time() - began
        error = done.exception()
        if error is None:
            for (_, answer), chunk in zip(taken, done.result(), strict=True):
                if not answer.done():  # cancelled meanwhile: its connection is gone
                    answer.set_result(chunk)
        elif len(taken) > 1:  # one bad request must not fail its batch mates: each again on its own
            for single in taken:
                await self._serve([single])
        elif not taken[0][1].done():
            taken[0][1].set_exception(error)

    def _compute(self, observations: list[Observation]) -> list[Chunk]:
        """In the inference thread: exactly ``batch`` observations in, one chunk per real one out."""
        for observation in observations:
            self._check_length(observation.instruction)
        padded = observations + [observations[0]] * (self._batch - len(observations))
        chunks = self._policy.act(padded, self._tokens, self._precision)
        expected = (self._batch, self._policy.chunk, self._policy.action_spec.size)
        assert chunks.shape == expected, f"the policy returned {chunks.shape}, not {expected}"
        return [np.ascontiguousarray(chunk, dtype=np.float32) for chunk in chunks[: len(observations)]]

    def _check_length(self, instruction: str) -> None:
        length = self._count(instruction)
        if length > self._tokens:
            raise refuse(
                f"The instruction {instruction!r} makes a sequence of {length} tokens",
                possible=f"at most {self._tokens} tokens, the one length that this server pads to",
                todo="Shorten the instruction, or start the server with more --tokens.",
            )
