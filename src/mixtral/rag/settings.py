"""How a collection cuts documents and finds passages.

What shapes the stored chunks is kept in the collection, so that opening it again needs no settings;
limits and the permission to download belong to the caller and are not kept.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from mixtral.errors import ConfigError
from mixtral.rag.limits import Limits
from mixtral.validation import require_int

Fusion = Literal["weights", "ranks"]


class _Given:
    """Remembers which fields were named: one named at its default is not one left out."""

    __slots__ = ("given",)
    given: frozenset[str]

    def __new__(cls, **fields: Any) -> Self:
        made = super().__new__(cls)
        object.__setattr__(made, "given", frozenset(fields))
        return made


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectionSettings(_Given):
    """Settings of a collection; checked when made. ``given`` has the names of the fields named.

    Raises:
        ConfigError: A field is outside its allowed values, or two disagree.
    """

    chunk_tokens: int = 192
    """Longest chunk in tokens of the embedding model. all-MiniLM-L6-v2 reads 256, of which some go
    to the heading; four passages of 192 leave room for an answer in a context of 2,048."""
    overlap_tokens: int = 32
    """Tokens at the end of a chunk that the next one repeats: about a sentence."""
    chunk_characters: int | None = None
    """Cut plain windows of so many characters, without looking at structure; 512 is what Mistral's
    guide to retrieval does. Left out, structure and tokens decide."""
    overlap_characters: int = 0
    """Characters that two windows share; only with ``chunk_characters``."""
    stemming: bool = True
    """Whether keywords are reduced to their English stems. Fixed when the collection is made."""
    fusion: Fusion = "weights"
    """How similarity and keywords are joined: by weighted scores, or by reciprocal ranks."""
    keyword_weight: float = 0.1
    """Share of the keyword score in ``weights``, from 0 to 1; 0 searches by similarity alone."""
    diversity: float = 0.1
    """From 0 (the best passages, whatever they repeat) to 1 (as different as can be)."""
    num_candidates: int = 50
    """Passages that each of the two indexes proposes."""
    exact_up_to: int = 100_000
    """Chunks that are compared one by one with a question; a larger collection is searched through
    an inverted file, which misses a few (see ``vector_index``)."""
    allow_urls: bool = False
    """Whether ``add`` may download."""
    allow_private_urls: bool = False
    """Whether it may do so from addresses inside this machine or network."""
    limits: Limits = field(default_factory=Limits)
    """What a document may cost."""

    def __post_init__(self) -> None:
        """Check each field, then the fields against each other."""
        require_int("chunk_tokens", self.chunk_tokens, low=16, high=8192)
        require_int("overlap_tokens", self.overlap_tokens, low=0, high=self.chunk_tokens // 2)
        if self.chunk_characters is not None:
            require_int("chunk_characters", self.chunk_characters, low=16, high=100_000)
        require_int(
            "overlap_characters",
            self.overlap_characters,
            low=0,
            high=(self.chunk_characters or 0) // 2,
        )
        if self.chunk_characters is not None:
            for name, default in _IN_TOKENS.items():
                if (value := getattr(self, name)) != default:
                    raise ConfigError(
                        f"{name} is {value} and chunk_characters {self.chunk_characters}; chunks "
                        "are cut by tokens or by characters, so leave one out."
                    )
        require_int("num_candidates", self.num_candidates, low=1, high=1000)
        require_int("exact_up_to", self.exact_up_to, low=0)
        if self.fusion not in ("weights", "ranks"):
            raise ConfigError(f"fusion is {self.fusion!r}; it must be weights or ranks.")
        for name in ("keyword_weight", "diversity"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value!r}; it must be a number from 0 to 1.")

    @property
    def chunking(self) -> str:
        """What the cut of a document depends on, as one line of text."""
        if self.chunk_characters is not None:
            return f"characters={self.chunk_characters} overlap={self.overlap_characters}"
        return f"tokens={self.chunk_tokens} overlap={self.overlap_tokens}"

    def over(self, kept: Self) -> Self:
        """Return what holds for a collection that was made with the settings ``kept``.

        What shapes chunks is the collection's own; the others are the caller's where given.

        Raises:
            ConfigError: A given field would shape chunks otherwise than those that are there.
        """
        said = {name: getattr(self, name) for name in self.given}
        for name in _SHAPING:
            if name not in said:
                continue
            in_characters = kept.chunk_characters and "chunk_characters" not in said
            own = "chunk_characters" if name in _IN_TOKENS and in_characters else name
            if own != name or said[name] != getattr(kept, name):
                raise ConfigError(
                    f"{name} is {said[name]}, and this collection was made with "
                    f"{'' if own == name else own + ' '}{getattr(kept, own)}; leave it out, or "
                    "call reindex with new settings."
                )
        return dataclasses.replace(kept, **said)

    def cut_anew(self, **chunks: int) -> Self:
        """Return these settings with other chunks; a size in tokens ends one in characters.

        Args:
            chunks: Fields about chunks that are to change.

        Raises:
            ConfigError: A value is outside its range, or both kinds of sizes are there.
        """
        changed: dict[str, Any] = {}
        if _IN_TOKENS.keys() & chunks.keys():
            changed = {"chunk_characters": None, "overlap_characters": 0}
        elif "chunk_characters" in chunks:
            changed = dict(_IN_TOKENS)
        changed.update(chunks)
        return dataclasses.replace(self, **changed)

    def to_json(self) -> str:
        """Return the fields that a collection keeps."""
        kept = [f.name for f in dataclasses.fields(self) if f.name not in _NOT_KEPT]
        return json.dumps({name: getattr(self, name) for name in kept})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the settings that a collection kept, with the caller's own fields at default.

        Raises:
            ConfigError: The text is not one that this version wrote.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            if fields["chunk_characters"] is not None:
                fields.update(_IN_TOKENS)  # Some were made with both, and cut by characters.
            return cls(**fields)
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"the collection has settings of another version: {error}") from error


_NOT_KEPT = ("allow_urls", "allow_private_urls", "limits")
_SHAPING = (
    "chunk_tokens",
    "overlap_tokens",
    "chunk_characters",
    "overlap_characters",
    "stemming",
)
_IN_TOKENS = {
    one.name: one.default
    for one in dataclasses.fields(CollectionSettings)
    if one.name in ("chunk_tokens", "overlap_tokens")
}
"""The sizes that mean nothing beside ``chunk_characters``, and their defaults."""
