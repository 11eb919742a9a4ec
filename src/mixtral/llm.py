"""Text in, text out: a model with its tokenizer and an engine, for use from Python.

    >>> from mixtral import LLM, SamplingParams                          # doctest: +SKIP
    >>> llm = LLM("nano")                                                # doctest: +SKIP
    >>> llm.chat([{"role": "user", "content": "Hello"}]).text            # doctest: +SKIP

``LLM`` blocks until the answer is there, or hands it out piece by piece (``stream``,
``stream_chat``). It is not safe to use one from several threads at once.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mixtral.adapters import load_adapters
from mixtral.cache_plan import plan_cache
from mixtral.config import EngineConfig, ModelConfig
from mixtral.engine import Engine, SamplingParams
from mixtral.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    TokenizerError,
    UnsupportedError,
)
from mixtral.generation import Generation
from mixtral.loading import find_or_download, load_model, mapped_bytes
from mixtral.model import RouterTrace
from mixtral.model_tokenizer import find_tokenizer_or_why
from mixtral.outputs import ChatCompletion, Completion, CompletionChunk
from mixtral.request import Message, Prompt, Request, RequestBuilder
from mixtral.tokenizer import Tokenizer


class LLM:
    """A Mixtral, ready to answer.

    Args:
        model: ``nano``, ``random:8x7b``, a local folder, or a hub id.
        dtype: float32, bfloat16 or float16; None keeps what is stored.
        quantization: int8, int4 or int3 packs the weights as they are read; None leaves them as
            they are stored, packed ones included.
        exact_activations: Whether low-bit weights meet token states of 16 bits instead of 8; slower
            on long prompts. States that 8 bits would serve badly get 16 either way. Only for
            low-bit weights.
        device: cpu, cuda, or auto.
        max_model_len: Longest context in tokens; None takes the model's own.
        layers: Number of layers, for random weights only.
        seed: Seed of random weights; of others it must be 0.
        tokenizer: ``v1``, ``v3``, or a tokenizer file; None looks beside the weights.
        kv_cache_gb: Size of the KV cache in GB; None fits it to the free memory.
        kv_cache_dtype: int8 halves the memory of the context, where bfloat16 or low-bit weights
            run on a CPU; None is bfloat16 there, and the dtype of the weights elsewhere.
        max_num_seqs: Most answers in one step.
        max_num_batched_tokens: Most tokens in one step; longer prompts run in chunks. None takes
            what is fastest for the model and device.
        enable_prefix_cache: Whether prompts that begin alike share memory and work, also after the
            first has ended.
        num_speculative_tokens: Tokens guessed from the text so far and checked in one step, while
            few answers run; 0 guesses nothing. Answers stay the same.
        count_experts: Whether to count the visits of each expert, for ``AsyncLLM.stats``.
        adapters: Folders of LoRA adapters in PEFT's format by name; each request may name one. They
            stay beside the weights, whatever these are packed as. One that was trained on other
            weights gets a warning.

    Raises:
        ConfigError: An argument is wrong, or no such model exists.
        CheckpointError: A file of the model or of an adapter is missing or wrong, or an adapter is
            for another geometry.
        TokenizerError: The tokenizer's files are wrong.
        UnsupportedError: The device is not there, or the model does not fit.
    """

    def __init__(
        self,
        model: str | Path = "nano",
        *,
        dtype: str | None = None,
        quantization: str | None = None,
        exact_activations: bool = False,
        device: str = "auto",
        max_model_len: int | None = None,
        layers: int | None = None,
        seed: int = 0,
        tokenizer: str | Path | None = None,
        kv_cache_gb: float | None = None,
        kv_cache_dtype: str | None = None,
        max_num_seqs: int = 64,
        max_num_batched_tokens: int | None = None,
        enable_prefix_cache: bool = True,
        num_speculative_tokens: int = 0,
        count_experts: bool = False,
        adapters: Mapping[str, str | Path] | None = None,
    ) -> None:
        source = find_or_download(model, layers=layers)
        found = find_tokenizer_or_why(source, tokenizer)
        # Before the weights, which may take minutes.
        loaded = load_adapters(adapters or {}, source)
        self._model = load_model(
            source,
            dtype=dtype,
            quantization=quantization,
            device=device,
            seed=seed,
            exact=exact_activations,
            kv_dtype=kv_cache_dtype,
        )
        self.config: ModelConfig = self._model.config
        self._model.set_adapters(list(loaded.values()))
        plan = plan_cache(
            self._model,
            max_model_len=max_model_len,
            kv_cache_gb=kv_cache_gb,
            max_num_seqs=max_num_seqs,
            unread_bytes=mapped_bytes(source, self._model),
        )
        self.max_model_len = plan.max_model_len
        engine_config = EngineConfig(
            num_blocks=plan.num_blocks,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens or self._model.max_step_tokens,
            enable_prefix_cache=enable_prefix_cache,
            num_speculative_tokens=num_speculative_tokens,
            count_experts=count_experts,
        )
        self._engine = Engine(self._model, engine_config, max_model_len=plan.max_model_len)
        self.requests = RequestBuilder(
            found, vocab_size=self.config.vocab_size, adapters=list(loaded)
        )
        """Builds requests for this model, see ``request.RequestBuilder``."""
        self._generation = Generation(
            self._engine, None if isinstance(found, TokenizerError) else found
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model.

        Raises:
            TokenizerError: The model has none.
        """
        return self.requests.tokenizer

    @property
    def weight_format(self) -> str:
        """How the weights are stored: a float dtype, or int8, int4 or int3 of packed experts."""
        return self._model.weight_format

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights as they are held."""
        return self._model.weight_bytes

    @property
    def engine(self) -> Engine:
        """The engine, for ``AsyncLLM``; whoever steps it must be the only one."""
        return self._engine

    def encode_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        safe_prompt: bool = False,
    ) -> list[int]:
        """Return the token ids of a conversation in the official template of the tokenizer.

        Args:
            messages: Role and content of each turn, as in the Mistral and OpenAI APIs.
            tools: Functions that the model may call.
            safe_prompt: Whether to put Mistral's guard-rail text first.

        Raises:
            InvalidRequest: The conversation does not follow the template's rules.
        """
        return self.tokenizer.encode_chat(messages, tools=tools, safe_prompt=safe_prompt)

    def logits(self, token_ids: Sequence[int], *, adapter: str | None = None) -> Tensor:
        """Return next-token logits after every token, from one forward pass.

        Args:
            token_ids: T ids; nothing is added to them.
            adapter: Name of an adapter; None asks the model as it is.

        Returns:
            [T, V], float32, on the CPU.

        Raises:
            InvalidRequest: There is no token, one is not in the vocabulary, or there is no such
                adapter.
            ContextLengthExceeded: There are more tokens than the context holds.
        """
        place = self.requests.find_adapter(adapter)
        return self._model.whole_logits(self._checked_ids(token_ids), place).cpu()

    def route(self, token_ids: Sequence[int], *, adapter: str | None = None) -> RouterTrace:
        """Return which experts each token visits in each layer.

        Args:
            token_ids: T ids; nothing is added to them.
            adapter: Name of an adapter; None asks the model as it is.

        Returns:
            Expert ids and weights [T, L, A] and router logits [T, L, E].

        Raises:
            InvalidRequest: There is no token, one is not in the vocabulary, or there is no such
                adapter.
            UnsupportedError: The model is dense and has no router.
        """
        if self.config.is_dense:
            raise UnsupportedError("this model is dense; it has no router to report on.")
        place = self.requests.find_adapter(adapter)
        return self._model.route(self._checked_ids(token_ids), place)

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[Sequence[int]],
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
    ) -> list[Completion]:
        """Continue each prompt; together, the answers are the same as one by one.

        Args:
            prompts: One text, texts, or lists of token ids. A text gets a <s> before it.
            params: How to choose tokens and when to stop.
            adapter: Name of an adapter; None asks the model as it is.

        Returns:
            ``params.n`` completions per prompt, in the order of the prompts.

        Raises:
            InvalidRequest: A prompt is empty or has a wrong type, or there is no such adapter.
            ContextLengthExceeded: A prompt and its answer do not fit into the context.
        """
        params = _checked(params)
        build = self.requests.completion
        listed = [build(prompt, params, adapter=adapter) for prompt in _listed(prompts)]
        return [*self.answer(listed)]

    def answer(self, requests: Sequence[Request]) -> list[ChatCompletion]:
        """Answer requests that ``self.requests`` built, together.

        Returns:
            ``params.n`` answers per request, in the order of the requests.

        Raises:
            InvalidRequest: A prompt has an unknown token id.
            ContextLengthExceeded: A prompt and its answer do not fit into the context.
        """
        answers = self._generation.start(requests)
        self._generation.finish(answers)
        return [answer.completion() for answer in answers.values()]

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
    ) -> Generator[CompletionChunk, None, None]:
        """Continue one prompt, yielding text as it comes; stopping early frees all memory.

        Raises:
            InvalidRequest: The prompt is wrong, or ``params.n`` is not 1.
            ContextLengthExceeded: Prompt and answer do not fit into the context.
        """
        params = _single(params)
        # Errors of the request come now; the tokens come when the caller asks for them.
        request = self.requests.completion(prompt, params, adapter=adapter)
        return self._generation.stream(self._generation.start([request]))

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] = "auto",
        response_format: Mapping[str, Any] | None = None,
        safe_prompt: bool = False,
        parallel_tool_calls: bool = True,
        *,
        adapter: str | None = None,
    ) -> ChatCompletion:
        """Answer the last message of a conversation.

        Args:
            messages: Role and content of each turn; a last assistant message with ``prefix`` true
                is continued.
            params: How to choose tokens and when to stop; ``n`` must be 1.
            tools: Functions that the model may call, in OpenAI's spelling.
            tool_choice: auto, none, any (or required), or the function to call.
            response_format: text, json_object, json_schema, regex or choice; docs/structured.md.
            safe_prompt: Whether to put Mistral's guard-rail text first.
            parallel_tool_calls: Whether one answer may hold several calls.
            adapter: Name of an adapter; None asks the model as it is.

        Raises:
            InvalidRequest: The conversation does not follow the template's rules, a tool or the
                format is wrong, or there is no such adapter.
            ContextLengthExceeded: Conversation and answer do not fit into the context.
        """
        request = self.requests.chat(
            messages,
            _single(params),
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            response_format=response_format,
            safe_prompt=safe_prompt,
            adapter=adapter,
        )
        return self.answer([request])[0]

    def stream_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        safe_prompt: bool = False,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] = "auto",
        response_format: Mapping[str, Any] | None = None,
        parallel_tool_calls: bool = True,
        adapter: str | None = None,
    ) -> Generator[CompletionChunk, None, None]:
        """As ``chat``, yielding text as it comes; stopping early frees all memory.

        Raises:
            InvalidRequest: The conversation is wrong, or ``params.n`` is not 1.
            ContextLengthExceeded: Conversation and answer do not fit into the context.
        """
        request = self.requests.chat(
            messages,
            _single(params),
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            response_format=response_format,
            safe_prompt=safe_prompt,
            adapter=adapter,
        )
        return self._generation.stream(self._generation.start([request]))

    def _checked_ids(self, token_ids: Sequence[int]) -> list[int]:
        ids = self._engine.check_prompt(self.requests.encode_prompt(token_ids))
        if len(ids) > self.max_model_len:
            raise ContextLengthExceeded(
                f"there are {len(ids)} tokens; the context of this model is {self.max_model_len}."
            )
        return ids


def _listed(prompts: str | Iterable[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    if not isinstance(prompts, Iterable) or isinstance(prompts, (bytes, Mapping)):
        raise InvalidRequest(
            f"prompts is a {type(prompts).__name__}; it must be a text, a list of texts, or a "
            "list of lists of token ids."
        )
    return list(prompts)


def _checked(params: SamplingParams | None) -> SamplingParams:
    if params is None:
        return SamplingParams()
    if not isinstance(params, SamplingParams):
        raise InvalidRequest(
            f"params is a {type(params).__name__}; it must be SamplingParams, such as "
            "SamplingParams(max_tokens=64)."
        )
    return params


def _single(params: SamplingParams | None) -> SamplingParams:
    params = _checked(params)
    if params.n != 1:
        raise InvalidRequest(f"n is {params.n}; a chat or a stream gives one answer: n must be 1.")
    return params
