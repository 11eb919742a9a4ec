"""Fields that several requests share.

A field that is absent and one that is null mean the same. A field of Mistral's or OpenAI's API that
is not supported is there with its harmless values alone; ``unsupported`` says why to who sets it.
Types are strict: "5" is no number and 1 no boolean. Unknown fields are refused. The description
under each field is what ``/docs`` shows.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_SEED = 2**63 - 1024
"""Largest seed: answer i of n uses seed + i, and the generator takes 63 bits."""

Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Stop = str | Annotated[list[str], Field(max_length=64, fail_fast=True)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True)]
Texts = Annotated[list[str], Field(fail_fast=True)]
Bias = Annotated[float, Field(ge=-100, le=100)]
TokenIdText = Annotated[str, Field(pattern="^[0-9]{1,9}$")]


class Fields(BaseModel):
    """Base of every request."""

    unsupported: ClassVar[Mapping[str, str]] = {}
    """Fields that take their harmless values alone, and why."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def as_sent(self) -> dict[str, Any]:
        """Return the fields that the client sent, without those that are null."""
        return self.model_dump(by_alias=True, exclude_unset=True, exclude_none=True)


class JsonSchemaFormat(Fields):
    """A JSON schema that the answer follows."""

    name: str | None = None
    """A name for it; has no effect."""
    description: str | None = None
    """What it is for; has no effect."""
    schema_: dict[str, Any] | bool = Field(alias="schema")
    """The schema. What cannot be enforced is refused by name."""
    strict: bool | None = None
    """Has no effect: the schema is always enforced."""


class ResponseFormat(Fields):
    """What the answer looks like."""

    type: Literal["text", "json_object", "json_schema", "regex", "choice"] = "text"
    """``regex`` and ``choice`` are ours."""
    json_schema: JsonSchemaFormat | None = None
    """For ``json_schema``."""
    regex: str | None = None
    """For ``regex``: a pattern that the whole answer matches."""
    choice: Annotated[list[str], Field(min_length=1, max_length=1024)] | None = None
    """For ``choice``: the answer is one of these."""

    def wire(self) -> dict[str, Any]:
        """Return it as it was sent, with its type."""
        return {"type": self.type, **self.as_sent()}

    @model_validator(mode="after")
    def _has_its_own_field(self) -> Self:
        for name in ("json_schema", "regex", "choice"):
            is_set = getattr(self, name) is not None
            if self.type == name and not is_set:
                raise ValueError(f"type {name} needs the field {name}")
            if self.type != name and is_set:
                raise ValueError(f"the field {name} goes with type {name}")
        return self


class StreamOptions(Fields):
    """OpenAI's options of a stream."""

    include_usage: bool | None = None
    """Send the usage in an extra last chunk with empty ``choices``, and not in the one before."""
    include_obfuscation: Literal[False] | None = None
    """OpenAI's padding of chunks; not offered, so false or null."""


class SamplingFields(Fields):
    """How tokens are chosen; all optional."""

    model: str
    """A name from ``GET /v1/models``."""
    temperature: Annotated[float, Field(ge=0, le=5)] | None = None
    """0 takes the likeliest token. Default 0.7."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Draw from the smallest set of tokens whose probabilities reach this sum. Default 1."""
    top_k: Count | None = None
    """Draw from this many likeliest tokens; 0, the default, takes all."""
    min_p: Probability | None = None
    """Drop tokens less likely than this share of the likeliest. Default 0."""
    max_tokens: Count | None = None
    """Longest answer in tokens; 0 reads the prompt and answers nothing."""
    min_tokens: Count | None = None
    """Tokens before the end token or a stop string may end the answer. Default 0."""
    stop: Stop | None = None
    """String or strings that end the answer; they are not part of it."""
    seed: Seed | None = None
    """Same seed, same tokens (OpenAI's name)."""
    random_seed: Seed | None = None
    """Same seed, same tokens (Mistral's name)."""
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    """Answers to make; the prompt is computed once. Default 1."""
    presence_penalty: Penalty | None = None
    """Subtracted from the logits of tokens already in the answer. Default 0."""
    frequency_penalty: Penalty | None = None
    """The same, once per occurrence. Default 0."""
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    """Divides positive logits of tokens so far, multiplies negative ones. Default 1."""
    logit_bias: dict[TokenIdText, Bias] | None = None
    """Added to the logits of tokens; token ids as strings."""
    ignore_eos: bool | None = None
    """Go on past the end token, for benchmarks. Default false."""
    stream: bool | None = None
    """Send the answer as server-sent events while it is made. Default false."""
    stream_options: StreamOptions | None = None
    """Only with ``stream``."""
    priority: Annotated[int, Field(ge=-100, le=100)] | None = None
    """Added to the priority of the API key; see docs/api.md. Default 0."""
    user: str | None = None
    """A note of the client; kept nowhere."""
    metadata: dict[str, Any] | None = None
    """A note of the client; kept nowhere."""
    safety_identifier: str | None = None
    """A note of the client; kept nowhere."""
    prompt_cache_key: str | None = None
    """A hint that has no effect: the prefix cache finds shared prompts by itself."""
