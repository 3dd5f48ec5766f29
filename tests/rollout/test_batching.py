"""The batcher alone on an event loop; gates decide when a batch ends, so nothing here depends on the clock."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from rollout_fakes import LONG, FakePolicy, expected, picture

from vlm4vla.rollout import batching
from vlm4vla.rollout.batching import Batcher
from vlm4vla.types import Observation


def seen(seed: int, prompt: str = "open the drawer") -> Observation:
    return Observation({"front": picture(seed)}, prompt)


@asynccontextmanager
async def running(policy: FakePolicy, batch: int, patience: float = 0.0) -> AsyncIterator[Batcher]:
    batcher = Batcher(policy, batch, 20, "fp32", patience)
    await batcher.warm_up()
    batcher.start()
    yield batcher
    policy.gate.set()
    await batcher.stop()


async def busy(policy: FakePolicy, batcher: Batcher) -> "asyncio.Task[np.ndarray]":
    """A first request that keeps the inference thread occupied until the gate opens."""
    policy.gate.clear()
    first = asyncio.ensure_future(batcher.act(seen(0)))
    assert await asyncio.to_thread(policy.entered.acquire, timeout=LONG)
    return first


def test_what_waits_goes_together_and_the_answer_does_not_depend_on_it() -> None:
    async def scene() -> None:
        policy = FakePolicy()
        async with running(policy, 4) as batcher:
            first = await busy(policy, batcher)
            others = [asyncio.ensure_future(batcher.act(seen(i))) for i in range(1, 9)]
            await asyncio.sleep(0)  # each of them has put its request down
            policy.gate.set()
            replies = await asyncio.wait_for(asyncio.gather(first, *others), LONG)
        for i, actions in enumerate(replies):
            np.testing.assert_array_equal(actions, expected(i))
        pictures = [[int(o.images["front"].sum()) for o in b] for b in policy.batches[1:]]
        sums = [int(picture(i).sum()) for i in range(9)]
        assert pictures == [[sums[0]] * 4, sums[1:5], sums[5:9]]

    asyncio.run(scene())


def test_one_bad_request_does_not_fail_its_batch_mates() -> None:
    async def scene() -> None:
        policy, prompts = FakePolicy(), ["first", "crash", "third", "refuse"]
        async with running(policy, 4) as batcher:
            first = await busy(policy, batcher)
            others = [asyncio.ensure_future(batcher.act(seen(0, prompt))) for prompt in prompts]
            await asyncio.sleep(0)
            policy.gate.set()
            replies = await asyncio.wait_for(asyncio.gather(first, *others, return_exceptions=True), LONG)
        kinds = [type(reply).__name__ for reply in replies]
        assert kinds == ["ndarray", "ndarray", "RuntimeError", "ndarray", "UserError"]
        assert [o.instruction for o in policy.batches[2]] == prompts, "they did share a batch"
        np.testing.assert_array_equal(replies[3], expected(0, "third"))

    asyncio.run(scene())


def test_patience_waits_for_open_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_LONGEST_WAIT_S", 10 * LONG)

    async def scene(patience: float) -> list[int]:
        """Different pictures in each batch, for two clients of which the second comes late."""
        policy = FakePolicy()
        async with running(policy, 3, patience) as batcher:
            batcher.clients = 1
            await asyncio.wait_for(batcher.act(seen(0)), LONG)  # the only client never waits for others
            batcher.clients = 2
            early = asyncio.ensure_future(batcher.act(seen(1)))
            if patience:
                await asyncio.sleep(0.1)
                assert not early.done() and len(policy.batches) == 2
            else:
                await asyncio.wait_for(early, LONG)
            late = asyncio.ensure_future(batcher.act(seen(2)))
            replies = await asyncio.wait_for(asyncio.gather(early, late), LONG)
        np.testing.assert_array_equal(replies, [expected(1), expected(2)])
        return [len({o.images["front"].tobytes() for o in b}) for b in policy.batches[1:]]

    assert asyncio.run(scene(0.0)) == [1, 1, 1]
    assert asyncio.run(scene(1e9)) == [1, 2]


def test_patience_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_LONGEST_WAIT_S", 0.05)

    async def scene() -> None:
        async with running(FakePolicy(), 3, 1e9) as batcher:
            batcher.clients = 2  # one of them stays silent
            for seed in range(2):
                np.testing.assert_array_equal(await asyncio.wait_for(batcher.act(seen(seed)), LONG), expected(seed))

    asyncio.run(scene())
