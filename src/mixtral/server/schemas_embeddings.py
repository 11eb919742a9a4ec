"""Fields of ``/v1/embeddings``."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from mixtral.server.schemas import Fields, Texts, TokenIds

MAX_INPUTS = 2048
"""Inputs of one request, as many as OpenAI's API takes."""


class EmbeddingRequest(Fields):
    """Texts to be turned into vectors."""

    unsupported: ClassVar[Mapping[str, str]] = {
        "output_dtype": "vectors are float32; quantise them where they are stored.",
    }

    model: str
    """A name from ``GET /v1/models``."""
    input: (
        str
        | Annotated[Texts, Field(min_length=1, max_length=MAX_INPUTS)]
        | Annotated[TokenIds, Field(min_length=1)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]
    )
    """A text, texts, token ids of the embedding model's own tokenizer, or lists of them."""
    encoding_format: Literal["float", "base64"] | None = None
    """base64 is that of little-endian float32. Default float."""
    output_dimension: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Components to keep (Mistral's name). Default all."""
    dimensions: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Components to keep (OpenAI's name)."""
    output_dtype: Literal["float"] | None = None
    """Not supported but for ``float`` or null."""
    user: str | None = None
    """A note of the client; kept nowhere."""
    metadata: dict[str, Any] | None = None
    """A note of the client; kept nowhere."""
