"""A session with one server: its model, its warm-up, and loads over one set of connections."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from mixtral.bench.serve_http import BrokenResponse, ConnectionPool, Target
from mixtral.bench.serve_load import Load, LoadGenerator, LoadRun, PlannedRequest
from mixtral.bench.serve_prompts import (
    BodyOptions,
    Prompt,
    PromptOptions,
    cycle_prompts,
    random_prompts,
)
from mixtral.bench.serve_server import OwnServer
from mixtral.bench.serve_stream import BodyReader
from mixtral.errors import ConfigError, EngineError


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    """What to measure.

    Raises:
        ConfigError: A number is outside its range.
    """

    loads: Sequence[Load]
    """One result for each."""
    prompts: PromptOptions = field(default_factory=PromptOptions)
    """What random prompts are like."""
    listed_prompts: Sequence[Prompt] = ()
    """Prompts of the user, sent in turn; none for random ones."""
    body: BodyOptions = field(default_factory=BodyOptions)
    """How requests are written; an empty model takes the first that the server has."""
    requests: int = 100
    """Requests of each load and repeat."""
    warmup: int = 4
    """Requests before the first load, which are not counted."""
    repeats: int = 1
    """How often the sweep is run."""
    timeout_s: float = 600.0
    """Longest time of one request."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not self.loads:
            raise ConfigError("there is no load; give a request rate or a concurrency.")
        for name, least in (("requests", 1), ("warmup", 0), ("repeats", 1)):
            if (value := getattr(self, name)) < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}.")
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout is {self.timeout_s:g}; it must be above 0 seconds.")

    @property
    def num_requests(self) -> int:
        """All requests, those of the warm-up included."""
        return self.warmup + self.repeats * len(self.loads) * self.requests

    def draw(self, count: int, *, part: int) -> list[Prompt]:
        """Return the prompts of one part of the run, 0 being the warm-up."""
        if not self.listed_prompts:
            return random_prompts(self.prompts, count, salt=str(part))
        start = 0 if part == 0 else self.warmup + (part - 1) * self.requests
        return cycle_prompts(self.listed_prompts, count, start=start)


class ServeSession:
    """Measures one server; use it with ``with``.

    Args:
        target: The server.
        server: The process, where it is ours.
        timeout_s: Longest time of one request.
        on_outcome: Called after each request, for a progress bar.
    """

    def __init__(
        self,
        target: Target,
        *,
        server: OwnServer | None = None,
        timeout_s: float = 600.0,
        on_outcome: Callable[[], None] = lambda: None,
    ) -> None:
        self.target = target
        self.server = server
        self._pool = ConnectionPool(target)
        self._generator = LoadGenerator(self._pool, timeout_s=timeout_s, on_outcome=on_outcome)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the connections."""
        self._runner.run(self._pool.close())
        self._runner.close()

    def find_model(self) -> tuple[str, str]:
        """Return the name of the first model that the server has, and who owns it.

        Raises:
            EngineError: The server cannot be reached, or does not list its models.
        """
        reader = BodyReader()
        url = f"{self.target.url}/models"
        try:
            self._runner.run(self._get("/models", reader))
        except TimeoutError:
            raise EngineError(f"{url} did not answer within 10 s.") from None
        except (OSError, BrokenResponse) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise EngineError(
                f"no server answers at {self.target.url}: {reason}; start it, or change the url."
            ) from None
        if reader.status in (401, 403):
            raise EngineError(f"{url} answers {reader.status}; give the server's --api-key.")
        models = reader.parsed().get("data")
        if reader.status != 200 or not isinstance(models, list) or not models:
            raise EngineError(
                f"{url} answers {reader.status} without a list of models ({reader.error()}); the "
                "url mostly ends with /v1, and --served-model names a model of a server that has "
                "no list."
            )
        card = models[0] if isinstance(models[0], dict) else {}
        return str(card.get("id", "")), str(card.get("owned_by") or "server")

    def warm_up(self, options: ServeOptions) -> None:
        """Send the requests that are not counted.

        Raises:
            EngineError: None of them succeeded.
        """
        if not options.warmup:
            return
        most = max(load.concurrency or 1 for load in options.loads)
        load = Load(concurrency=min(options.warmup, most))
        run = self.run(load, self.plan(options, options.warmup, part=0), seed=0)
        if run.is_cut:
            raise KeyboardInterrupt
        if all(outcome.answer is None for outcome in run.outcomes):
            raise EngineError(f"no request of the warm-up succeeded: {run.outcomes[0].failure}.")

    def run(
        self,
        load: Load,
        requests: Sequence[PlannedRequest],
        *,
        seed: int = 0,
        gaps: Sequence[float] | None = None,
    ) -> LoadRun:
        """Run one load as ``LoadGenerator.run`` does; after Ctrl-C it returns what there is."""
        return self._runner.run(self._generator.run(load, requests, seed=seed, gaps=gaps))

    def plan(self, options: ServeOptions, count: int, *, part: int) -> list[PlannedRequest]:
        """Write the requests of one part of the run."""
        return self.write(options.draw(count, part=part), options.body)

    def write(self, prompts: Sequence[Prompt], body: BodyOptions) -> list[PlannedRequest]:
        """Write prompts as requests for an endpoint of this server."""
        path = "/completions" if body.endpoint == "completions" else "/chat/completions"
        return [
            PlannedRequest(
                data=self.target.request("POST", path, body.write(prompt)),
                num_tokens=prompt.max_tokens if body.ignore_eos else None,
            )
            for prompt in prompts
        ]

    async def _get(self, path: str, reader: BodyReader) -> None:
        async with asyncio.timeout(10):
            await self._pool.send(self.target.request("GET", path), reader)
