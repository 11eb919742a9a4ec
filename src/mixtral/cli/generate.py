"""``mixtral generate``: one prompt, one answer (or ``--n`` of them)."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixtral.cli.console import note, print_json, require_text, spinner, write_text
from mixtral.cli.options import (
    AdapterOption,
    ModelOptions,
    SamplingOptions,
    grouped_options,
    named_adapter,
    sampling_option,
    with_max_tokens,
)
from mixtral.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mixtral.engine import SamplingParams
    from mixtral.llm import LLM
    from mixtral.outputs import Completion, CompletionChunk
    from mixtral.tokenizer import Tokenizer

app = typer.Typer(add_completion=False)

_EXAMPLES = """Examples:
  mixtral generate "What is a mixture of experts?"
  cat letter.txt | mixtral generate --system "Sum up in one sentence." --json
  mixtral generate --raw --max-tokens 40 "Once upon a time" """


@app.command(epilog=_EXAMPLES)
@grouped_options
def generate(
    model: ModelOptions,
    sampling: SamplingOptions,
    adapter: AdapterOption = None,
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt; without it, or with -, standard input.")
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", help="Instructions that go before the prompt.")
    ] = None,
    safe_prompt: Annotated[
        bool, typer.Option("--safe-prompt", help="Put Mistral's guard-rail text first.")
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it is, without a chat template.")
    ] = False,
    n: Annotated[int, sampling_option("n")] = 1,
    logprobs: Annotated[int | None, sampling_option("logprobs")] = None,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Print the text as it comes.",
            show_default="where output is a terminal",
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object: text, token_ids, usage, ..."),
    ] = False,
) -> None:
    """Answer one prompt, or continue a text."""
    _check_output(n=n, stream=stream, as_json=as_json, logprobs=logprobs)
    if raw and (system is not None or safe_prompt):
        raise InvalidRequest(
            "--raw sends the text alone; leave out --system and --safe-prompt, or leave out --raw."
        )
    require_text("the system text", system or "")
    params = sampling.params(n=n, logprobs=logprobs)
    text = _read_prompt(prompt, raw=raw)
    llm = model.load(max_num_seqs=n, adapters=named_adapter(adapter))
    request = _Request(llm, text, raw=raw, system=system, safe_prompt=safe_prompt)
    params = with_max_tokens(params, room=llm.max_model_len - request.num_tokens)
    if stream is None:
        stream = sys.stdout.isatty() and n == 1 and not as_json
    if stream:
        _print_stream(request.stream(params), params)
        return
    with spinner("generating"):
        completions = request.complete(params)
    if as_json:
        print_json(_as_json(completions, llm.tokenizer))
    else:
        _print_texts(completions)


class _Request:
    """A text to continue, or a conversation to answer."""

    def __init__(
        self, llm: "LLM", text: str, *, raw: bool, system: str | None, safe_prompt: bool
    ) -> None:
        self._llm = llm
        self._text = text if raw else None
        self._safe_prompt = safe_prompt
        # The command loads one adapter at most.
        self._adapter = next(iter(llm.requests.adapters), None)
        self._messages = [{"role": "user", "content": text}]
        if system is not None:
            self._messages.insert(0, {"role": "system", "content": system})
        if raw:
            token_ids = llm.tokenizer.encode(text)
        else:
            token_ids = llm.encode_chat(self._messages, safe_prompt=safe_prompt)
        self.num_tokens = len(token_ids)

    def stream(self, params: "SamplingParams") -> "Iterator[CompletionChunk]":
        """Yield the answer piece by piece."""
        if self._text is not None:
            return self._llm.stream(self._text, params, adapter=self._adapter)
        return self._llm.stream_chat(
            self._messages, params, safe_prompt=self._safe_prompt, adapter=self._adapter
        )

    def complete(self, params: "SamplingParams") -> "Sequence[Completion]":
        """Return ``params.n`` answers; answer i uses seed + i."""
        if self._text is not None:
            return self._llm.generate(self._text, params, adapter=self._adapter)
        request = self._llm.requests.chat(
            self._messages, params, safe_prompt=self._safe_prompt, adapter=self._adapter
        )
        return self._llm.answer([request])


def _check_output(*, n: int, stream: bool | None, as_json: bool, logprobs: int | None) -> None:
    if stream and n > 1:
        raise InvalidRequest(f"n is {n}; a stream is one answer: use --no-stream, or --n 1.")
    if stream and as_json:
        raise InvalidRequest("--stream and --json exclude each other; JSON is one whole object.")
    if logprobs is not None and not as_json:
        raise InvalidRequest(f"logprobs is {logprobs}; they are printed with --json only.")


def _read_prompt(prompt: str | None, *, raw: bool) -> str:
    if prompt is not None and prompt != "-":
        text = prompt
        require_text("the prompt", text)
    elif sys.stdin.isatty():
        raise InvalidRequest("there is no prompt; give it as an argument or on standard input.")
    else:
        try:
            text = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                f"standard input is not UTF-8 text: byte 0x{error.object[error.start]:02x} "
                f"at position {error.start}."
            ) from error
        if not raw:
            # echo and here-documents end with a line break that nobody means.
            text = text.removesuffix("\n").removesuffix("\r")
    if not raw and not text.strip():
        raise InvalidRequest("the prompt is empty; give some text.")
    return text


def _print_stream(chunks: "Iterator[CompletionChunk]", params: "SamplingParams") -> None:
    last: CompletionChunk | None = None
    try:
        for chunk in chunks:
            write_text(chunk.text)
            last = chunk
    finally:
        # After Ctrl-C, too: what was printed stays, and the shell's prompt gets its own line.
        write_text("\n")
    if last is not None:
        _note_length(last, params)


def _note_length(last: "CompletionChunk | Completion", params: "SamplingParams") -> None:
    if last.finish_reason == "length" and sys.stderr.isatty():
        why = "--max-tokens sets the limit" if params.max_tokens else "the context is full"
        note(f"[stopped after {last.usage.completion_tokens} tokens; {why}]")


def _print_texts(completions: "Sequence[Completion]") -> None:
    if len(completions) == 1:
        write_text(completions[0].text + "\n")
        return
    for number, completion in enumerate(completions, start=1):
        write_text(f"--- {number} of {len(completions)} ---\n{completion.text}\n")


def _as_json(completions: "Sequence[Completion]", tokenizer: "Tokenizer") -> dict[str, Any]:
    objects = [_completion_object(completion, tokenizer) for completion in completions]
    return objects[0] if len(objects) == 1 else objects[0] | {"completions": objects}


def _completion_object(completion: "Completion", tokenizer: "Tokenizer") -> dict[str, Any]:
    usage = asdict(completion.usage) | {"total_tokens": completion.usage.total_tokens}
    result: dict[str, Any] = {
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "finish_reason": completion.finish_reason,
        "usage": usage,
    }
    if completion.logprobs is not None:
        result["logprobs"] = [
            {
                "token_id": choice.token_id,
                "token": choice.token,
                "logprob": choice.logprob,
                "top_logprobs": [
                    {"token_id": i, "token": tokenizer.decode_token(i), "logprob": logprob}
                    for i, logprob in choice.top_logprobs.items()
                ],
            }
            for choice in completion.logprobs
        ]
    return result
