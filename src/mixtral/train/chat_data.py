r"""Records to token ids, with a mark on the tokens that are learned.

An answer is learned as it is served: behind exactly the tokens that the server would put before
it, written by the same encoder (``Tokenizer.encode_chat``, ``mixtral.tools``). Learned are the
tokens that the model has to produce, the answer or its calls and the ``</s>`` behind, and no
others (here in brackets):

    v1   <s> [INST] u [/INST] {a </s>} [INST] u [/INST] {a </s>}
    v3   <s> [AVAILABLE_TOOLS] ... [/AVAILABLE_TOOLS] [INST] u [/INST] {[TOOL_CALLS] ... </s>}

As a rule one pass over a conversation learns all its answers, as above. It is not so where what
comes before an answer is written otherwise when a later one is asked for:

* v3 shows system text and tools before the *last* user message only, so that they move on with
  each turn (``tokenizer.chat``);
* v3 calls of the history have ids, which results refer to; a call that the model makes has none:
  neither mistral-common's training format asks for one nor does the server's grammar allow it.

Such a conversation becomes several examples, one for each place where it is written anew, and each
answer is learned in one of them. So nothing is learned that is never asked for. It costs tokens:
a v3 conversation of n turns with a system text runs about n / 2 times as many.

For v1 and v3 the ids of a whole conversation are those of mistral-common in its mode
``finetuning``, except for the ids of calls that are learned; tests hold it to that.

A v3 answer cannot have both text and calls: the template has no form for it, so there is nothing
that could be learned (as context it is written as the server writes it). Text for pre-training is
``<s> text </s>`` and all of it is learned but ``<s>``.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, TypeVar

from mixtral.errors import InvalidRequest
from mixtral.tokenizer import Tokenizer
from mixtral.tools.definitions import ToolDefinition
from mixtral.tools.history import split_text_from_calls, text_of
from mixtral.tools.markers import CALLS_MARKER, marker_token_ids
from mixtral.tools.plain_turns import calls_text, to_plain_turns
from mixtral.train.record_files import RecordReader, reason_of
from mixtral.train.records import Conversation, Document, Message, PreferencePair, Record

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One sequence to learn from."""

    token_ids: list[int]
    """Begins with ``<s>``, but for the later pieces of a document."""
    loss_mask: list[bool]
    """Per token: whether it is learned."""

    @property
    def num_inputs(self) -> int:
        """Tokens that run: all but the last, which is only a target."""
        return len(self.token_ids) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedRecord:
    """What one record gives to learn from."""

    key: int
    """``Record.key`` of the record."""
    place: str
    """``file:line`` of the record."""
    examples: list[Example]
    """At least one; of a preference pair two, chosen and rejected."""


def encode_records(
    reader: RecordReader[R],
    encode: Callable[[R], list[Example]],
    *,
    max_seq_len: int | None,
    max_record_tokens: int | None = None,
    too_long: Literal["error", "skip"] = "error",
) -> Iterator[EncodedRecord]:
    """Encode all records of a reader, and tell of the bad ones at the end.

    Args:
        reader: Its ``num_skipped`` counts what ``too_long`` leaves out.
        encode: One of the functions below, with its tokenizer filled in by ``partial``.
        max_seq_len: Most tokens that may run as one sequence; None for any number.
        max_record_tokens: Most tokens that all examples of a record may run together, as the two
            of a preference pair do; None where they need not.
        too_long: Whether a longer record is an error, or left out and counted.

    Raises:
        ConfigError: Records are bad; the message names the first of them. It comes when everything
            was read, so use nothing before the end.
    """
    for line in reader:
        try:
            examples = encode(line.record)
        except (InvalidRequest, RecursionError) as error:
            reader.refuse(line, reason_of(error))
            continue
        reason = _excess(examples, max_seq_len, max_record_tokens)
        if reason is None:
            yield EncodedRecord(key=line.record.key(), place=line.place, examples=examples)
        elif too_long == "skip":
            reader.num_skipped += 1
        else:
            reader.refuse(line, f"{reason}; raise it, or skip what is too long")
    reader.check()


def _excess(
    examples: Sequence[Example], max_seq_len: int | None, max_record_tokens: int | None
) -> str | None:
    """Return which limit the examples of a record exceed, or None."""
    longest = max(example.num_inputs for example in examples)
    if max_seq_len is not None and longest > max_seq_len:
        return f"the record has {longest} tokens and max_seq_len is {max_seq_len}"
    total = sum(example.num_inputs for example in examples)
    if max_record_tokens is not None and total > max_record_tokens:
        return (
            f"the pair has {total} tokens, prompt and answer twice, and micro_batch_tokens is "
            f"{max_record_tokens}"
        )
    return None


def encode_conversation(conversation: Conversation, tokenizer: Tokenizer) -> list[Example]:
    """Return the examples of a conversation: one, or more where its template changes on the way.

    Raises:
        InvalidRequest: The template cannot write it.
    """
    if _only_grows(conversation, tokenizer):
        return [_encode_at_once(conversation, tokenizer)]
    messages = conversation.messages
    examples: list[Example] = []
    token_ids: list[int] = []
    loss_mask: list[bool] = []
    for begin, end in _learned_turns(conversation):
        prompt = encode_prompt(messages[:begin], conversation.tools, tokenizer)
        answer = encode_answer(messages[begin:end], tokenizer)
        if token_ids and prompt[: len(token_ids)] != token_ids:
            examples.append(Example(token_ids=token_ids, loss_mask=loss_mask))
            loss_mask = []
        loss_mask = loss_mask + [False] * (len(prompt) - len(loss_mask)) + [True] * len(answer)
        token_ids = prompt + answer
    examples.append(Example(token_ids=token_ids, loss_mask=loss_mask))
    return examples


def encode_preference(pair: PreferencePair, tokenizer: Tokenizer) -> list[Example]:
    """Return two examples with the same prompt: chosen, rejected.

    Raises:
        InvalidRequest: The template cannot write one of them.
    """
    prompt = encode_prompt(pair.messages, pair.tools, tokenizer)
    examples = []
    for message in (pair.chosen, pair.rejected):
        answer = encode_answer([message], tokenizer)
        mask = [False] * len(prompt) + [True] * len(answer)
        examples.append(Example(token_ids=prompt + answer, loss_mask=mask))
    if examples[0].token_ids == examples[1].token_ids:
        raise InvalidRequest("chosen and rejected have the same tokens")
    return examples


def encode_document(document: Document, tokenizer: Tokenizer, max_seq_len: int) -> list[Example]:
    """Return a text in pieces that run at most ``max_seq_len`` tokens each.

    Pieces overlap by one token, so that each token of the text is learned once.

    Raises:
        InvalidRequest: The text is not valid Unicode.
    """
    token_ids = [*tokenizer.encode(document.text), tokenizer.eos_id]
    pieces = [
        token_ids[begin : begin + max_seq_len + 1]
        for begin in range(0, len(token_ids) - 1, max_seq_len)
    ]
    return [
        Example(token_ids=piece, loss_mask=[False] + [True] * (len(piece) - 1)) for piece in pieces
    ]


def encode_prompt(
    messages: Sequence[Message], tools: Sequence[ToolDefinition], tokenizer: Tokenizer
) -> list[int]:
    """Return the ids that the server would let the model answer.

    Args:
        messages: Linked messages, as records have them.
        tools: What the assistant may call.
        tokenizer: Of the model that learns.

    Raises:
        InvalidRequest: The template cannot write it.
    """
    if tokenizer.version == "v1":
        return tokenizer.encode_chat(to_plain_turns(list(messages), tools))
    return tokenizer.encode_chat(
        split_text_from_calls(messages), tools=[tool.as_openai() for tool in tools]
    )


def encode_answer(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """Return the ids of one answer: its text or its calls, and ``</s>``.

    Args:
        messages: Assistant messages in a row, which the template joins.
        tokenizer: Of the model that learns.

    Raises:
        InvalidRequest: The template cannot write it.
    """
    if tokenizer.version == "v1":
        text = "\n\n".join(text_of(turn) for turn in to_plain_turns(messages, []))
        return [*tokenizer.encode(text, bos=False), tokenizer.eos_id]
    text = "\n\n".join(text for message in messages if (text := text_of(message)))
    calls = [call for message in messages for call in message.get("tool_calls") or []]
    if not calls:
        # The v3 template drops spaces at the end of an answer.
        return [*tokenizer.encode(text.rstrip(" "), bos=False), tokenizer.eos_id]
    if text or len(messages) > 1:
        raise InvalidRequest(
            "an answer has both text and tool calls, or calls in two messages; the v3 template can "
            "write one list of calls alone: leave out the text, or give the answer weight 0"
        )
    listed = calls_text(calls).removeprefix(f"{CALLS_MARKER} ")
    marker = marker_token_ids(tokenizer)
    return [*marker, *tokenizer.encode(listed, bos=False), tokenizer.eos_id]


def picture(example: Example, tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    """Return the text of an example in pieces that are learned or not, for people to look at.

    Control tokens show by name. A word at the beginning of a piece shows the space that the
    tokenizer puts before it.
    """
    pieces = []
    marked = zip(example.token_ids, example.loss_mask, strict=True)
    for is_learned, group in groupby(marked, key=lambda pair: pair[1]):
        shown = [
            tokenizer.decode_token(token_id).encode()
            if token_id in tokenizer.control_ids
            else tokenizer.token_bytes(token_id)
            for token_id, _ in group
        ]
        pieces.append((b"".join(shown).decode("utf-8", errors="replace"), is_learned))
    return pieces


def _only_grows(conversation: Conversation, tokenizer: Tokenizer) -> bool:
    """Tell whether each turn only adds to the tokens before it; no for some where it does, too."""
    roles = [message["role"] for message in conversation.messages]
    if tokenizer.version == "v3":
        return not conversation.tools and not {"system", "tool"} & set(roles)
    return "system" not in roles[roles.index("user") :] if "user" in roles else False


def _encode_at_once(conversation: Conversation, tokenizer: Tokenizer) -> Example:
    """Encode a conversation whose tokens only grow, in one call: some ten times as fast."""
    messages = conversation.messages
    *_, (begin, end) = _learned_turns(conversation)
    prompt = encode_prompt(messages[:begin], conversation.tools, tokenizer)
    token_ids = prompt + encode_answer(messages[begin:end], tokenizer)
    loss_mask = [False] * len(token_ids)
    # No text can spell </s>, so the answers are what ends there.
    stops = (i + 1 for i, token_id in enumerate(token_ids) if token_id == tokenizer.eos_id)
    for (begin, end), stop in zip(_turns(messages), stops, strict=False):
        if conversation.is_learned[begin]:
            answer = encode_answer(messages[begin:end], tokenizer)
            assert token_ids[stop - len(answer) : stop] == answer
            loss_mask[stop - len(answer) : stop] = [True] * len(answer)
    return Example(token_ids=token_ids, loss_mask=loss_mask)


def _learned_turns(conversation: Conversation) -> Iterator[tuple[int, int]]:
    return (turn for turn in _turns(conversation.messages) if conversation.is_learned[turn[0]])


def _turns(messages: Sequence[Message]) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each run of assistant messages, which the template joins to one."""
    end = 0
    for is_answer, group in groupby(messages, key=lambda message: message["role"] == "assistant"):
        begin, end = end, end + len(list(group))
        if is_answer:
            yield begin, end
