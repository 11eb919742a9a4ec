"""One answer while it is made: token ids on one side, text on the other."""

from collections.abc import Sequence

from mixtral.engine import SamplingParams, TokenLogprob, TokenOutput
from mixtral.outputs import ChatCompletion, Completion, CompletionChunk, TokenChoice, Usage
from mixtral.tokenizer import StopChecker, StreamDecoder, Tokenizer


class Answer:
    """Turns the tokens of one sequence into text and finds its stop strings.

    Args:
        tokenizer: None leaves the text empty.
        sequence_id: Number of the sequence in the engine.
        prompt_token_ids: Its prompt.
        params: Its settings.
        index: Which of ``n`` answers it is.
        continues_prompt: Whether the answer goes on where the prompt's text ends, so that a space
            between them belongs to it; a chat's answer begins anew.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        sequence_id: int,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        index: int = 0,
        continues_prompt: bool = False,
    ) -> None:
        self.sequence_id = sequence_id
        self._tokenizer = tokenizer
        self._num_prompt_tokens = len(prompt_token_ids)
        self._params = params
        self._index = index
        before = prompt_token_ids if continues_prompt else ()
        self._decoder = None if tokenizer is None else StreamDecoder(tokenizer, before)
        self._stop_checker = StopChecker(params.stop)
        self._text: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenChoice] = []
        self._finish_reason: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the last token has come."""
        return self._finish_reason is not None

    def push(self, output: TokenOutput) -> CompletionChunk:
        """Take the next token and return the text that became certain with it."""
        self._token_ids.append(output.token_id)
        if output.logprob is not None:
            self._logprobs.append(self._choice(output.logprob))
        text = ""
        if self._decoder is not None:
            text = self._decoder.push(output.token_id)
            if output.finish_reason is not None:
                text += self._decoder.flush()
            text = self._check_stop(text)
        if self._finish_reason is None and output.finish_reason is not None:
            self._finish_reason = output.finish_reason
            text += self._stop_checker.flush()
        self._text.append(text)
        return CompletionChunk(
            text=text,
            token_ids=[output.token_id],
            finish_reason=self._finish_reason,  # type: ignore[arg-type]
            usage=self.usage(),
        )

    def completion(self) -> Completion:
        """Return the finished answer."""
        return Completion(
            text="".join(self._text),
            token_ids=list(self._token_ids),
            finish_reason=self._finish_reason,  # type: ignore[arg-type]
            usage=self.usage(),
            logprobs=None if self._params.logprobs is None else list(self._logprobs),
            index=self._index,
        )

    def chat_completion(self) -> ChatCompletion:
        """Return the finished answer as a turn of a conversation."""
        plain = self.completion()
        return ChatCompletion(
            text=plain.text,
            token_ids=plain.token_ids,
            finish_reason=plain.finish_reason,
            usage=plain.usage,
            logprobs=plain.logprobs,
            index=plain.index,
        )

    def _check_stop(self, text: str) -> str:
        if len(self._token_ids) < self._params.min_tokens:
            return self._stop_checker.flush() + text
        text = self._stop_checker.push(text)
        if self._stop_checker.stopped is not None:
            self._finish_reason = "stop"
        return text

    def usage(self) -> Usage:
        """Return the tokens taken so far."""
        return Usage(prompt_tokens=self._num_prompt_tokens, completion_tokens=len(self._token_ids))

    def _choice(self, logprob: TokenLogprob) -> TokenChoice:
        tokenizer = self._tokenizer
        return TokenChoice(
            token_id=logprob.token_id,
            token="" if tokenizer is None else tokenizer.decode_token(logprob.token_id),
            logprob=logprob.logprob,
            top_logprobs=dict(logprob.top),
        )
