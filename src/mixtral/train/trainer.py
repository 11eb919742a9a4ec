"""The training loop: batch, forward, losses, backward, step.

``Trainer.run`` yields the numbers of each step, so a caller shows progress as it likes and may
stop at any point. All randomness is in the first weights and in the order of the token file;
a run that was killed and resumed gives the same losses as one that never stopped.
"""

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from mixtral.checkpoint import open_checkpoint, write_checkpoint
from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError, ConfigError
from mixtral.model import Transformer, init_weights
from mixtral.model.router_trace import RouterRecorder
from mixtral.train.data import TokenStream, TrainBatch
from mixtral.train.losses import (
    linear_cross_entropy,
    load_balancing_loss,
    router_z_loss,
)
from mixtral.train.optimizer import MasterAdamW
from mixtral.train.recipe import TrainRecipe
from mixtral.train.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMetrics:
    """Numbers of one optimizer step."""

    step: int
    """Index of the step, from 0."""
    loss: float
    """Next-token loss, nats per token."""
    load_balancing_loss: float
    """1 when all experts get the same load."""
    grad_norm: float
    """Norm of the gradient before clipping."""
    learning_rate: float
    """Rate of this step."""
    tokens_per_s: float
    """Training tokens per second of this step."""
    valid_loss: float | None
    """Loss on the held-out tokens, where this step measured it."""


class Trainer:
    """One training run.

    Args:
        recipe: All settings.

    Raises:
        ConfigError: The recipe or its data is wrong, or the folder holds another run.
        CheckpointError: The weights to start from, or the saved state, cannot be read.
    """

    def __init__(self, recipe: TrainRecipe) -> None:
        self.recipe = recipe
        self.config = self._model_config()
        dtype = getattr(torch, recipe.dtype)
        self.model = self._first_model().to(dtype).requires_grad_(True).train()
        self.optimizer = MasterAdamW(self.model, recipe)
        self._train_data = self._stream(recipe.train_tokens, recipe.train_mask)
        self._valid_data = self._stream(recipe.valid_tokens, recipe.valid_mask)
        self.folder = RunFolder(Path(recipe.output))
        self.next_step = self._resume()

    def run(self) -> Iterator[StepMetrics]:
        """Train to the last step, yielding the numbers of each; then write the model.

        The folder is locked until then; closing the iterator gives it back.

        Raises:
            CheckpointError: A state or the model cannot be written.
        """
        try:
            yield from self._steps()
            self.export(Path(self.recipe.output) / "model")
        finally:
            self.folder.close()

    def _steps(self) -> Iterator[StepMetrics]:
        recipe = self.recipe
        while self.next_step < recipe.max_steps:
            metrics = self._train_step(self.next_step)
            self.next_step += 1
            is_last = self.next_step == recipe.max_steps
            if metrics.step % recipe.log_every == 0 or metrics.valid_loss is not None:
                self.folder.append_log(dataclasses.asdict(metrics))
            if self.next_step % recipe.checkpoint_every == 0 or is_last:
                self._save()
            yield metrics

    def export(self, folder: Path) -> None:
        """Write the model as it is now in the Hugging Face layout; an older export is replaced.

        The older one is there until the new one is whole.
        """
        new, old = (folder.with_name(f"{folder.name}.{state}") for state in ("new", "old"))
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        write_checkpoint(
            new,
            self.config.replace(dtype="bfloat16"),
            ((name, p.detach().bfloat16()) for name, p in self.model.named_parameters()),
            layout="hf",
        )
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)

    def evaluate(self) -> float:
        """Return the mean next-token loss on the held-out tokens, nats per token."""
        self.model.eval()
        losses = []
        with torch.no_grad():
            for index in range(min(self.recipe.eval_steps, self._valid_data.num_steps)):
                data = self._valid_data.step(index)
                hidden = self.model(data.batch)
                losses.append(linear_cross_entropy(hidden, self.model.lm_head.weight, data.targets))
        self.model.train()
        return float(torch.stack(losses).mean())

    def _train_step(self, step: int) -> StepMetrics:
        recipe = self.recipe
        begin = time.perf_counter()
        self._train_data.max_seq_len = recipe.seq_len_at(step)
        data = self._train_data.step(step)
        loss, balance = self._backward(data)
        rate = recipe.learning_rate_at(step)
        norm = self.optimizer.step(rate)
        if not math.isfinite(loss):
            raise ConfigError(
                f"the loss is {loss} at step {step}; lower learning_rate, now {rate:.2g}."
            )
        seconds = time.perf_counter() - begin
        is_eval = (step + 1) % recipe.eval_every == 0 or step + 1 == recipe.max_steps
        return StepMetrics(
            step=step,
            loss=loss,
            load_balancing_loss=balance,
            grad_norm=norm,
            learning_rate=rate,
            tokens_per_s=recipe.tokens_per_step / seconds,
            valid_loss=self.evaluate() if is_eval else None,
        )

    def _backward(self, data: TrainBatch) -> tuple[float, float]:
        recorder = RouterRecorder()
        hidden = self.model(data.batch, recorder=recorder)
        loss = linear_cross_entropy(hidden, self.model.lm_head.weight, data.targets)
        total = loss
        balance = 1.0
        if not self.config.is_dense:
            logits = recorder.router_logits
            balancing = load_balancing_loss(logits, self.config.num_experts_per_tok)
            balance = float(balancing.detach())
            total = loss + self.recipe.load_balancing_coef * balancing
            total = total + self.recipe.z_loss_coef * router_z_loss(logits)
        total.backward()
        return float(loss.detach()), balance

    def _model_config(self) -> ModelConfig:
        if self.recipe.init_from:
            return open_checkpoint(Path(self.recipe.init_from)).config
        return ModelConfig.preset(self.recipe.model)

    def _first_model(self) -> Transformer:
        if self.recipe.init_from:
            tensors = open_checkpoint(Path(self.recipe.init_from)).tensors(dtype=torch.float32)
            return Transformer.from_tensors(self.config, ((n, t.clone()) for n, t in tensors))
        model = Transformer(self.config)
        init_weights(model, self.recipe.seed)
        return model

    def _stream(self, tokens: str, mask: str) -> TokenStream:
        return TokenStream(
            Path(tokens),
            tokens_per_step=self.recipe.tokens_per_step,
            max_seq_len=self.recipe.max_seq_len,
            vocab_size=self.config.vocab_size,
            mask_path=Path(mask) if mask else None,
        )

    def _identity(self) -> str:
        """The settings that must not change between a run and its resumption."""
        values = dataclasses.asdict(self.recipe)
        for name in ("output", "log_every", "checkpoint_every"):
            del values[name]
        return json.dumps(values, sort_keys=True)

    def _resume(self) -> int:
        state = self.folder.load_state()
        if state is None:
            self._require_no_model()
            return 0
        if state["recipe"] != self._identity():
            raise ConfigError(
                f"{self.folder.path} holds a run with other settings; "
                "name another output folder, or delete this one to start anew."
            )
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.folder.state_path} does not fit: {error}.") from error
        return int(state["step"])

    def _require_no_model(self) -> None:
        """Refuse to replace a model at the end of a run that did not make it."""
        model = self.folder.path / "model"
        if model.exists():
            raise ConfigError(
                f"{model} exists, and no state of its run is beside it; name another output, or "
                "move the model away."
            )

    def _save(self) -> None:
        state = {
            "step": self.next_step,
            "recipe": self._identity(),
            "optimizer": self.optimizer.state_dict(),
        }
        self.folder.save_state(state)
