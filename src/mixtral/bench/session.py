"""One benchmark run from its options: load, gate, measure every size, report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mixtral.bench.collect import collect
from mixtral.bench.contender import Contender, MixtralContender, Room
from mixtral.bench.gate import (
    GATE_TOKENS,
    Answer,
    Gate,
    Peer,
    check_agreement,
    check_rounding,
    gate_prompt,
    record_answer,
)
from mixtral.bench.named_model import ModelOptions
from mixtral.bench.other_processes import OtherProcesses
from mixtral.bench.probes import Prober
from mixtral.bench.results import Report
from mixtral.bench.steps import Subject, Workload, measure
from mixtral.errors import ConfigError
from mixtral.model import LanguageModel


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOptions:
    """What to measure.

    Raises:
        ConfigError: There is nothing to measure, or a number is below 1.
    """

    workloads: Sequence[Workload]
    """The work; one result for each and each engine."""
    model: ModelOptions
    """The model."""
    repeats: int = 5
    """Timed repeats."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not self.workloads:
            raise ConfigError("there is no work to measure; name at least one batch size.")
        if self.repeats < 1:
            raise ConfigError(f"repeats is {self.repeats}; it must be at least 1.")

    def room(self, longest: int) -> Room:
        """Return what an engine must hold, the gate's prompt included.

        Args:
            longest: Context of the model.

        Raises:
            ConfigError: The context is too short for the work.
        """
        tokens = max(workload.max_tokens for workload in self.workloads)
        if tokens > longest:
            raise ConfigError(
                f"prompt_tokens and new_tokens make {tokens} tokens; "
                f"the context of this model is {longest}."
            )
        tokens = max(tokens, min(GATE_TOKENS, longest))
        slots = max(workload.batch * workload.max_tokens for workload in self.workloads)
        return Room(
            sequences=max(workload.batch for workload in self.workloads),
            tokens=tokens,
            slots=max(slots, tokens),
        )


PeerFactory = Callable[[LanguageModel, Room, Sequence[int]], tuple[LanguageModel, Peer]]
"""Makes a peer from our model, what it must hold and the prompt of the gate.

Also returns our model from now on: where both share the weights, it lies in the peer's memory.
"""


def measure_steps(
    options: StepOptions,
    *,
    peers: Sequence[PeerFactory] = (),
    prober: Prober | None = None,
    on_repeat: Callable[[], None] = lambda: None,
) -> Report:
    """Measure one model, and peers on the same weights, at every size.

    After Ctrl-C or a failure the report has the sizes that were whole by then.

    Args:
        options: What to measure.
        peers: Make the engines to compare with.
        prober: Takes the ceilings; None makes one for the device.
        on_repeat: Called after each repeat of a contender.

    Raises:
        ConfigError: An option is wrong, or the context is too short for the tokens.
        CheckpointError: The model's files are wrong.
        UnsupportedError: The model does not fit, or a peer is not installed.
        EngineError: A peer disagrees with us; nothing was timed then.
        KeyboardInterrupt: At Ctrl-C, before the first size was whole.
    """
    source = options.model.find()
    room = options.room(source.config.max_position_embeddings)
    model, format_name = options.model.load(source)
    seed = options.model.seed
    notes: dict[str, Any] = {"seed": seed, "repeats": options.repeats}
    prompt = gate_prompt(vocab_size=model.config.vocab_size, max_tokens=room.tokens, seed=seed)
    found_peers = []
    for make_peer in peers:
        model, peer = make_peer(model, room, prompt)
        found_peers.append(peer)
    ours = MixtralContender(model, room, format_name=format_name)
    if found_peers:
        answer = record_answer(ours, prompt)
        notes["peers"] = [_pass_gate(answer, peer) for peer in found_peers]
    contenders = [ours, *(peer.contender for peer in found_peers)]
    prober = prober or Prober(model.device)
    others = OtherProcesses()
    subject = Subject.of(model, name=options.model.name, seed=seed)
    done = collect(
        measure(subject, work, contenders, prober, repeats=options.repeats, on_repeat=on_repeat)
        for work in options.workloads
    )
    notes["other_processes"] = others.share()
    return Report(
        results=[result for results, _ in done.found for result in results],
        ratios=[ratio for _, ratios in done.found for ratio in ratios],
        notes=notes,
        is_cut=done.is_cut,
        failure=done.failure,
    )


def describe_peer(
    contender: Contender, gate: Gate, *, rounding_correlation: float | None = None
) -> dict[str, Any]:
    """Return what a report says about a peer: its version and how far it agrees.

    Args:
        contender: The peer.
        gate: How far it agrees, with us or with its reference.
        rounding_correlation: What ``check_rounding`` returned; None without a reference.
    """
    described: dict[str, Any] = {
        "name": contender.name,
        "format": contender.weights.format,
        **contender.describe(),
        "logits_relative_error": gate.relative_error,
        "allowed_relative_error": gate.tolerance,
        "agreeing_tokens": f"{gate.num_agreeing_tokens} of {gate.num_tokens}",
    }
    if rounding_correlation is not None:
        described["rounding_correlation"] = rounding_correlation
    return described


def _pass_gate(answer: Answer, peer: Peer) -> dict[str, Any]:
    """Check a peer against our answer, or its reference, and describe it."""
    if peer.reference is None:
        return describe_peer(peer.contender, check_agreement(answer, peer.contender))
    correlation = check_rounding(answer, peer.reference)
    gate = check_agreement(peer.reference, peer.contender)
    return describe_peer(peer.contender, gate, rounding_correlation=correlation)
