"""One benchmark run from its options: load, gate, measure every size, report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mixtral.bench.contender import Contender, MixtralContender
from mixtral.bench.other_processes import OtherProcesses
from mixtral.bench.peer import TransformersContender, share_weights
from mixtral.bench.probes import Prober
from mixtral.bench.results import Ratio, Report, Result
from mixtral.bench.steps import Gate, Subject, Workload, check_agreement, measure, record_answer
from mixtral.errors import ConfigError
from mixtral.loading import find_or_download, load_model
from mixtral.model import Transformer

_GATE_ROOM = 64  # tokens that the prompt of the correctness gate and its answer may take


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOptions:
    """What to measure.

    Raises:
        ConfigError: A number is below 1.
    """

    work: Literal["prefill", "decode"]
    """Kind of work."""
    model: str
    """As the user named it."""
    layers: int | None = None
    """Layers, for random weights only."""
    dtype: str | None = None
    """Type of the weights; None keeps what is stored."""
    device: str = "cpu"
    """cpu, cuda or auto."""
    batches: Sequence[int] = (1,)
    """Sequences in a step; one result for each."""
    prompt_tokens: int = 512
    """Tokens of each prompt."""
    new_tokens: int = 32
    """Timed decode steps of a repeat."""
    threads: int | None = None
    """Threads of torch; None leaves them as they are."""
    repeats: int = 5
    """Timed repeats."""
    seed: int = 0
    """Seed of random weights and of the prompts."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        counts = {
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "repeats": self.repeats,
            "batch": min(self.batches, default=0),
            "threads": 1 if self.threads is None else self.threads,
        }
        for name, value in counts.items():
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")

    @property
    def max_tokens(self) -> int:
        """Most tokens of a sequence."""
        return self.prompt_tokens + 1 + (self.new_tokens if self.work == "decode" else 0)

    def workloads(self) -> list[Workload]:
        """Return one workload per batch size."""
        return [
            Workload(
                work=self.work,
                batch=batch,
                prompt_tokens=self.prompt_tokens,
                new_tokens=self.new_tokens,
            )
            for batch in self.batches
        ]


PeerFactory = Callable[[Transformer], Contender]


def measure_steps(
    options: StepOptions,
    *,
    make_peer: PeerFactory | None = None,
    prober: Prober | None = None,
    on_repeat: Callable[[], None] = lambda: None,
) -> Report:
    """Measure prefill or decode of one model at every batch size.

    Args:
        options: What to measure.
        make_peer: Makes the engine to compare with, from our model; None for no comparison.
        prober: Takes the ceilings; None makes one for the device.
        on_repeat: Called after each repeat of a contender.

    Raises:
        ConfigError: An option is wrong, or the context is too short for the tokens.
        CheckpointError: The model's files are wrong.
        UnsupportedError: The model does not fit, or the peer is not installed.
        EngineError: The peer disagrees with us; nothing was timed then.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    source = find_or_download(options.model, layers=options.layers)
    longest = source.config.max_position_embeddings
    if options.max_tokens > longest:
        raise ConfigError(
            f"prompt_tokens and new_tokens make {options.max_tokens} tokens; "
            f"the context of this model is {longest}."
        )
    model = load_model(source, dtype=options.dtype, device=options.device, seed=options.seed)
    subject = Subject.of(model, name=options.model, seed=options.seed)
    room = max(options.max_tokens, min(_GATE_ROOM, longest))
    ours = MixtralContender(model, max_batch=max(options.batches), max_tokens=room)
    contenders: list[Contender] = [ours]
    notes: dict[str, Any] = {"seed": options.seed, "repeats": options.repeats}
    if make_peer is not None:
        peer = make_peer(model)
        answer = record_answer(subject, ours, max_tokens=room)
        gate = check_agreement(answer, peer, subject.dtype)
        contenders.append(peer)
        notes["peer"] = describe_peer(peer, gate)
    prober = prober or Prober(model.lm_head.weight.device)
    others = OtherProcesses()
    results: list[Result] = []
    ratios: list[Ratio] = []
    for workload in options.workloads():
        found = measure(
            subject, workload, contenders, prober, repeats=options.repeats, on_repeat=on_repeat
        )
        results += found[0]
        ratios += found[1]
    notes["other_processes"] = others.share()
    return Report(results=results, ratios=ratios, notes=notes)


def transformers_peer(model: Transformer) -> TransformersContender:
    """Return transformers on the weights of our model, which both share from now on."""
    return TransformersContender(model.config, share_weights(model))


def describe_peer(peer: Contender, gate: Gate) -> dict[str, Any]:
    """Return what a report says about a peer: its version and how far it agrees."""
    described = peer.describe() if isinstance(peer, TransformersContender) else {}
    return {
        "name": peer.name,
        **described,
        "logits_relative_error": gate.relative_error,
        "agreeing_tokens": f"{gate.num_agreeing_tokens} of {gate.num_tokens}",
    }
