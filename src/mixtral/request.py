"""From what a user sends to what the engine runs: messages, tools and formats become one Request.

Nothing here runs the model, so a request can be built on any thread while the engine works. What
is wrong with a request is found here, before it takes a place in the queue.
"""

from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from mixtral.engine import Constraint, SamplingParams
from mixtral.errors import InvalidRequest, TokenizerError
from mixtral.structured import GrammarCompiler
from mixtral.tokenizer import Tokenizer
from mixtral.tools import ToolCallReader, ToolPlan, plan_tools

Message = Mapping[str, Any]
Prompt = str | Sequence[int]


class AnswerGrammar(Protocol):
    """What every answer to a request must look like."""

    def start(self) -> Constraint:
        """Return the state of a new answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A prompt in token ids and all that shapes its ``params.n`` answers."""

    prompt_token_ids: list[int]
    """The prompt."""
    params: SamplingParams
    """How to choose tokens and when to stop."""
    continues_prompt: bool = False
    """Whether an answer goes on where the prompt's text ends."""
    answer_prefix: str = ""
    """Text that each answer begins with; the prompt ends with it."""
    grammar: AnswerGrammar | None = None
    """What an answer must look like; None lets it say anything."""
    tool_plan: ToolPlan | None = None
    """How calls are read out of an answer; None where no tools were given."""
    needs_routing: bool = False
    """Whether to report which experts each token visits."""
    priority: int = 0
    """Larger runs first."""
    owner: str = ""
    """Whose request it is; owners of one priority share the engine evenly."""
    adapter: int | None = None
    """Place of its adapter among those of the model; None asks the model as it is."""

    def reader(self) -> ToolCallReader | None:
        """Return a reader of calls for one answer."""
        return None if self.tool_plan is None else self.tool_plan.reader()


class RequestBuilder:
    """Builds requests for one model; safe to use from several threads.

    Args:
        tokenizer: The tokenizer of the model, or why there is none; token ids work without.
        vocab_size: V, rows of the model's output head.
        adapters: Names of the model's adapters, in the order in which the model has them.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | TokenizerError,
        *,
        vocab_size: int,
        adapters: Sequence[str] = (),
    ) -> None:
        self.adapters = tuple(adapters)
        """Names that ``adapter`` may have."""
        self._tokenizer = tokenizer
        self._grammars = (
            None
            if isinstance(tokenizer, TokenizerError)
            else GrammarCompiler(tokenizer, vocab_size=vocab_size)
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model.

        Raises:
            TokenizerError: The model has none.
        """
        if isinstance(self._tokenizer, TokenizerError):
            raise self._tokenizer
        return self._tokenizer

    @property
    def has_tokenizer(self) -> bool:
        """Whether the model has a tokenizer; without one only token ids can be used."""
        return self._grammars is not None

    @property
    def grammars(self) -> GrammarCompiler:
        """The grammars of the model.

        Raises:
            TokenizerError: The model has no tokenizer, so it has no text to constrain.
        """
        if isinstance(self._tokenizer, TokenizerError) or self._grammars is None:
            raise TokenizerError(str(self._tokenizer))
        return self._grammars

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] = "auto",
        parallel_tool_calls: bool = True,
        response_format: Mapping[str, Any] | None = None,
        safe_prompt: bool = False,
        needs_routing: bool = False,
        priority: int = 0,
        owner: str = "",
        adapter: str | None = None,
    ) -> Request:
        """Build the request for the next turn of a conversation.

        Args:
            messages: Role and content of each turn. A last assistant message with ``prefix`` true
                is how the answer begins; the answer repeats it, as Mistral's API does.
            params: How to choose tokens and when to stop.
            tools: Functions that the model may call.
            tool_choice: auto, none, any (or required), or the function to call.
            parallel_tool_calls: Whether one answer may hold several calls.
            response_format: text, json_object, json_schema, regex or choice.
            safe_prompt: Whether to put Mistral's guard-rail text first.
            needs_routing: Whether to report which experts each token visits.
            priority: Larger runs first.
            owner: Whose request it is.
            adapter: Name of an adapter; None asks the model as it is.

        Raises:
            InvalidRequest: The conversation, a tool or the format is wrong, or there is no such
                adapter.
        """
        plan = plan_tools(
            self.tokenizer,
            self.grammars,
            messages=messages,
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
        )
        grammar = self._output_grammar(response_format, params)
        if grammar is not None and plan is not None and plan.validators:
            raise InvalidRequest(
                "response_format and tools exclude each other, because one answer has one "
                "format; leave out one of them, or set tool_choice to 'none'."
            )
        if grammar is None and plan is not None:
            grammar = plan.grammar
        prompt = self.tokenizer.encode_chat(
            messages if plan is None else plan.messages,
            tools=None if plan is None else plan.tools,
            safe_prompt=safe_prompt,
        )
        prefix = _answer_prefix(messages)
        return Request(
            prompt_token_ids=prompt,
            params=params,
            continues_prompt=bool(prefix),
            answer_prefix=prefix,
            grammar=grammar,
            tool_plan=plan,
            needs_routing=needs_routing,
            priority=priority,
            owner=owner,
            adapter=self.find_adapter(adapter),
        )

    def completion(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        response_format: Mapping[str, Any] | None = None,
        needs_routing: bool = False,
        priority: int = 0,
        owner: str = "",
        adapter: str | None = None,
    ) -> Request:
        """Build the request to go on with a text, or with token ids as they are.

        Args:
            prompt: A text, which gets a <s> before it, or token ids.
            params: How to choose tokens and when to stop.
            response_format: What the continuation must look like, as in ``chat``.
            needs_routing: Whether to report which experts each token visits.
            priority: Larger runs first.
            owner: Whose request it is.
            adapter: Name of an adapter; None asks the model as it is.

        Raises:
            InvalidRequest: The prompt has a wrong type, the format is wrong, or there is no such
                adapter.
        """
        return Request(
            prompt_token_ids=self.encode_prompt(prompt),
            params=params,
            # A grammar describes the answer alone, which then begins a text of its own.
            continues_prompt=response_format is None,
            grammar=self._output_grammar(response_format, params),
            needs_routing=needs_routing,
            priority=priority,
            owner=owner,
            adapter=self.find_adapter(adapter),
        )

    def fim(
        self,
        prompt: str,
        suffix: str | None,
        params: SamplingParams,
        *,
        priority: int = 0,
        owner: str = "",
        adapter: str | None = None,
    ) -> Request:
        """Build the request for the text between ``prompt`` and ``suffix`` (v3 tokenizers only).

        Raises:
            UnsupportedError: The tokenizer is v1, which has no tokens for it.
            InvalidRequest: One of the texts is wrong, or there is no such adapter.
        """
        return Request(
            prompt_token_ids=self.tokenizer.encode_fim(prompt, suffix),
            params=params,
            continues_prompt=True,
            priority=priority,
            owner=owner,
            adapter=self.find_adapter(adapter),
        )

    def find_adapter(self, name: str | None) -> int | None:
        """Return the place of an adapter among those of the model; None for None.

        Raises:
            InvalidRequest: The model has no adapter of this name.
        """
        if name is None:
            return None
        if name not in self.adapters:
            known = f"has {', '.join(self.adapters)}" if self.adapters else "was loaded without any"
            raise InvalidRequest(f"adapter is {name!r}; this model {known}.")
        return self.adapters.index(name)

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Return the token ids of a prompt.

        Raises:
            InvalidRequest: It is neither a text nor a list of token ids.
        """
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        if not isinstance(prompt, (bytes, Mapping, Set)):
            with suppress(TypeError):  # Not a check for Sequence: arrays and tensors are none.
                return list(prompt)
        raise InvalidRequest(
            f"a prompt is a {type(prompt).__name__}; it must be a text or a list of token ids."
        )

    def _output_grammar(
        self, response_format: Mapping[str, Any] | None, params: SamplingParams
    ) -> AnswerGrammar | None:
        if response_format is None:
            return None
        grammar = self.grammars.compile(response_format)
        if grammar is not None:
            for name in ("stop", "ignore_eos", "min_tokens"):
                if getattr(params, name):
                    raise InvalidRequest(
                        f"{name} cannot be used with response_format {response_format['type']!r}: "
                        f"the format says where the answer ends. Leave out {name}."
                    )
        return grammar


def _answer_prefix(messages: Sequence[Message]) -> str:
    """Return the text of a last message that the answer continues."""
    last = messages[-1] if messages else {}
    if last.get("role") != "assistant" or not last.get("prefix"):
        return ""
    content = last.get("content") or ""
    return content if isinstance(content, str) else "\n\n".join(part["text"] for part in content)
