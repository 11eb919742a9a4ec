"""Plans function calling for one request: what is encoded, what is forced, how it is read.

    v3   tools go into the template; calls and results have control tokens
    v1   tools, calls and results become text (``plain_turns``)

With ``tool_choice`` "none" the tools stay out of the prompt: a model that does not read of them
does not try to call them. The control token is masked as well, because the conversation may
hold calls from earlier turns. In v1 there is nothing to mask: the answer is text, and no call is
read out of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixtral.structured import GrammarCompiler
from mixtral.tokenizer import Tokenizer
from mixtral.tools.constraint import CallGrammar, NoCallGrammar
from mixtral.tools.definitions import read_choice, read_parallel, read_tools
from mixtral.tools.grammar import calls_grammar, validator_of
from mixtral.tools.history import has_tool_messages, link_messages, split_text_from_calls
from mixtral.tools.markers import CALLS_TOKEN_ID
from mixtral.tools.plain_turns import to_plain_turns
from mixtral.tools.reader import ArgumentsValidator, ToolCallReader


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolPlan:
    """What one request with tools, or with messages of tools, needs."""

    messages: list[dict[str, Any]]
    """To be encoded instead of the request's."""
    tools: list[dict[str, Any]] | None
    """To be given to ``Tokenizer.encode_chat``; None where the prompt names none, and in v1."""
    grammar: CallGrammar | NoCallGrammar | None
    """Constrains each answer; None where it may be anything."""
    is_forced: bool
    """Whether the answer must call."""
    marker_id: int | None
    """The control token in front of calls; None in v1."""
    validators: Mapping[str, ArgumentsValidator]
    """What checks the arguments, by the name of the function that may be called."""

    def reader(self) -> ToolCallReader:
        """Return a reader for one answer."""
        return ToolCallReader(
            validators=self.validators,
            marker_id=self.marker_id,
            is_open=bool(self.validators),
        )


def plan_tools(
    tokenizer: Tokenizer,
    compiler: GrammarCompiler,
    *,
    messages: Sequence[Mapping[str, Any]],
    tools: object = None,
    tool_choice: object = None,
    parallel_tool_calls: object = None,
) -> ToolPlan | None:
    """Check the fields of a request that concern tools, and plan its answers.

    Args:
        tokenizer: Its version decides the form of everything.
        compiler: Makes the grammar of the calls.
        messages: The conversation as the client sent it; it stays as it is.
        tools: Functions that may be called.
        tool_choice: None is "auto".
        parallel_tool_calls: Whether one answer may hold several calls; None is true.

    Returns:
        None where nothing in the request concerns tools.

    Raises:
        InvalidRequest: A field is wrong, messages do not belong together, or a schema has a
            keyword that cannot be enforced.
    """
    definitions = read_tools(tools)
    choice = read_choice(tool_choice, definitions)
    is_parallel = read_parallel(parallel_tool_calls)
    if not definitions and not has_tool_messages(messages):
        return None
    linked = link_messages(messages)
    offered = [] if choice.mode == "none" else definitions
    if tokenizer.version == "v3":
        linked = split_text_from_calls(linked)
    else:
        linked = to_plain_turns(linked, offered)
    callable_tools = [tool for tool in offered if choice.name in (None, tool.name)]
    vocab_size = tokenizer.vocab_size + tokenizer.num_padding_ids
    grammar: CallGrammar | NoCallGrammar | None = None
    if callable_tools:
        grammar = CallGrammar(
            tokenizer,
            vocab_size=vocab_size,
            calls=calls_grammar(compiler, callable_tools, is_parallel=is_parallel),
            is_forced=choice.mode == "required",
        )
    elif tokenizer.version == "v3":
        grammar = NoCallGrammar(vocab_size=vocab_size)
    return ToolPlan(
        messages=linked,
        tools=[tool.as_openai() for tool in offered] or None if tokenizer.version == "v3" else None,
        grammar=grammar,
        is_forced=choice.mode == "required",
        marker_id=CALLS_TOKEN_ID if tokenizer.version == "v3" else None,
        validators={tool.name: validator_of(tool) for tool in callable_tools},
    )
