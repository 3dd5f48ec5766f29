"""The policy server: one port, two protocols, every policy computation in one thread off the event loop.

``/`` speaks openpi's protocol (the server sends its metadata first; see :mod:`vlm4vla.rollout.wire`), ``/vla-eval``
that of the vla-eval harness (:mod:`vlm4vla.rollout.harness`), ``GET /health`` answers 200 once the policy is warm.
The server keeps no state of an episode on ``/``. There is no authentication: it listens to this machine alone
unless told otherwise, and refuses requests that a web page sent.
"""

import asyncio
import errno
import http
import logging
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import FrameType
from urllib.parse import urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from vlm4vla.rollout import harness, wire
from vlm4vla.rollout.batching import ActingPolicy, Batcher, Precision, outcome, usual_tokens
from vlm4vla.rollout.requests import metadata, parse
from vlm4vla.types import UserError, refuse

logger = logging.getLogger(__name__)


class PolicyServer:
    """Serves ``policy`` while the ``with`` block runs; ready (warm) when the block is entered.

    Every computation has exactly ``batch`` observations of exactly ``tokens`` tokens (None: ``usual_tokens``); a longer
    prompt is refused. ``patience``: how long a batch that is not full waits for other clients, see
    :mod:`vlm4vla.rollout.batching`. ``port`` 0 takes a free one; ``uri`` says which. Entering raises UserError for a
    port that cannot be had, and whatever the policy raises when it is warmed up.
    """

    def __init__(
        self,
        policy: ActingPolicy,
        batch: int,
        tokens: int | None,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        precision: Precision = "fp32",
        patience: float = 0.0,
        ping_interval: float = 20.0,
        ping_timeout: float = 60.0,
    ) -> None:
        self.tokens = usual_tokens(policy) if tokens is None else tokens
        self._policy, self._batch = policy, batch
        self._precision, self._patience = precision, patience
        self._host, self._port = host, port
        self._pings = (ping_interval, ping_timeout)
        self._first_frame = wire.pack(metadata(policy, batch, self.tokens))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy-server")
        self._running: Future[None] | None = None
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._batcher: Batcher | None = None
        self._ready = False
        self.uri = ""

    def __enter__(self) -> "PolicyServer":
        self._loop = loop = asyncio.new_event_loop()  # made here: it can be told to stop from the first moment on
        try:
            self._running = self._thread.submit(self._run, loop)
            self._running.add_done_callback(lambda _: self._started.set())
            self._started.wait()
        except BaseException:  # Ctrl-C while the policy warms up: __exit__ is not called then
            self._end()
            raise
        if self._running.done():
            self._thread.shutdown()
            self._running.result()  # raises what went wrong
        return self

    def __exit__(self, *_: object) -> None:
        assert self._running is not None
        self._end()
        self._running.result()

    def _end(self) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: it ended by itself
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.shutdown()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._batcher = Batcher(self._policy, self._batch, self.tokens, self._precision, self._patience)
        try:
            async with await self._listen() as server:
                await self._batcher.warm_up()
                self._batcher.start()
                self._ready = True
                self.uri = _uri(server, self._host)
                self._started.set()
                await self._stop.wait()
        finally:
            await self._batcher.stop()

    async def _listen(self) -> Server:
        try:
            return await serve(
                self._answer,
                self._host,
                self._port,
                origins=[None],  # a browser always names an origin, a robot never does
                process_request=self._http,
                compression=None,
                max_size=wire.MAX_FRAME_BYTES,
                ping_interval=self._pings[0],
                ping_timeout=self._pings[1],
                close_timeout=5,
            )
        except OSError as error:
            raise _cannot_listen(self._host, self._port, error) from error

    def _http(self, connection: ServerConnection, request: Request) -> Response | None:
        path = urlsplit(request.path).path
        if path not in {"/", harness.PATH, "/health"}:
            text = f"Nothing is at {path}. Possible: / (openpi), {harness.PATH} (vla-eval harness), /health.\n"
            return connection.respond(http.HTTPStatus.NOT_FOUND, text)
        if not self._ready:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "warming up\n")
        if path == harness.PATH:
            try:
                harness.settings(request.path, self._policy.chunk)
            except UserError as error:
                return connection.respond(http.HTTPStatus.BAD_REQUEST, f"{error}\n")
        return connection.respond(http.HTTPStatus.OK, "ready\n") if path == "/health" else None

    async def _answer(self, connection: ServerConnection) -> None:
        assert connection.request is not None and self._batcher is not None
        path = connection.request.path
        self._batcher.clients += 1
        try:
            if urlsplit(path).path == harness.PATH:
                await self._talk_harness(connection, path)
            else:
                await self._talk_openpi(connection)
        except ConnectionClosed as closed:
            logger.debug("connection closed: %s", closed)
        finally:
            self._batcher.clients -= 1

    async def _talk_openpi(self, connection: ServerConnection) -> None:
        await connection.send(self._first_frame)
        async for frame in connection:
            reply, sentence = await outcome(self._reply(frame))
            # A text frame is openpi's error message; the connection stays usable.
            await connection.send(sentence if reply is None else reply)

    async def _reply(self, frame: str | bytes) -> bytes:
        assert self._batcher is not None
        if isinstance(frame, str):
            raise refuse("A text frame came in", possible="binary msgpack frames", todo="Connect with openpi-client.")
        return wire.pack({"actions": await self._batcher.act(parse(self._policy, wire.unpack(frame)))})

    async def _talk_harness(self, connection: ServerConnection, path: str) -> None:
        assert self._batcher is not None
        session = harness.Session(self._policy, self._batcher, *harness.settings(path, self._policy.chunk))
        async for frame in connection:
            reply = await session.answer(frame)
            if reply is not None:
                await connection.send(reply)


def serve_forever(
    policy: ActingPolicy,
    batch: int,
    tokens: int | None,
    host: str,
    port: int,
    announce: Callable[[str], None],
    precision: Precision = "fp32",
) -> None:
    """Serve until Ctrl-C or SIGTERM. For the main thread.

    ``announce`` is called twice when requests can come: with the address, and with a sentence on the fixed shape.
    """
    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with PolicyServer(policy, batch, tokens, host, port, precision=precision) as server:
            announce(server.uri)
            announce(f"Every batch has {batch} observations of {server.tokens} tokens; longer prompts are refused.")
            stop.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _uri(server: Server, host: str) -> str:
    """An address that a client on this machine can use (a server on all addresses is met on the loopback one)."""
    port = server.sockets[0].getsockname()[1]
    name = "127.0.0.1" if host in {"", "0.0.0.0"} else host  # noqa: S104 - compared, not bound
    return f"ws://[{name}]:{port}" if ":" in name else f"ws://{name}:{port}"


def _cannot_listen(host: str, port: int, error: OSError) -> Exception:
    if error.errno == errno.EADDRINUSE:
        return refuse(
            f"Port {port} on {host} is in use: another `vlm4vla serve` or a different program listens there",
            possible="a free port, or --port 0, which takes one and prints it",
            todo=f"Choose another --port, or end that program (`ss -ltnp 'sport = :{port}'` shows it).",
        )
    if error.errno == errno.EACCES:
        return refuse(f"Port {port} is reserved", possible="0, or 1024 to 65535", todo="Choose another --port.")
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return refuse(
            f"{host!r} is not an address of this machine: {error}",
            possible="127.0.0.1 (this machine only), 0.0.0.0 (all networks: anybody who reaches the port may use it)",
            todo="Choose another --host.",
        )
    return error
