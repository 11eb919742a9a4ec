"""What a stage of training learns, apart from the loop that learns it.

``Trainer`` knows steps, gradients and files; an objective knows data and loss. Pre-training and
supervised fine-tuning share one objective, the next token, over data of different kinds;
preference training (``dpo.py``) is the other.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from mixtral.model import Transformer
from mixtral.model.batch import TokenBatch
from mixtral.model.router_trace import RouterRecorder
from mixtral.train.data import TrainBatch
from mixtral.train.losses import linear_cross_entropy
from mixtral.train.sampled_loss import sampled_cross_entropy


class MicroBatch(Protocol):
    """What one forward and backward pass takes."""

    @property
    def batch(self) -> TokenBatch:
        """T tokens of S sequences."""

    @property
    def targets(self) -> Tensor:
        """Next token where it is learned, else -1, [T], int64."""

    @property
    def size(self) -> int:
        """What the loss is a mean over: counted tokens, or preference pairs."""

    @property
    def num_targets(self) -> int:
        """Tokens whose logits are made."""


class Objective(Protocol):
    """Data and loss of a stage."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps in one pass over the data, at least 1."""

    def prepare(self) -> None:
        """Do what takes the model as it is before its first step; every process must call it."""

    def step(self, index: int) -> Sequence[MicroBatch]:
        """Return the micro-batches of an optimizer step, which depend on nothing but its index."""

    def loss(
        self, model: Transformer, micro: MicroBatch, recorder: RouterRecorder | None
    ) -> tuple[Tensor, Mapping[str, float]]:
        """Return the mean loss of a micro-batch with its graph, and other means for the log."""

    def evaluate(self, model: Transformer) -> Mapping[str, float]:
        """Return means over the held-out data, ``loss`` among them."""


class TokenSource(Protocol):
    """Batches of tokens to predict, by step."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps in one pass over the data."""

    def step(self, index: int) -> Sequence[TrainBatch]:
        """Return the micro-batches of a step; past the end the data begins anew."""


class NextToken:
    """Predict each counted token from those before it.

    Args:
        train: What is learned.
        valid: What is only measured; None measures nothing.
        eval_steps: Steps of ``valid`` in one measurement.
        sampled_words: Words that training compares with beside a step's own; 0 compares with all.
    """

    def __init__(
        self,
        train: TokenSource,
        valid: TokenSource | None,
        *,
        eval_steps: int,
        sampled_words: int = 0,
    ) -> None:
        self._train = train
        self._valid = valid
        self._eval_steps = eval_steps
        self._sampled_words = sampled_words

    @property
    def num_steps(self) -> int:
        """Optimizer steps in one pass over the training data."""
        return self._train.num_steps

    def prepare(self) -> None:
        """Do nothing: only the data is needed."""

    def step(self, index: int) -> Sequence[TrainBatch]:
        """Return the micro-batches of an optimizer step."""
        return self._train.step(index)

    def loss(
        self, model: Transformer, micro: MicroBatch, recorder: RouterRecorder | None
    ) -> tuple[Tensor, Mapping[str, float]]:
        """Return the mean next-token loss of a micro-batch, nats per counted token."""
        assert isinstance(micro, TrainBatch)
        micro = micro.to(model.device)
        hidden = model(micro.batch, recorder=recorder)
        head = model.lm_head.weight
        if self._sampled_words and model.training:
            words = micro.batch.input_ids
            loss = sampled_cross_entropy(hidden, head, micro.targets, words, self._sampled_words)
            return loss, {}
        return linear_cross_entropy(hidden, head, micro.targets), {}

    @torch.no_grad()
    def evaluate(self, model: Transformer) -> Mapping[str, float]:
        """Return the mean next-token loss of the held-out tokens, nats per counted token."""
        if self._valid is None:
            return {}
        total, count = 0.0, 0
        for index in range(min(self._eval_steps, self._valid.num_steps)):
            for micro in self._valid.step(index):
                loss, _ = self.loss(model, micro, None)
                total += float(loss) * micro.size
                count += micro.size
        return {"loss": total / max(count, 1)}
