"""One chat: what a line does, whether it is a message or a /command.

The session knows nothing of terminals: it takes lines, prints answers to standard output and
everything about them to standard error. Commands answer on standard output, too, so that a script
can read them.
"""

import dataclasses
import json
import math
import re
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mixtral.cli.console import error_line, note, require_text, write_text
from mixtral.cli.conversation import Conversation, Turn
from mixtral.cli.options import with_max_tokens
from mixtral.engine import SamplingParams
from mixtral.errors import ContextLengthExceeded, Error, InvalidRequest
from mixtral.llm import LLM

# They give several answers or print nothing in a chat, so setting them is refused, not ignored.
_NOT_IN_CHAT = ("n", "logprobs")
_MAX_ID_DIGITS = 20
# Values may hold spaces, so settings end where the next name begins.
_BEFORE_NAME = re.compile(r"\s+(?=[a-z_]+=)")

HELP: Mapping[str, str] = {
    "/system [TEXT]": 'show or set the system text; /system "" removes it',
    "/reset": "forget what was said; the system text stays",
    "/save FILE": "write the conversation as JSON messages",
    "/save! FILE": "the same, also over a file that is not from this chat",
    "/load FILE": "go on with a saved conversation",
    "/params [NAME=VALUE ...]": "show or set how answers are sampled",
    "/tokens": "show the token ids of the conversation and their number",
    "/help": "show this list",
    "/exit": "leave; so does Ctrl-D",
}
"""What a user can type beside messages."""


class ChatSession:
    """A model, a conversation, and the settings of its answers.

    Args:
        llm: The model.
        params: How answers are sampled.
        system: System text; empty for none.
        safe_prompt: Whether Mistral's guard-rail text goes first.
    """

    def __init__(
        self, llm: LLM, params: SamplingParams, *, system: str = "", safe_prompt: bool = False
    ) -> None:
        self.conversation = Conversation(system=system)
        self.params = params
        self._llm = llm
        self._safe_prompt = safe_prompt
        # Files whose conversation this chat has read or written, so it may write them again.
        self._own_files: set[Path] = set()
        # The command loads one adapter at most.
        self._adapter = next(iter(llm.requests.adapters), None)
        self._commands: dict[str, Callable[[str], None]] = {
            "/system": self._system,
            "/reset": self._reset,
            "/save": self._save,
            "/save!": partial(self._save, is_forced=True),
            "/load": self._load,
            "/params": self._params,
            "/tokens": self._tokens,
            "/help": self._help,
            # Without anything after it, it never comes here.
            "/exit": partial(_refuse_argument, "/exit"),
        }

    def handle(self, line: str) -> bool:
        """Do what a line says; return False when it ends the chat."""
        text = line.strip()
        if not text or not self._is_text(text):
            return True
        if text.startswith("//"):
            self.answer(text[1:])
        elif text.startswith("/"):
            if text == "/exit":
                return False
            name, *rest = text.split(maxsplit=1)
            self._run_command(name, "".join(rest))
        else:
            self.answer(line)
        return True

    def _is_text(self, line: str) -> bool:
        try:
            require_text("your line", line)
        except InvalidRequest as error:
            _complain(str(error))
            return False
        return True

    def answer(self, text: str) -> None:
        """Send a message and print the answer as it comes.

        A message that does not fit is not kept, which is said with numbers. Ctrl-C stops the
        answer; what was printed stays in the conversation.
        """
        messages = [*self.conversation.messages(), {"role": "user", "content": text}]
        pieces: list[str] = []
        first_at, usage, reason, stopped = math.nan, None, None, False
        try:
            for chunk in self._llm.stream_chat(
                messages,
                self._fitted_params(messages),
                self._safe_prompt,
                adapter=self._adapter,
            ):
                write_text(chunk.text)
                pieces.append(chunk.text)
                # The prompt is read before the first token; speed is that of the others.
                first_at = time.perf_counter() if usage is None else first_at
                usage, reason = chunk.usage, chunk.finish_reason
        except KeyboardInterrupt:
            stopped = True
        except Error as error:
            hint = " /reset starts over." if isinstance(error, ContextLengthExceeded) else ""
            _complain(f"{str(error).rstrip('.')}.{hint} Your message was not sent.")
            return
        write_text("\n")
        content = "".join(pieces)
        if not content:
            # The template has no empty answers, so neither has the conversation.
            why = "stopped before the answer began" if stopped else "the answer is empty"
            note(f"[{why}; your message is not kept in the conversation]")
            return
        # Both at once: a second Ctrl-C leaves no message without its answer.
        self.conversation.turns += [
            Turn(role="user", content=text),
            Turn(role="assistant", content=content, is_interrupted=stopped),
        ]
        if stopped:
            note("[answer stopped; what there is of it stays in the conversation]")
        if usage is not None:
            self._report(usage, reason, seconds=time.perf_counter() - first_at)

    def _fitted_params(self, messages: list[dict[str, str]]) -> SamplingParams:
        if self.params.max_tokens is not None:
            return self.params
        prompt = self._llm.encode_chat(messages, safe_prompt=self._safe_prompt)
        return with_max_tokens(self.params, room=self._llm.max_model_len - len(prompt))

    def _report(self, usage: Any, reason: str | None, *, seconds: float) -> None:
        context = self._llm.max_model_len
        if usage.total_tokens >= context:
            note(
                f"[the context is full: {usage.total_tokens} of {context} tokens; "
                "/reset starts over]"
            )
        if sys.stdout.isatty():
            if reason == "length" and usage.total_tokens < context:
                note("[the answer reached its limit; /params max_tokens=N sets another]")
            speed = (usage.completion_tokens - 1) / max(seconds, 1e-9)
            note(
                f"[{usage.prompt_tokens} + {usage.completion_tokens} tokens, "
                f"{speed:.1f} tokens/s; "
                f"{usage.total_tokens} of {context} in the context]"
            )

    def _run_command(self, name: str, argument: str) -> None:
        command = self._commands.get(name)
        if command is None:
            _complain(f"{name} is no command; /help lists them, //text sends a text with a slash.")
            return
        try:
            command(argument)
        except Error as error:
            _complain(str(error))
        except OSError as error:
            _complain(f"{argument}: {error.strerror or error}.")

    def _system(self, text: str) -> None:
        if not text:
            _say(self.conversation.system or "there is no system text.")
            return
        self.conversation.system = "" if text in ('""', "''") else text
        _say("system text set." if self.conversation.system else "system text removed.")

    def _reset(self, argument: str) -> None:
        _refuse_argument("/reset", argument)
        count = len(self.conversation.turns)
        self.conversation.turns.clear()
        _say(f"forgot {count} messages.")

    def _save(self, name: str, *, is_forced: bool = False) -> None:
        command = "/save!" if is_forced else "/save"
        path = _file(command, name)
        count = len(self.conversation.messages())
        if not count:
            raise InvalidRequest("the conversation is empty, so there is nothing to save.")
        if not is_forced and path.resolve() not in self._own_files and path.exists():
            raise InvalidRequest(
                f"{path} is there already, and is not from this chat; give another name, or "
                f"overwrite it with /save! {name}."
            )
        self.conversation.save(path)
        self._own_files.add(path.resolve())
        _say(f"saved {count} messages to {path}.")

    def _load(self, name: str) -> None:
        path = _file("/load", name)
        self.conversation = Conversation.load(path)
        self._own_files.add(path.resolve())
        _say(f"loaded {len(self.conversation.messages())} messages from {path}.")

    def _params(self, text: str) -> None:
        if text:
            changes = dict(_parse_setting(entry) for entry in _BEFORE_NAME.split(text))
            self.params = self.params.replace(**changes)
        for field in dataclasses.fields(self.params):
            if field.name not in _NOT_IN_CHAT:
                value = getattr(self.params, field.name)
                shown = list(value) if isinstance(value, tuple) else value
                _say(f"{field.name}={json.dumps(shown, ensure_ascii=False)}")

    def _tokens(self, argument: str) -> None:
        _refuse_argument("/tokens", argument)
        token_ids = self._token_ids()
        if token_ids:
            _say(" ".join(map(str, token_ids)))
        count = len(self.conversation.turns)
        _say(f"{len(token_ids)} of {self._llm.max_model_len} tokens in {count} messages.")

    def _token_ids(self) -> list[int]:
        """Return the ids of all that was said, an answer and its end token included."""
        turns, messages = self.conversation.turns, self.conversation.messages()
        if not turns:
            return []
        if turns[-1].role == "user":
            return self._llm.encode_chat(messages, safe_prompt=self._safe_prompt)
        tokenizer = self._llm.tokenizer
        token_ids = tokenizer.encode_chat(
            messages, safe_prompt=self._safe_prompt, continue_final_message=True
        )
        return [*token_ids, tokenizer.eos_id]

    def _help(self, argument: str) -> None:
        _refuse_argument("/help", argument)
        width = max(map(len, HELP))
        for name, meaning in HELP.items():
            _say(f"{name:{width}}  {meaning}")


def _say(text: str) -> None:
    write_text(text + "\n")


def _complain(text: str) -> None:
    print(error_line(text), file=sys.stderr)


def _refuse_argument(command: str, argument: str) -> None:
    if argument:
        raise InvalidRequest(f"{command} takes nothing after it, and got {argument!r}.")


def _file(command: str, name: str) -> Path:
    if not name:
        raise InvalidRequest(f"{command} needs the name of a file, such as {command} talk.json.")
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        raise InvalidRequest(f"{name}: {error}") from error
    if "\0" in name or not path.name:
        raise InvalidRequest(f"{name!r} is no name of a file.")
    return path


def _parse_setting(entry: str) -> tuple[str, Any]:
    """Read ``NAME=VALUE``; the value is JSON, or else a plain text."""
    name, equals, text = entry.partition("=")
    known = [f.name for f in dataclasses.fields(SamplingParams) if f.name not in _NOT_IN_CHAT]
    if not equals or name not in known:
        raise InvalidRequest(
            f"{entry!r} sets nothing; write NAME=VALUE with one of {', '.join(known)}."
        )
    if text.lower() in ("none", ""):
        return name, None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    if name != "logit_bias":
        return name, value
    if not isinstance(value, dict):
        raise InvalidRequest(f'logit_bias is {text!r}; it must be JSON such as {{"2": -100}}.')
    return name, {_token_id(key): bias for key, bias in value.items()}


def _token_id(key: str) -> int | str:
    # int() refuses thousands of digits; SamplingParams says what is wrong with a text.
    return int(key) if key.isdecimal() and len(key) < _MAX_ID_DIGITS else key
