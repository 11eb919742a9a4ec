"""A process of its own: the small application under ``run_app``, to be stopped with signals.

The arguments are one JSON object, the settings. It prints its port when it is ready, and ``reload``
and ``stop`` when it is told to.
"""

import asyncio
import json
import sys

from starlette.types import Receive, Scope, Send

from mixtral.server.keys import KeyRing
from mixtral.server.lifecycle import run_app
from mixtral.server.listen import bind, load_certificate
from mixtral.server.logs import configure_logging
from mixtral.server.middleware import protect
from mixtral.server.settings import ServerSettings


def main() -> None:
    settings = ServerSettings(**json.loads(sys.argv[1]))
    configure_logging(settings.log_format, settings.log_level)
    sockets = bind(settings, is_open=True)
    over = asyncio.Event()
    alive = [True]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        """Stream a line at once; /slow ends after half a second, /endless when all is stopped."""
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begin\n", "more_body": True})
        if scope["path"] == "/slow":
            await asyncio.sleep(0.5)
        if scope["path"] == "/endless":
            await over.wait()
        if scope["path"] == "/die":
            alive.clear()
        if scope["path"] == "/stuck":
            await asyncio.sleep(3600)
        await send({"type": "http.response.body", "body": b"end\n"})

    async def stop() -> None:
        print("stop", flush=True)
        over.set()

    run_app(
        lambda traffic: protect(app, settings=settings, keys=KeyRing(), traffic=traffic),
        settings,
        sockets=sockets,
        context=load_certificate(settings),
        on_ready=lambda: print(sockets[0].getsockname()[1], flush=True),
        on_reload=lambda: print("reload", flush=True),
        on_stop=stop,
        is_alive=lambda: bool(alive),
    )
    print("clean", flush=True)


if __name__ == "__main__":
    main()
