"""A model behind any server that speaks OpenAI's chat API, ``mixtral serve`` among them.

    agent = Agent(HttpModel("http://127.0.0.1:8000", model="nano"), tools=[weather])

Sent are ``messages``, ``tools``, ``tool_choice``, ``parallel_tool_calls`` and those settings of
``SamplingParams`` that differ from their defaults, under the names that ``mixtral serve`` and
vLLM give them; a server that does not know one will say so. The answer is not streamed.
"""

import dataclasses
import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from mixtral.agent.chat_model import ModelTurn
from mixtral.errors import (
    ConfigError,
    ContextLengthExceeded,
    EngineError,
    InvalidRequest,
    QueueFull,
    UnsupportedError,
)
from mixtral.outputs import FunctionCall, ToolCall
from mixtral.tools.history import ID_LENGTH, ID_LETTERS

if TYPE_CHECKING:
    from mixtral.engine import SamplingParams

INSTALL = "pip install 'mixtral[agent]'"
# Many times the longest answer.
_MAX_BYTES = 1 << 26
_CONNECT_S = 10.0
# Eleven days; a socket counts its limit as milliseconds in 32 bits.
_LONGEST_WAIT_S = 1e6
_SURROGATE = re.compile("[\ud800-\udfff]")


class HttpModel:
    """A model of a server.

    Args:
        url: Of the server, with or without ``/v1``.
        model: Its name there.
        api_key: For a server that asks for one.

    Raises:
        ConfigError: The URL or the key is none.
        UnsupportedError: httpx is not installed.
    """

    def __init__(self, url: str, *, model: str, api_key: str | None = None) -> None:
        try:
            import httpx  # noqa: F401 - a missing package is told here, not in the first answer
        except ImportError as error:
            raise UnsupportedError(
                f"a model of a server needs httpx, which is not installed: {INSTALL}"
            ) from error
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"server URL is {url!r}; it must begin with http:// or https://.")
        # Not shown: a key is a secret even where it is wrong.
        if api_key is not None and not re.fullmatch(r"[!-~]([ -~]*[!-~])?", api_key):
            raise ConfigError(
                "the API key cannot be sent: it is empty, or has a character outside ASCII, a line "
                "end, or a space at an end; give it as the server has it."
            )
        base = url.rstrip("/")
        self._url = f"{base if base.endswith('/v1') else base + '/v1'}/chat/completions"
        self._model = model
        self._headers = {"Content-Type": "application/json"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def next_turn(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]],
        tool_choice: str | Mapping[str, Any],
        parallel_tool_calls: bool,
        params: "SamplingParams | None",
        timeout_s: float | None,
    ) -> ModelTurn:
        """Return the next turn; see ``ChatModel.next_turn``.

        Raises:
            InvalidRequest: The server refuses the request, or it is none that JSON can hold.
            ContextLengthExceeded: The conversation does not fit into the context.
            QueueFull: The server is busy.
            EngineError: It cannot be reached, failed, or answered with something else.
        """
        body: dict[str, Any] = {"model": self._model, "messages": messages, **_settings(params)}
        if tools:
            # "required" is OpenAI's word for Mistral's "any"; this way round everybody knows it.
            choice = "required" if tool_choice == "any" else tool_choice
            body |= {"tools": tools, "tool_choice": choice}
            body["parallel_tool_calls"] = parallel_tool_calls
        elif tool_choice not in ("auto", "none"):
            raise InvalidRequest(f"tool_choice is {tool_choice!r}, but there are no tools to call.")
        answer = self._post(_encoded(body), timeout_s)
        return ModelTurn(text="", finish_reason="timeout") if answer is None else _turn(answer)

    def _post(self, body: bytes, timeout_s: float | None) -> Any:
        """Return the answer's JSON; None where it did not come in time."""
        import httpx

        start = time.perf_counter()
        if timeout_s is not None:
            timeout_s = min(timeout_s, _LONGEST_WAIT_S)
        connect_s = _CONNECT_S if timeout_s is None else min(_CONNECT_S, timeout_s)
        timeout = httpx.Timeout(timeout_s, connect=connect_s)
        content = bytearray()
        try:
            with httpx.stream(
                "POST", self._url, content=body, headers=self._headers, timeout=timeout
            ) as response:
                # A server that sends a byte now and then would never time out by itself.
                for piece in response.iter_bytes():
                    content += piece
                    if timeout_s is not None and time.perf_counter() - start > timeout_s:
                        return None
                    if len(content) > _MAX_BYTES:
                        raise EngineError(f"{self._url} answered with over {_MAX_BYTES} bytes.")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            is_slow = isinstance(error, httpx.TimeoutException)
            # A server that does not even let us in within 10 s is no slow one.
            is_absent = isinstance(error, httpx.ConnectTimeout) and connect_s == _CONNECT_S
            if is_slow and not is_absent:
                return None
            raise EngineError(
                f"{self._url} cannot be reached: {error or type(error).__name__}."
            ) from error
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        if response.status_code != httpx.codes.OK:
            raise _refusal(self._url, response.status_code, answer)
        return answer if answer is not None else {}


def _settings(params: "SamplingParams | None") -> dict[str, Any]:
    """Return the settings that differ from their defaults, as JSON values."""
    if params is None:
        return {}
    settings = {}
    for setting in dataclasses.fields(params):
        default = setting.default
        if setting.default_factory is not dataclasses.MISSING:
            default = setting.default_factory()
        value = getattr(params, setting.name)
        if value != default:
            settings[setting.name] = list(value) if isinstance(value, tuple) else value
    return settings


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"the conversation cannot be written as JSON: {error}.") from None


def _refusal(url: str, status: int, answer: Any) -> Exception:
    """Return the error for an answer that is none."""
    error = answer.get("error", answer) if isinstance(answer, dict) else {}
    error = error if isinstance(error, dict) else {"message": str(error)}
    message = error.get("message") or error.get("detail") or "no reason given"
    line = f"{url} answered {status}: {message}"
    if error.get("code") == "context_length_exceeded":
        return ContextLengthExceeded(line)
    if status in (429, 503):
        return QueueFull(line)
    return InvalidRequest(line) if 400 <= status < 500 else EngineError(line)


def _turn(answer: Any) -> ModelTurn:
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        calls = [_call(call) for call in message.get("tool_calls") or []]
        usage = answer.get("usage") or {}
        return ModelTurn(
            text=_text(message.get("content")),
            finish_reason=_finish_reason(choice.get("finish_reason"), calls),
            tool_calls=calls,
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
        )
    except (
        AttributeError,
        LookupError,
        OverflowError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise EngineError("the server's answer is no chat completion of OpenAI's API.") from error


def _call(call: Any) -> ToolCall:
    function = call["function"]
    arguments = function.get("arguments") or ""
    # Mistral's servers may send an object.
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    call_id = call.get("id") or "".join(secrets.choice(ID_LETTERS) for _ in range(ID_LENGTH))
    named = FunctionCall(name=_whole(function["name"]), arguments=_whole(text))
    return ToolCall(id=_whole(call_id), function=named)


def _text(content: Any) -> str:
    if isinstance(content, list):
        return _whole("".join(part.get("text") or "" for part in content))
    return _whole(content or "")


def _whole(value: Any) -> str:
    """Return a text that UTF-8 can hold; JSON can spell half of a surrogate pair."""
    return _SURROGATE.sub("\ufffd", str(value))


def _finish_reason(
    named: Any, calls: Sequence[ToolCall]
) -> Literal["stop", "length", "tool_calls"]:
    if named == "length":
        return "length"
    return "tool_calls" if calls else "stop"
