"""Runs an ASGI application under uvicorn, from its first connection to the last answer.

On SIGTERM or SIGINT /ready turns 503 and new work is refused, while running requests have
``drain_timeout_s`` to finish. Connections are accepted all that time, so that load balancers see
what goes on and clients get an answer. What then still runs is ended, and the process stops with
status 0. A second signal ends it at once, with 128 and the number of the signal. SIGHUP reads the
API keys and the TLS certificate again. Where the engine dies, so does the server: a supervisor can
start a new one, and nobody is served errors until somebody looks.
"""

import asyncio
import logging
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

import uvicorn

from mixtral.errors import ConfigError, EngineDead
from mixtral.server.connection import connection_factory
from mixtral.server.listen import load_certificate
from mixtral.server.middleware import Traffic
from mixtral.server.settings import ServerSettings

logger = logging.getLogger(__name__)

_LAST_WRITES_S = 5  # For answers that were just ended to leave the machine.
_BACKLOG = 2048


def run_app(
    make_app: Callable[[Traffic], Any],
    settings: ServerSettings,
    *,
    sockets: list[socket.socket],
    context: ssl.SSLContext | None = None,
    on_ready: Callable[[], None],
    on_reload: Callable[[], None],
    on_stop: Callable[[], Coroutine[Any, Any, None]],
    is_alive: Callable[[], bool] = lambda: True,
) -> None:
    """Run an ASGI application until a signal says to stop, and drain.

    Args:
        make_app: Returns the application; the count that it is given decides when it is drained.
        settings: Times and files.
        sockets: Bound sockets to listen on.
        context: Certificate and key; None serves without TLS.
        on_ready: Called when requests are answered.
        on_reload: Called on SIGHUP.
        on_stop: Awaited once when nothing more is to run; ends what still runs.
        is_alive: Whether the engine can still answer.

    Raises:
        EngineDead: It could not any more, and the server has stopped for that.
    """
    traffic = Traffic()
    config = uvicorn.Config(
        make_app(traffic),
        http=connection_factory(settings),  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=int(settings.idle_timeout_s),
        timeout_graceful_shutdown=_LAST_WRITES_S,
    )
    config.load()
    # Not ssl_certfile: this context was checked before the model was loaded, and can be reloaded.
    config.ssl = context
    server = _Server(
        config,
        traffic,
        drain_timeout_s=settings.drain_timeout_s,
        ready=on_ready,
        stop=on_stop,
        is_alive=is_alive,
    )

    async def main() -> None:
        if hasattr(signal, "SIGHUP"):
            reload = _reloader(settings, context, on_reload)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
        await server.serve(sockets)

    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        runner.run(main())
    if server.has_failed:
        raise EngineDead("the engine stopped after a failure, and so did the server; see the log.")


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # There is none for Windows.
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class _Server(uvicorn.Server):
    """uvicorn's server, which drains before it closes its door."""

    def __init__(
        self,
        config: uvicorn.Config,
        traffic: Traffic,
        *,
        drain_timeout_s: float,
        ready: Callable[[], None],
        stop: Callable[[], Coroutine[Any, Any, None]],
        is_alive: Callable[[], bool],
    ) -> None:
        super().__init__(config)
        self._traffic = traffic
        self._drain_timeout_s = drain_timeout_s
        self._ready = ready
        self._stop = stop
        self._is_alive = is_alive
        self._drain_until = 0.0
        self.has_failed = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal, leave at the second."""
        if self._traffic.is_draining:
            sys.stderr.flush()
            # Not sys.exit, which would wait for threads.
            os._exit(128 + sig)
        self._drain_until = time.monotonic() + self._drain_timeout_s
        self._traffic.is_draining = True

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop; uvicorn asks ten times a second."""
        should_stop = await super().on_tick(counter)
        if not self._is_alive():
            self.has_failed = True
            self._traffic.is_draining = True
            return True
        if not self._traffic.is_draining:
            return should_stop
        num_running = self._traffic.num_running
        if num_running and time.monotonic() < self._drain_until:
            return False
        if num_running:
            logger.warning(
                "%d requests still run after %g s and are ended", num_running, self._drain_timeout_s
            )
        await self._stop()
        return True


def _reloader(
    settings: ServerSettings, context: ssl.SSLContext | None, on_reload: Callable[[], None]
) -> Callable[[], None]:
    """Return what SIGHUP does: read keys and certificate again, keep the old ones if that fails."""

    def reload() -> None:
        on_reload()
        if context is None:
            return
        try:
            load_certificate(settings)
        except ConfigError as error:
            logger.error("the certificate stays as it was: %s", error)
            return
        assert settings.tls_cert is not None
        # Connections from now on get it; the context itself is in use.
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
        logger.info("read the certificate %s", settings.tls_cert)

    return reload
