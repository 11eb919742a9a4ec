"""Options that several commands share, and how a command takes them in groups.

The help of every sampling option is the string under the field of ``SamplingParams``, read from
its source. A command writes one parameter per group, and ``grouped_options`` unfolds it:

    @app.command()
    @grouped_options
    def generate(model: ModelOptions, sampling: SamplingOptions) -> None: ...
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from mixtral.cli.console import spinner
from mixtral.cli.fields import read_fields
from mixtral.errors import InvalidRequest
from mixtral.model_source import is_hub_id
from mixtral.quantization import RECIPES

if TYPE_CHECKING:
    from mixtral.engine import SamplingParams
    from mixtral.llm import LLM

DEFAULT_MAX_TOKENS = 256
"""Length of an answer where --max-tokens is not given."""

_SAMPLING = read_fields("engine/sampling_params.py", "SamplingParams")
_DTYPES = ("float32", "bfloat16", "float16")


def _model_option(*names: str, help: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Model")


def sampling_option(field: str, *, metavar: str | None = None, show_default: str = "") -> Any:
    """Return a typer option whose help is the string under a field of ``SamplingParams``."""
    return typer.Option(
        "--" + field.replace("_", "-"),
        help=_SAMPLING[field].doc,
        metavar=metavar,
        show_default=show_default or True,
        rich_help_panel="Sampling",
    )


ModelOption = Annotated[
    str,
    _model_option(
        "--model",
        "-m",
        help="nano, a folder, a .gguf file, a hub id, or random:8x7b for random weights.",
    ),
]
LayersOption = Annotated[
    int | None, _model_option("--layers", help="Number of layers, for random weights only.")
]
DTypeOption = Annotated[
    str | None,
    _model_option("--dtype", help=f"{', '.join(_DTYPES)}; without it, what is stored."),
]
QuantizationOption = Annotated[
    str | None,
    _model_option(
        "--quantization",
        "-q",
        help=f"{', '.join(RECIPES)}: pack the weights while they are read; without it, as stored.",
    ),
]
AdapterOption = Annotated[
    str | None,
    _model_option("--adapter", help="Folder of a LoRA adapter in PEFT's format, for every answer."),
]
DeviceOption = Annotated[
    str, _model_option("--device", help="cpu, cuda, or auto: cuda where there is one.")
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOptions:
    """Which model, and how it is held in memory."""

    model: ModelOption = "nano"
    layers: LayersOption = None
    dtype: DTypeOption = None
    quantization: QuantizationOption = None
    exact_activations: Annotated[
        bool,
        _model_option(
            "--exact-activations",
            help="Low-bit weights meet states of 16 bits instead of 8: slower prompts.",
        ),
    ] = False
    device: DeviceOption = "auto"
    max_model_len: Annotated[
        int | None,
        _model_option(
            "--max-model-len", help="Longest context in tokens; without it, the model's own."
        ),
    ] = None
    tokenizer: Annotated[
        str | None,
        _model_option(
            "--tokenizer", help="v1, v3, or a tokenizer file; without it, the one of the model."
        ),
    ] = None
    kv_cache_gb: Annotated[
        float | None,
        _model_option("--kv-cache-gb", help="Size of the KV cache; without it, as memory allows."),
    ] = None
    kv_cache_dtype: Annotated[
        str | None,
        _model_option(
            "--kv-cache-dtype", help="int8 halves the memory of the context; without it, bfloat16."
        ),
    ] = None
    weights_seed: Annotated[
        int, _model_option("--weights-seed", help="Seed of random weights.")
    ] = 0

    def load(
        self,
        *,
        max_num_seqs: int = 1,
        max_num_batched_tokens: int | None = None,
        enable_prefix_cache: bool = True,
        num_speculative_tokens: int = 0,
        count_experts: bool = False,
        adapters: Mapping[str, str] | None = None,
    ) -> "LLM":
        """Load the model, with a sign of life on standard error while that takes.

        Args:
            max_num_seqs: Answers made at the same time.
            max_num_batched_tokens: Most tokens in one step; None takes what is fastest.
            enable_prefix_cache: Whether later prompts find what earlier ones computed.
            num_speculative_tokens: Tokens to guess per step; 0 guesses nothing.
            count_experts: Whether to count the visits of each expert.
            adapters: Folders of adapters by name.
        """
        name = self.model
        with spinner("starting"):
            from mixtral.checkpoint import resolve_model_path
            from mixtral.llm import LLM
        if is_hub_id(name):
            # Before the spinner: the download shows a bar of its own.
            name = str(resolve_model_path(name, progress=True))
        with spinner(f"loading {self.model}"):
            return LLM(
                name,
                dtype=self.dtype,
                quantization=self.quantization,
                exact_activations=self.exact_activations,
                device=self.device,
                max_model_len=self.max_model_len,
                layers=self.layers,
                seed=self.weights_seed,
                tokenizer=self.tokenizer,
                kv_cache_gb=self.kv_cache_gb,
                kv_cache_dtype=self.kv_cache_dtype,
                max_num_seqs=max_num_seqs,
                max_num_batched_tokens=max_num_batched_tokens,
                enable_prefix_cache=enable_prefix_cache,
                num_speculative_tokens=num_speculative_tokens,
                count_experts=count_experts,
                adapters=adapters,
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingOptions:
    """How the next token is chosen and when to stop: the fields of ``SamplingParams``."""

    temperature: Annotated[float, sampling_option("temperature")] = _SAMPLING["temperature"].value
    top_p: Annotated[float, sampling_option("top_p")] = _SAMPLING["top_p"].value
    top_k: Annotated[int, sampling_option("top_k")] = _SAMPLING["top_k"].value
    min_p: Annotated[float, sampling_option("min_p")] = _SAMPLING["min_p"].value
    max_tokens: Annotated[
        int | None,
        sampling_option("max_tokens", show_default=f"{DEFAULT_MAX_TOKENS} if the context has room"),
    ] = None
    min_tokens: Annotated[int, sampling_option("min_tokens")] = _SAMPLING["min_tokens"].value
    stop: Annotated[list[str] | None, sampling_option("stop", metavar="TEXT")] = None
    seed: Annotated[int | None, sampling_option("seed")] = None
    presence_penalty: Annotated[float, sampling_option("presence_penalty")] = _SAMPLING[
        "presence_penalty"
    ].value
    frequency_penalty: Annotated[float, sampling_option("frequency_penalty")] = _SAMPLING[
        "frequency_penalty"
    ].value
    repetition_penalty: Annotated[float, sampling_option("repetition_penalty")] = _SAMPLING[
        "repetition_penalty"
    ].value
    logit_bias: Annotated[list[str] | None, sampling_option("logit_bias", metavar="ID=VALUE")] = (
        None
    )
    ignore_eos: Annotated[bool, sampling_option("ignore_eos")] = False

    def params(self, *, n: int = 1, logprobs: int | None = None) -> "SamplingParams":
        """Return the checked settings; ``max_tokens`` stays None where it was not given.

        Raises:
            InvalidRequest: A value is outside its range.
        """
        from mixtral.engine import SamplingParams

        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["stop"] = tuple(self.stop or ())
        values["logit_bias"] = parse_logit_bias(self.logit_bias or [])
        return SamplingParams(n=n, logprobs=logprobs, **values)


def named_adapter(folder: str | None) -> dict[str, str]:
    """Return the one adapter of a command as ``LLM`` takes it, named like its folder."""
    return {} if folder is None else {Path(folder).name or folder: folder}


def parse_logit_bias(entries: list[str]) -> dict[int, float]:
    """Read ``ID=VALUE`` entries.

    Raises:
        InvalidRequest: An entry is something else, or an id comes twice.

    >>> parse_logit_bias(["2=-100"])
    {2: -100.0}
    """
    biases: dict[int, float] = {}
    for entry in entries:
        token_id, _, value = entry.partition("=")
        try:
            key, bias = int(token_id), float(value)
        except ValueError:
            raise InvalidRequest(
                f"logit_bias is {entry!r}; it must be ID=VALUE with numbers, such as 2=-100."
            ) from None
        if key in biases:
            raise InvalidRequest(f"logit_bias names the token id {key} twice; once is enough.")
        biases[key] = bias
    return biases


def with_max_tokens(params: "SamplingParams", *, room: int) -> "SamplingParams":
    """Return settings with the default length of an answer, where none was asked for.

    Args:
        params: Settings; with ``max_tokens`` they are returned as they are.
        room: Tokens that the context has left; where it is less than the default, it decides.
    """
    if params.max_tokens is not None:
        return params
    wanted = max(DEFAULT_MAX_TOKENS, params.min_tokens)
    return params.replace(max_tokens=wanted if wanted <= room else None)


def grouped_options(command: Callable[..., None]) -> Callable[..., None]:
    """Unfold each parameter that is a dataclass of options into one option per field."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if not dataclasses.is_dataclass(kind):
            own = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=kind)
            parameters.append(own)
            continue
        groups[name] = kind
        field_hints = get_type_hints(kind, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=field_hints[field.name],
            )
            for field in dataclasses.fields(kind)
        ]

    @functools.wraps(command)
    def unfolded(**values: Any) -> None:
        for name, kind in groups.items():
            names = [field.name for field in dataclasses.fields(kind)]
            values[name] = kind(**{field: values.pop(field) for field in names})
        command(**values)

    signature = inspect.Signature(parameters)
    unfolded.__signature__ = signature  # type: ignore[attr-defined]
    unfolded.__annotations__ = {p.name: p.annotation for p in parameters}
    return unfolded
