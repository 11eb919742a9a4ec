"""The training loop: batch, forward, losses, backward, step.

``Trainer.run`` yields the numbers of each step, so a caller shows progress as it likes and may
stop at any point. One loop serves all stages; what a stage learns is its ``Objective``. All
randomness is seeded by the step, so a run that was killed and resumed gives the same losses as
one that never stopped.
"""

import dataclasses
import json
import logging
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mixtral.errors import CheckpointError, ConfigError
from mixtral.loading import torch_device
from mixtral.model.lora import lora_adapter
from mixtral.model.moe import set_router_jitter
from mixtral.model.router_trace import RouterRecorder
from mixtral.train.checkpointing import checkpoint_activations
from mixtral.train.export import recover_result, write_result
from mixtral.train.first_model import make_model
from mixtral.train.flops import MatmulPeak, step_flops
from mixtral.train.freed_memory import keep_freed_memory
from mixtral.train.losses import load_balancing_loss, router_z_loss
from mixtral.train.objective import MicroBatch
from mixtral.train.objectives import Stage, make_objective
from mixtral.train.optimizer import MasterAdamW
from mixtral.train.out_of_memory import (
    told_of_evaluation,
    told_of_micro_batches,
    told_of_optimizer,
)
from mixtral.train.parallel import ParallelContext
from mixtral.train.recipe import TrainRecipe
from mixtral.train.reference import Progress
from mixtral.train.router_monitor import RouterMonitor
from mixtral.train.run_folder import STATE_FILE, RunFolder
from mixtral.train.run_identity import RunIdentity, settings_in_use, settings_of
from mixtral.train.shards import local_rows
from mixtral.train.step_metrics import StepMetrics
from mixtral.train.train_log import TrainLog

if TYPE_CHECKING:
    from mixtral.train.sharded_state import ShardedState

logger = logging.getLogger(__name__)


class Trainer:
    """One training run.

    Args:
        recipe: All settings.
        stage: What is learned.
        on_progress: Hears of long preparations.
        context: This process among the others; None where it is alone.

    Raises:
        ConfigError: The recipe or its data is wrong, or the folder holds another run.
        CheckpointError: The weights to start from, or the saved state, cannot be read.
        UnsupportedError: Weights do not fit into memory.
    """

    def __init__(
        self,
        recipe: TrainRecipe,
        stage: Stage = "pretrain",
        on_progress: Progress | None = None,
        context: ParallelContext | None = None,
    ) -> None:
        self.recipe = recipe
        self.stage = stage
        self.context = context or ParallelContext(torch_device(recipe.device))
        keep_freed_memory()
        self._in_use = settings_in_use(recipe, self.context)
        self._settings = json.dumps(settings_of(recipe, stage, self._in_use), sort_keys=True)
        self.context.require_same(self._settings, "the recipe")
        self._first = make_model(recipe, is_split=self.context.world_size > 1)
        self.model = self._first.model.train()
        self.config = self.model.config
        self.objective = make_objective(recipe, stage, self._first, self.context, on_progress)
        self.max_steps = recipe.num_steps(self.objective.num_steps)
        micros = self.objective.step(0)
        self.context.require_enough(len(micros))
        self._warn_of_settings()
        if recipe.activation_checkpointing:
            checkpoint_activations(self.model)
        # Names, scales and frozen matrices; of a split model the matrices would be shards.
        self._adapter = None
        if self._first.is_adapted:
            self._adapter = lora_adapter(
                self.model,
                base_model=self._first.source.name,
                base_digest=self._first.base_digest,
            )
        self._dtype = self.model.dtype  # of the computation; a split model is kept in float32
        self.context.shard(self.model, self._dtype)
        with told_of_micro_batches(micros):
            self.objective.prepare()
        self.context.reshard(self.model)
        with told_of_optimizer():
            self.optimizer = MasterAdamW(self.model, recipe, self.context)
        self._schedule = recipe.schedule(self.max_steps)
        learns_routing = any(
            ".gate." in name and p.requires_grad for name, p in self.model.named_parameters()
        )
        self._monitor = RouterMonitor(
            self.config.num_experts,
            starving_load=recipe.starving_load if learns_routing else 0.0,
        )
        self.best_loss = math.inf
        output = Path(recipe.output)
        # Each process locks a folder; the main one owns the files.
        rank = self.context.rank
        self.folder = RunFolder(output if self.context.is_main else output / f"process-{rank}")
        self._begun_state: int | None = None  # step of the newest state that was begun
        try:
            self._states = self._sharded_state(output / "states")
            self.next_step = self._resume()
        except BaseException:
            self.folder.close()
            raise

    def run(self) -> Generator[StepMetrics, None, None]:
        """Train to the last step, yielding the numbers of each; then write the model.

        The folder is locked until then; closing the iterator gives it back.

        Raises:
            CheckpointError: A state or the model cannot be written.
            ConfigError: Several processes do not share the output's folder.
            UnsupportedError: A step does not fit into memory.
        """
        log = TrainLog(
            self.folder,
            first_step=self.next_step,
            use_tensorboard=self.recipe.tensorboard and self.context.is_main,
        )
        try:
            with closing(self.folder), closing(log):
                yield from self._steps(log)
                self.wait()
                self.export(self.result)
        finally:
            if not self.context.is_main:
                self.folder.path.rmdir()  # it was only there to be locked

    def _steps(self, log: TrainLog) -> Iterator[StepMetrics]:
        recipe = self.recipe
        peak = MatmulPeak(self.model.device, self._dtype)
        while self.next_step < self.max_steps:
            metrics = self._train_step(self.next_step, peak.flops())
            self.next_step += 1
            is_last = self.next_step == self.max_steps
            if metrics.step % recipe.log_every == 0 or metrics.valid is not None or is_last:
                self._log(log, metrics)
            if metrics.valid_loss is not None and metrics.valid_loss < self.best_loss:
                self.best_loss = metrics.valid_loss
                if recipe.keep_best:
                    self.export(self.folder.path / "best")
            if self.next_step % recipe.checkpoint_every == 0 or is_last:
                self.save()
            yield metrics

    @property
    def result(self) -> Path:
        """Where the trained model goes."""
        return self.folder.path / ("adapter" if self._first.is_adapted else "model")

    def export(self, folder: Path) -> None:
        """Write the model as it is now; an older one is replaced once the new one is whole.

        Raises:
            CheckpointError: It cannot be written.
        """
        write_result(folder, self._first, self.context, self._adapter)

    def save(self) -> None:
        """Begin to write a state from which a later run goes on after the last finished step.

        Raises:
            CheckpointError: The disk has no room for it.
        """
        if self._begun_state == self.next_step:
            return  # a Ctrl-C in a step that is saved anyway asks a second time
        self._begun_state = self.next_step
        values = {
            "step": self.next_step,
            "recipe": self._settings,
            "best_loss": self.best_loss,
        }
        if self._states is not None:
            self._states.save(self.next_step, self.optimizer.tensors(), values)
        else:
            self.folder.save_state(values | {"optimizer": self.optimizer.state_dict()})

    def wait(self) -> None:
        """Return when the state that was begun is on disk; every process must call it.

        Raises:
            CheckpointError: It could not be written.
        """
        self.folder.wait()
        if self._states is not None:
            self._states.wait()

    @property
    def saved_step(self) -> int | None:
        """Step from which the newest state on disk goes on; None where there is none."""
        return self.folder.saved_step if self._states is None else self._states.newest_step

    def evaluate(self) -> Mapping[str, float]:
        """Return means over the held-out data, ``loss`` among them; empty where there is none."""
        self.model.eval()
        try:
            with told_of_evaluation():
                return self.objective.evaluate(self.model)
        finally:
            self.model.train()

    def _train_step(self, step: int, peak_flops: float) -> StepMetrics:
        recipe = self.recipe
        begin = time.perf_counter()
        micros = self.objective.step(step)
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), told_of_micro_batches(micros):
            means = self._backward(micros, step)
        rate = self._schedule.rate(step)
        self._require_finite("the loss", means["loss"], step)
        if recipe.embedding_rows == "seen":
            self._forget_unseen_rows(micros)
        with told_of_optimizer():
            norm = self.optimizer.step(rate)
        self._require_finite("the gradient's norm", norm, step)
        seconds = time.perf_counter() - begin
        num_tokens = sum(m.batch.input_ids.numel() for m in micros)
        is_full = not self._first.is_adapted
        flops = sum(
            step_flops(
                self.config,
                m.batch,
                num_targets=m.num_targets,
                num_words=self._num_words(m),
                is_full=is_full,
            )
            for m in micros
        )
        is_eval = (step + 1) % recipe.eval_every == 0 or step + 1 == self.max_steps
        valid = self.evaluate() or None if is_eval else None
        if valid is not None:
            self._require_finite("the held-out loss", valid["loss"], step)
        return StepMetrics(
            step=step,
            loss=means.pop("loss"),
            load_balancing_loss=means.pop("load_balancing_loss"),
            z_loss=means.pop("z_loss"),
            grad_norm=norm,
            learning_rate=rate,
            seconds=seconds,
            num_tokens=num_tokens,
            tokens_per_s=num_tokens / seconds,
            flops_use=flops / seconds / (peak_flops * self.context.world_size),
            extra=means,
            valid=valid,
        )

    def _num_words(self, micro: MicroBatch) -> int:
        """Return how many words each token that is learned is compared with."""
        sampled, vocab_size = self.recipe.sampled_words, self.config.vocab_size
        if not sampled:
            return vocab_size
        return min(vocab_size, sampled + len(micro.batch.input_ids.unique()))

    def _backward(self, micros: Sequence[MicroBatch], step: int) -> dict[str, float]:
        """Add up the gradients of a step and return its mean losses."""
        recipe = self.recipe
        size = max(1, sum(micro.size for micro in micros))
        tokens = sum(micro.batch.input_ids.numel() for micro in micros)
        means: dict[str, float] = {"load_balancing_loss": 0.0, "z_loss": 0.0}
        for index, scale in self.context.share(len(micros)):
            micro = micros[index]
            noise = ((recipe.seed * 1_000_003 + step) * 1_009 + index) % 2**63
            torch.manual_seed(noise)  # for dropout
            set_router_jitter(self.model, recipe.router_jitter, noise)
            recorder = RouterRecorder()
            loss, extra = self.objective.loss(self.model, micro, recorder)
            weight = scale * micro.size / size
            parts = {"loss": float(loss.detach()), **extra}
            for name, value in parts.items():
                means[name] = means.get(name, 0.0) + weight * value
            total = weight * loss
            if not self.config.is_dense:
                self._monitor.observe(recorder, scale)
                logits = recorder.router_logits
                balancing = load_balancing_loss(logits, self.config.num_experts_per_tok)
                z_loss = router_z_loss(logits)
                share = scale * micro.batch.input_ids.numel() / tokens
                means["load_balancing_loss"] += share * float(balancing.detach())
                means["z_loss"] += share * float(z_loss.detach())
                router = recipe.load_balancing_coef * balancing + recipe.z_loss_coef * z_loss
                total = total + share * router
            total.backward()
        return self.context.sum_values(means)

    def _forget_unseen_rows(self, micros: Sequence[MicroBatch]) -> None:
        """Clear the embedding's gradient where a token is neither read nor to be said."""
        grad = self.optimizer.gradient("model.embed_tokens.weight")
        if grad is None:
            return
        is_unseen = torch.ones(self.config.vocab_size, dtype=torch.bool)
        for micro in micros:
            is_unseen[micro.batch.input_ids.cpu()] = False
            is_unseen[micro.targets[micro.targets >= 0].cpu()] = False
        weight = self.model.model.embed_tokens.weight
        grad[local_rows(is_unseen.to(grad.device), weight)] = 0.0

    def _log(self, log: TrainLog, metrics: StepMetrics) -> None:
        record = dataclasses.asdict(metrics)
        record |= {"valid_loss": metrics.valid_loss, **record.pop("extra")}
        valid = record.pop("valid") or {}
        record |= {f"valid_{name}": value for name, value in valid.items()}
        summary = self._monitor.summarize(metrics.step, self.context)
        if summary is not None:
            record |= dataclasses.asdict(summary)
        if self.context.is_main:
            log.write(record)

    def _require_finite(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise ConfigError(
                f"{what} is {value} at step {step + 1}; lower learning_rate, now "
                f"{self._schedule.rate(step):.2g}, and start anew in another output folder."
            )

    def _warn_of_settings(self) -> None:
        """Tell of settings that are allowed and seldom meant."""
        recipe, positions = self.recipe, self.config.max_position_embeddings
        if self.max_steps < recipe.warmup_steps:
            logger.warning(
                "warmup_steps is %d and the run has %d steps: learning_rate is never reached",
                recipe.warmup_steps,
                self.max_steps,
            )
        if max(recipe.max_seq_len, recipe.long_seq_len) > positions:
            logger.warning(
                "max_seq_len is above the %d positions of the model: it is not served so far",
                positions,
            )

    def _resume(self) -> int:
        """Take up the state in the folder, if there is one, and return the step to go on from."""
        state = self.folder.load_state()
        if self._states is not None:
            with told_of_optimizer():
                state = self.optimizer.load_tensors(self._states)
        step = 0 if state is None else int(state["step"])
        if self.context.is_main:
            for folder in (self.folder.path / "best", self.result):
                recover_result(folder)
            start = self._first.source.folder
            identity = RunIdentity.of(self.recipe, self.stage, start, self._in_use)
            self.folder.claim(identity, None if state is None else state["recipe"])
            self.folder.drop_log_past(step)
        if state is None:
            return 0
        try:
            if self._states is None:
                with told_of_optimizer():
                    self.optimizer.load_state_dict(state["optimizer"])
            self.best_loss = float(state["best_loss"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.folder.state_path} does not fit: {error}.") from error
        return step

    def _sharded_state(self, path: Path) -> "ShardedState | None":
        """Return where several processes keep their states; one process goes on with theirs.

        Raises:
            ConfigError: One process has begun the run, and several are to go on.
        """
        if self.context.world_size == 1 and not path.is_dir():
            return None
        from mixtral.train.sharded_state import ShardedState

        states = ShardedState(path, self.context)
        if states.newest_step is None and (path.parent / STATE_FILE).exists():
            raise ConfigError(
                f"{path.parent} holds the state of one process, and there are "
                f"{self.context.world_size}; go on with one, or name another output."
            )
        return states
