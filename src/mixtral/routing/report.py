"""The routing report: one pass of a model over texts, and what its routers did.

The texts are grouped into domains. Each has sums of its own (``counts``); all together are their
sum.
Memory is that of the longest sequence and of these sums, however long the texts are.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mixtral.config import ModelConfig
from mixtral.errors import ConfigError
from mixtral.routing.counts import POSITION_STARTS, RouterCounts, visits_of
from mixtral.routing.routed_model import RoutedModel
from mixtral.routing.statistics import (
    LayerStatistics,
    group_loads,
    layer_statistics,
    mutual_information,
    random_same_any,
    random_same_first,
)
from mixtral.routing.token_kinds import TokenKind, kinds_of_vocabulary
from mixtral.routing.top_tokens import TokenVisits, TopToken
from mixtral.tokenizer import Tokenizer

TOP_TOKENS = 10
"""Tokens per expert in the report."""

Progress = Callable[[int], None]
"""Is told the tokens done so far."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Tokens of one kind, or at some positions, and the experts that they visited."""

    name: str
    """What the tokens have in common."""
    num_tokens: int
    """How many they are."""
    load: list[list[float]]
    """Load of each layer within the group, L lists of E."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainRouting:
    """How the texts of one domain were routed."""

    name: str
    """Name of the domain."""
    num_tokens: int
    """Tokens that the model ran, ``<s>`` of each sequence included."""
    layers: list[LayerStatistics]
    """L entries."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingReport:
    """Everything that one pass over the texts says about the routers of a model."""

    model: str
    """Name of the model."""
    num_layers: int
    """L."""
    num_experts: int
    """E."""
    num_experts_per_tok: int
    """A."""
    num_tokens: int
    """Tokens that the model ran, ``<s>`` of each sequence included."""
    num_distinct_tokens: int
    """Different token ids among them."""
    vocab_size: int
    """V."""
    random_same_first: float
    """``same_first`` if experts were drawn evenly."""
    random_same_any: float
    """``same_any`` if experts were drawn evenly."""
    layers: list[LayerStatistics]
    """Over all texts, L entries."""
    visits: list[list[int]]
    """Tokens that each expert computed, L lists of E."""
    domains: list[DomainRouting]
    """By text."""
    kinds: list[Group]
    """By kind of token, those that occur; empty for a model without tokenizer."""
    positions: list[Group]
    """By position in the sequence, those that occur."""
    information: Mapping[str, list[float]]
    """What domain, kind and position tell about the expert, in nats, L values each
    (``statistics.mutual_information``)."""
    top_tokens: list[list[list[TopToken]]]
    """Tokens that an expert gets remarkably often, L lists of E lists."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return asdict(self)


def measure_routing(
    routed: RoutedModel,
    texts: Mapping[str, Iterable[Sequence[int]]],
    tokenizer: Tokenizer | None = None,
    *,
    progress: Progress | None = None,
) -> RoutingReport:
    """Run a model over texts and report what its routers did.

    Args:
        routed: The model.
        texts: Sequences of token ids by domain; each sequence begins a context of its own.
        tokenizer: That of the model; without it there are no kinds of token, and no names.
        progress: Is told the tokens done, after each sequence.

    Raises:
        ConfigError: A sequence cannot be run, or a domain has fewer than two tokens.
    """
    config = routed.config
    kinds = None if tokenizer is None else kinds_of_vocabulary(tokenizer, config.vocab_size)
    tokens = TokenVisits(
        vocab_size=config.vocab_size,
        num_layers=config.num_hidden_layers,
        num_experts=config.num_local_experts,
    )
    by_domain: dict[str, RouterCounts] = {}
    done = 0
    for name, sequences in texts.items():
        counts = by_domain[name] = _empty_counts(config)
        for sequence in sequences:
            _add_sequence(routed, sequence, kinds, counts, tokens)
            if progress is not None:
                progress(done + counts.num_tokens)
        if counts.num_tokens < 2:
            raise ConfigError(f"text {name} is empty or shorter than 2 tokens; give a longer one.")
        done += counts.num_tokens
    if not by_domain:
        raise ConfigError("there is no text; give at least one.")
    return _report(routed, by_domain, tokens, tokenizer)


def _empty_counts(config: ModelConfig) -> RouterCounts:
    return RouterCounts(
        num_layers=config.num_hidden_layers,
        num_experts=config.num_local_experts,
        num_kinds=len(TokenKind),
    )


def _add_sequence(
    routed: RoutedModel,
    sequence: Sequence[int],
    kinds: Tensor | None,
    counts: RouterCounts,
    tokens: TokenVisits,
) -> None:
    trace = routed.route(sequence)
    ids = torch.tensor(sequence)
    counts.add(trace, torch.zeros_like(ids) if kinds is None else kinds[ids])
    tokens.add(sequence, visits_of(trace.expert_ids, num_experts=counts.visits.shape[1]))


def _report(
    routed: RoutedModel,
    by_domain: Mapping[str, RouterCounts],
    tokens: TokenVisits,
    tokenizer: Tokenizer | None,
) -> RoutingReport:
    config = routed.config
    total = _empty_counts(config)
    for counts in by_domain.values():
        total += counts
    information = {
        "domain": mutual_information(torch.stack([c.visits for c in by_domain.values()])),
        "position": mutual_information(total.position_visits),
    }
    if tokenizer is not None:
        information["kind"] = mutual_information(total.kind_visits)
    kind_names = [] if tokenizer is None else [kind.label for kind in TokenKind]
    return RoutingReport(
        model=routed.name,
        num_layers=config.num_hidden_layers,
        num_experts=config.num_local_experts,
        num_experts_per_tok=config.num_experts_per_tok,
        num_tokens=total.num_tokens,
        num_distinct_tokens=tokens.num_distinct,
        vocab_size=config.vocab_size,
        random_same_first=random_same_first(config.num_local_experts),
        random_same_any=random_same_any(config.num_local_experts, config.num_experts_per_tok),
        layers=layer_statistics(total),
        visits=total.visits.tolist(),
        domains=[
            DomainRouting(name=name, num_tokens=c.num_tokens, layers=layer_statistics(c))
            for name, c in by_domain.items()
        ],
        kinds=_groups(kind_names, total.kind_tokens, total.kind_visits),
        positions=_groups(_position_names(), total.position_tokens, total.position_visits),
        information=information,
        top_tokens=_top_tokens(tokens, config, tokenizer),
    )


def _groups(names: Sequence[str], tokens: Tensor, visits: Tensor) -> list[Group]:
    loads = group_loads(visits)
    return [
        Group(name=name, num_tokens=int(count), load=load)
        for name, count, load in zip(names, tokens[: len(names)], loads, strict=False)
        if count
    ]


def _position_names() -> list[str]:
    ends = [*(start - 1 for start in POSITION_STARTS[1:]), None]
    return [_range_name(start, end) for start, end in zip(POSITION_STARTS, ends, strict=True)]


def _range_name(start: int, end: int | None) -> str:
    if end is None:
        return f"{start:,} and up"
    return str(start) if start == end else f"{start:,} to {end:,}"


def _top_tokens(
    tokens: TokenVisits, config: ModelConfig, tokenizer: Tokenizer | None
) -> list[list[list[TopToken]]]:
    def name(token_id: int) -> str:
        if tokenizer is None or token_id >= tokenizer.vocab_size:
            return f"token {token_id}"
        return tokenizer.decode_token(token_id)

    layers = range(config.num_hidden_layers)
    return [tokens.top(layer, count=TOP_TOKENS, name=name) for layer in layers]
