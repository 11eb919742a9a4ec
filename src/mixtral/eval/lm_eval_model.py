"""lm-evaluation-harness asks, our engine answers: the three methods that make a model there.

Prompts, filters and metrics are the harness's. Texts become tokens as its own Hugging Face backend
does it (``lm_eval/models/huggingface.py`` of 0.4.13), so that the same model gets the same numbers:
``<s>`` before each text, spaces at the end of a context counted to the continuation, and what is
too long loses its beginning. How often that happened is counted per task; the harness does not say.

Every answer goes through an ``AnswerCache``, drawn ones too, each with a seed of its own.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import (
    get_rolling_token_windows,
    make_disjoint_window,
)

from mixtral.engine import SamplingParams
from mixtral.errors import ContextLengthExceeded, UnsupportedError
from mixtral.eval.answer_cache import AnswerCache, question_key
from mixtral.eval.completions import complete
from mixtral.eval.continuations import Continuation, ContinuationScore, score_continuations
from mixtral.llm import LLM
from mixtral.request import Request

Progress = Callable[[int, int], None]
"""Called with the number of answers that are there and of all that were asked for."""

_Asked = Sequence[tuple[str, Instance]]  # keys in the cache and questions
_Report = Callable[[int, dict[str, Any]], None]  # place among the questions, and the answer

# A conversation on its way through the harness, which knows texts alone.
_CHAT = "<|conversation|>"
_KNOWN_SETTINGS = {"do_sample", "until", "max_gen_toks", "temperature", "top_p", "top_k"}
_MAX_ANSWER_TOKENS = 256  # of a task that names no number, as in the Hugging Face backend


class EngineLM(TemplateLM):  # type: ignore[misc]
    """A loaded model as lm-evaluation-harness wants it.

    Args:
        llm: The model; nobody else may use it meanwhile.
        cache: Answers of earlier runs, to which new ones are added.
        batch: Questions that are in the engine at one time.
        seed: Seed of drawn answers; each gets another one that follows from it.
        adapter: Name of an adapter; None asks the model as it is.
        progress: Called as answers come.
    """

    def __init__(
        self,
        llm: LLM,
        *,
        cache: AnswerCache | None = None,
        batch: int = 256,
        seed: int = 0,
        adapter: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        super().__init__()
        self._llm = llm
        self._cache = AnswerCache() if cache is None else cache
        self._batch = batch
        self._seed = seed
        self._adapter = adapter
        self._progress = progress or (lambda done, total: None)
        self._cut: dict[str, set[int]] = {}

    @property
    def num_cut(self) -> Counter[str]:
        """By name of a task: questions that were too long, and lost the beginning of a prompt."""
        return Counter({task: len(questions) for task, questions in self._cut.items()})

    @property
    def eot_token_id(self) -> int:
        """Id of ``</s>``."""
        return self._llm.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """Id of ``<s>``, which stands before a continuation without a context."""
        return self._llm.tokenizer.bos_id

    @property
    def tokenizer_name(self) -> str:
        """Name of tokenizer and chat template."""
        return repr(self._llm.tokenizer)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Name the template; it is the tokenizer's own code and no text."""
        return self.tokenizer_name if chat_template else ""

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Return the ids of a text, ``<s>`` first unless told otherwise."""
        if string.startswith(_CHAT):
            return self._llm.encode_chat(json.loads(string.removeprefix(_CHAT)))
        return self._llm.tokenizer.encode(string, bos=add_special_tokens is not False)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return a conversation as a text that only this class takes apart again.

        The official template is made of token ids; no text becomes the same ids.
        """
        messages: list[dict[str, Any]] = [dict(message) for message in chat_history]
        if not add_generation_prompt:
            messages[-1]["prefix"] = True
        return _CHAT + json.dumps(messages)

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return log-probability and greediness of each continuation after its context."""
        values = self._answer("loglikelihood", requests, self._score_pairs)
        return [(value["logprob"], value["is_greedy"]) for value in values]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-probability of each whole text, in windows of the model's context."""
        values = self._answer("loglikelihood_rolling", requests, self._score_texts)
        return [value["logprob"] for value in values]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the answer to each prompt, up to the first of its stop strings."""
        values = self._answer("generate_until", requests, self._generate)
        return [value["text"] for value in values]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [Continuation(context_ids=c, target_ids=t) for _, c, t in requests]
        return [(score.logprob, score.is_greedy) for score in self._score(pairs)]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if not context.startswith(_CHAT):
            context_ids, target_ids = super()._encode_pair(context, continuation)
            return context_ids, target_ids
        messages = json.loads(context.removeprefix(_CHAT))
        context_ids = self._llm.encode_chat(messages)
        if not messages[-1].get("prefix"):
            return context_ids, self._llm.tokenizer.encode(continuation, bos=False)
        messages[-1]["content"] += continuation
        return context_ids, self._llm.encode_chat(messages)[len(context_ids) :]

    def _answer(
        self, kind: str, requests: Sequence[Instance], work: Callable[[_Asked, _Report], None]
    ) -> list[dict[str, Any]]:
        """Take answers from the cache, let the others be worked out, and count what was cut."""
        keys = self._keys(kind, requests)
        by_key = dict(zip(keys, requests, strict=True))
        asked = [(key, request) for key, request in by_key.items() if key not in self._cache]
        num_done = len(by_key) - len(asked)

        def report(place: int, value: dict[str, Any]) -> None:
            nonlocal num_done
            num_done += 1
            self._cache[asked[place][0]] = value
            self._progress(num_done, len(by_key))

        work(asked, report)
        values = [self._cache[key] for key in keys]
        for request, value in zip(requests, values, strict=True):
            if value["was_cut"]:
                self._cut.setdefault(str(request.task_name), set()).add(int(request.doc_id))
        return values

    def _keys(self, kind: str, requests: Sequence[Instance]) -> list[str]:
        seen: Counter[str] = Counter()
        keys = []
        for request in requests:
            key = question_key(kind, request.args)
            # The same prompt is drawn anew each time that it is asked.
            if kind == "generate_until" and _is_drawn(request.args[1]):
                seen[key] += 1
                key = question_key(key, seen[key], self._seed)
            keys.append(key)
        return keys

    def _score_pairs(self, asked: _Asked, report: _Report) -> None:
        pairs = []
        for context, continuation in (request.args for _, request in asked):
            if context:
                context_ids, target_ids = self._encode_pair(context, continuation)
            else:
                context_ids = [self.prefix_token_id]
                target_ids = self.tok_encode(continuation, add_special_tokens=False)
            pairs.append(Continuation(context_ids=context_ids, target_ids=target_ids))
        self._score(pairs, lambda place, score: report(place, _as_dict(score)))

    def _score_texts(self, asked: _Asked, report: _Report) -> None:
        """Score the windows of all texts together; a text is done when its last window is."""
        pairs: list[Continuation] = []
        texts: list[int] = []  # of each pair, the place of its text
        for place, (_, request) in enumerate(asked):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._llm.max_model_len,
                context_len=1,
            )
            for context, target in map(make_disjoint_window, windows):
                pairs.append(Continuation(context_ids=context, target_ids=target))
                texts.append(place)
        num_windows = Counter(texts)
        logprobs: dict[int, dict[int, float]] = {place: {} for place in num_windows}

        def note(number: int, score: ContinuationScore) -> None:
            of_text = logprobs[place := texts[number]]
            of_text[number] = score.logprob
            if len(of_text) == num_windows[place]:
                # In the order of the text: the order of a sum is in its last digits.
                logprob = sum(of_text[each] for each in sorted(of_text))
                report(place, {"logprob": logprob, "was_cut": False})

        self._score(pairs, note)

    def _score(
        self,
        pairs: Sequence[Continuation],
        report: Callable[[int, ContinuationScore], None] | None = None,
    ) -> list[ContinuationScore]:
        return score_continuations(
            self._llm, pairs, num_waiting=self._batch, adapter=self._adapter, report=report
        )

    def _generate(self, asked: _Asked, report: _Report) -> None:
        # Neighbours that begin alike share the work of their beginning.
        order = sorted(range(len(asked)), key=lambda place: asked[place][1].args[0])
        was_cut: list[bool] = []

        def requests() -> Iterator[Request]:
            for place in order:
                ids, params, is_cut = self._prompt(asked[place])
                was_cut.append(is_cut)
                yield self._llm.requests.completion(ids, params, adapter=self._adapter)

        for number, answer in complete(self._llm, requests(), num_waiting=self._batch):
            report(order[number], {"text": answer.text, "was_cut": was_cut[number]})

    def _prompt(self, asked: tuple[str, Instance]) -> tuple[list[int], SamplingParams, bool]:
        key, request = asked
        context, settings = request.args
        params = _sampling(settings, seed=int(key[:12], 16))
        assert params.max_tokens is not None
        room = self._llm.max_model_len - params.max_tokens
        if room < 1:
            raise ContextLengthExceeded(
                f"an answer may have {params.max_tokens} tokens; the context of this model is "
                f"{self._llm.max_model_len}. Leave this task out, or take a model with a longer "
                "context."
            )
        ids = self.tok_encode(context)
        return ids[-room:], params, len(ids) > room


def _as_dict(score: ContinuationScore) -> dict[str, Any]:
    return {
        "logprob": score.logprob,
        "is_greedy": score.is_greedy,
        "was_cut": score.was_cut,
    }


def _is_drawn(settings: Mapping[str, Any]) -> bool:
    kwargs = normalize_gen_kwargs(dict(settings), _MAX_ANSWER_TOKENS)
    return bool(kwargs["do_sample"]) and kwargs.get("temperature", 1.0) > 0


def _sampling(settings: Mapping[str, Any], *, seed: int) -> SamplingParams:
    kwargs = normalize_gen_kwargs(dict(settings), _MAX_ANSWER_TOKENS)
    if unknown := sorted(set(kwargs) - _KNOWN_SETTINGS):
        raise UnsupportedError(
            f"a task asks for {unknown[0]}={kwargs[unknown[0]]!r} when it generates; this program "
            f"knows {', '.join(sorted(_KNOWN_SETTINGS))}. Take the setting out of the task."
        )
    is_drawn = _is_drawn(settings)
    return SamplingParams(
        temperature=kwargs.get("temperature", 1.0) if is_drawn else 0.0,
        top_p=kwargs.get("top_p", 1.0) if is_drawn else 1.0,
        top_k=kwargs.get("top_k", 0) if is_drawn else 0,
        max_tokens=kwargs["max_gen_toks"],
        stop=[text for text in kwargs["until"] if text],
        seed=seed,
    )
