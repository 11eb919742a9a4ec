"""One answer while it is made: token ids on one side, text and tool calls on the other."""

from dataclasses import dataclass, field
from typing import Literal, cast

from mixtral.engine import TokenLogprob, TokenOutput
from mixtral.outputs import (
    ChatCompletion,
    CompletionChunk,
    TokenChoice,
    TokenRoute,
    ToolCall,
    Usage,
)
from mixtral.request import Request
from mixtral.tokenizer import StopChecker, StreamDecoder, Tokenizer

AnswerEnd = Literal["stop", "length", "tool_calls"]


@dataclass(kw_only=True, slots=True)
class _Parts:
    """Everything that the answer has so far."""

    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenChoice] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    routing: list[TokenRoute] = field(default_factory=list)


class Answer:
    """Turns the tokens of one sequence into text, finds its stop strings and its tool calls.

    Args:
        tokenizer: None leaves the text empty.
        request: What was asked.
        index: Which of ``n`` answers it is.
    """

    def __init__(self, tokenizer: Tokenizer | None, request: Request, *, index: int = 0) -> None:
        self._tokenizer = tokenizer
        self._request = request
        self._params = request.params
        self._index = index
        before = request.prompt_token_ids if request.continues_prompt else ()
        self._decoder = None if tokenizer is None else StreamDecoder(tokenizer, before)
        self._reader = None if tokenizer is None else request.reader()
        self._stop_checker = StopChecker(request.params.stop)
        self._parts = _Parts()
        self._finish_reason: AnswerEnd | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the last token has come."""
        return self._finish_reason is not None

    def push(self, output: TokenOutput) -> CompletionChunk:
        """Take the next token and return what became certain with it.

        Raises:
            EngineError: The engine could not go on with this answer.
        """
        if output.error is not None:
            raise output.error
        parts = self._parts
        parts.token_ids.append(output.token_id)
        logprobs = [] if output.logprob is None else [self._choice(output.logprob)]
        parts.logprobs += logprobs
        parts.routing += output.routing
        text, calls = self._read(output)
        if not parts.text:
            text = self._request.answer_prefix + text
        parts.text.append(text)
        parts.tool_calls += calls
        is_cut = self._reader is not None and self._reader.is_cut
        if self._finish_reason == "stop" and parts.tool_calls and not is_cut:
            self._finish_reason = "tool_calls"
        return CompletionChunk(
            text=text,
            token_ids=[output.token_id],
            finish_reason=self._finish_reason,
            usage=self.usage(),
            index=self._index,
            tool_calls=calls,
            logprobs=logprobs,
            routing=output.routing,
        )

    def completion(self) -> ChatCompletion:
        """Return the finished answer; without tools it has no calls."""
        parts = self._parts
        return ChatCompletion(
            text="".join(parts.text),
            token_ids=list(parts.token_ids),
            finish_reason=cast(AnswerEnd, self._finish_reason),
            usage=self.usage(),
            logprobs=None if self._params.logprobs is None else list(parts.logprobs),
            index=self._index,
            routing=list(parts.routing) if self._request.needs_routing else None,
            tool_calls=list(parts.tool_calls),
        )

    def usage(self) -> Usage:
        """Return the tokens taken so far."""
        return Usage(
            prompt_tokens=len(self._request.prompt_token_ids),
            completion_tokens=len(self._parts.token_ids),
        )

    def _read(self, output: TokenOutput) -> tuple[str, list[ToolCall]]:
        """Decode a token: text first, then the calls in it, then the stop strings."""
        is_last = output.finish_reason is not None
        text, calls = "", list[ToolCall]()
        if self._decoder is not None:
            text = self._decoder.push(output.token_id)
            if is_last:
                text += self._decoder.flush()
        if self._reader is not None:
            text, calls = self._reader.push(output.token_id, text)
            if is_last:
                rest, more = self._reader.flush()
                text, calls = text + rest, calls + more
        text = self._check_stop(text)
        if self._finish_reason is None and is_last:
            self._finish_reason = cast(AnswerEnd, output.finish_reason)
            text += self._stop_checker.flush()
        return text, calls

    def _check_stop(self, text: str) -> str:
        if len(self._parts.token_ids) < self._params.min_tokens:
            return self._stop_checker.flush() + text
        text = self._stop_checker.push(text)
        if self._stop_checker.stopped is not None:
            self._finish_reason = "stop"
        return text

    def _choice(self, logprob: TokenLogprob) -> TokenChoice:
        tokenizer = self._tokenizer
        return TokenChoice(
            token_id=logprob.token_id,
            token="" if tokenizer is None else tokenizer.decode_token(logprob.token_id),
            logprob=logprob.logprob,
            top_logprobs=dict(logprob.top),
        )
