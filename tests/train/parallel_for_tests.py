"""What one process of a parallel run does in the tests, and how the tests start several.

The processes are forked from a server that has imported torch once, which is quicker than
``torchrun``; they find each other by the same variables.
"""

import json
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from mixtral.checkpoint import packed_config, quantized_tensors
from mixtral.errors import ConfigError, Error
from mixtral.model import TokenBatch, Transformer
from mixtral.model.lora import LoraSpec, add_lora, lora_adapter
from mixtral.model.low_bit_transformer import low_bit_transformer
from mixtral.model.router_trace import RouterRecorder
from mixtral.quantization import RECIPES
from mixtral.train.checkpointing import checkpoint_activations
from mixtral.train.data import TrainBatch
from mixtral.train.losses import linear_cross_entropy, load_balancing_loss, router_z_loss
from mixtral.train.parallel import ParallelContext
from mixtral.train.parallel_settings import ParallelSettings
from mixtral.train.sharded_state import ShardedState, adamw_tensors
from mixtral.train.shards import local_rows, local_shard, whole_adapter
from tests.models_for_tests import tiny_model
from tests.train.parallel_runs_for_tests import going_on_from_one, loaded, loading, stopped, trainer

GRAD_CLIP = 0.5
NUM_STEPS = 3


def trainable_model(**changes: object) -> Transformer:
    return tiny_model(**changes).requires_grad_(True).train()


def micro_batches(step: int) -> list[TrainBatch]:
    """Five micro-batches of different sizes, so small that some experts are idle."""
    generator = torch.Generator().manual_seed(step)
    micros = []
    for lengths in ([5, 2], [3], [7, 4, 1], [2], [6]):
        ids = [torch.randint(3, 500, (n,), generator=generator).tolist() for n in lengths]
        batch = TokenBatch.from_sequences(ids)
        targets = torch.randint(0, 512, (sum(lengths),), generator=generator)
        targets[::5] = -1
        micros.append(TrainBatch(batch=batch, targets=targets))
    return micros


def micro_loss(model: Transformer, micro: TrainBatch) -> tuple[torch.Tensor, dict[str, float]]:
    recorder = RouterRecorder()
    hidden = model(micro.batch, recorder=recorder)
    loss = linear_cross_entropy(hidden, model.lm_head.weight, micro.targets)
    balance = load_balancing_loss(recorder.router_logits, model.config.num_experts_per_tok)
    total = loss + 0.1 * balance + 1e-3 * router_z_loss(recorder.router_logits)
    return total, {"loss": float(loss.detach()), "balance": float(balance.detach())}


class Loop:
    """The training loop of the docstring of ``parallel.py``, as small as it can be."""

    def __init__(
        self,
        context: ParallelContext,
        model: Transformer,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        context.shard(model, dtype)
        self.context, self.model = context, model
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self.names, self.parameters = map(list, zip(*named, strict=True))
        self.shards = [local_shard(p).detach() for p in self.parameters]
        self.adamw = torch.optim.AdamW(self.shards, lr=1e-2, fused=True)

    def run(self, steps: range) -> list[dict[str, float]]:
        return [self.step(step) for step in steps]

    def step(self, step: int) -> dict[str, float]:
        sums = {"loss": 0.0, "balance": 0.0}
        micros = micro_batches(step)
        size = sum(micro.size for micro in micros)
        for index, scale in self.context.share(len(micros)):
            weight = scale * micros[index].size / size
            total, values = micro_loss(self.model, micros[index])
            (weight * total).backward()
            for name in sums:
                sums[name] += weight * values[name]
        norm = self.context.clip_gradients(self.parameters, GRAD_CLIP)
        for shard, parameter in zip(self.shards, self.parameters, strict=True):
            grad = parameter.grad
            shard.grad = torch.zeros_like(shard) if grad is None else local_shard(grad)
            parameter.grad = None
        self.adamw.step()
        return self.context.sum_values(sums) | {"norm": norm}

    def tensors(self) -> dict[str, torch.Tensor]:
        return adamw_tensors(self.names, self.parameters, self.shards, self.adamw)


def whole(context: ParallelContext, model: Transformer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in context.whole_tensors(model)}


def equal(context: ParallelContext, folder: Path) -> dict[str, Any]:
    """Train all weights, with activation checkpointing from the second step on."""
    model = trainable_model()
    num_parameters = sum(p.numel() for p in model.parameters())
    loop = Loop(context, model)
    log = loop.run(range(1))
    checkpoint_activations(model)
    log += loop.run(range(1, NUM_STEPS))
    own = sum(shard.numel() for shard in loop.shards)
    with torch.no_grad():  # leaves the root's weights gathered
        valid = float(micro_loss(model, micro_batches(0)[0])[0])
    weights = whole(context, model)
    if context.is_main:
        torch.save(weights, folder / "equal.pt")
    return {"log": log, "share": own / num_parameters, "valid": valid}


def tied(context: ParallelContext, folder: Path) -> dict[str, Any]:
    loop = Loop(context, trainable_model(tie_word_embeddings=True))
    embedding = loop.parameters[loop.names.index("model.embed_tokens.weight")]
    rows = local_rows(torch.arange(loop.model.config.vocab_size), embedding)
    assert len(rows) == len(local_shard(embedding))
    log = loop.run(range(NUM_STEPS))
    return {"log": log, "names": list(whole(context, loop.model)), "rows": rows.tolist()}


def bfloat16(context: ParallelContext, folder: Path) -> dict[str, Any]:
    """Take one step of a bfloat16 model; later ones would tell how masters are rounded."""
    loop = Loop(context, trainable_model().bfloat16(), torch.bfloat16)
    return {"log": loop.run(range(1)), "dtypes": sorted({str(s.dtype) for s in loop.shards})}


def lora(context: ParallelContext, folder: Path) -> dict[str, Any]:
    """Train adapters over a frozen base; the first is met by few tokens, in some passes by none."""
    return train_adapter(context, tiny_model().train())


def low_bit(context: ParallelContext, folder: Path) -> dict[str, Any]:
    """The same over a base in four bits."""
    plain = tiny_model()
    packed = quantized_tensors(plain.named_parameters(), plain.config, RECIPES["int4"])
    config = packed_config(plain.config)
    return train_adapter(context, low_bit_transformer(config, packed, torch.float32).train())


def train_adapter(context: ParallelContext, model: Transformer) -> dict[str, Any]:
    experts = [f"model.layers.0.block_sparse_moe.experts.0.w{i}" for i in (1, 2, 3)]
    others = ["model.layers.1.block_sparse_moe.gate", "model.layers.1.self_attn.q_proj"]
    add_lora(model, dict.fromkeys([*experts, *others], LoraSpec(rank=2, scale=2.0)))
    before = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    like = lora_adapter(model)
    log = Loop(context, model).run(range(NUM_STEPS))
    after = whole(context, model)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    trained = dict(context.whole_tensors(model, trained_only=True))
    assert len(trained) == len(after) - len(before)
    adapter = whole_adapter(trained, like)
    return {"log": log, "b": {name: m.b.tolist() for name, m in adapter.matrices.items()}}


def resume(context: ParallelContext, folder: Path) -> dict[str, Any]:
    """Save after two steps; go on, and go on from the state with other first weights."""
    state = ShardedState(folder / f"by_{context.world_size}", context)
    loop = Loop(context, trainable_model())
    loop.run(range(2))
    state.save(2, loop.tensors(), {"note": "two"})
    first = loop.run(range(2, 4))  # while the state is being written
    state.wait()
    return {"first": first, "second": resume_from(context, state.path)}


def resume_from(context: ParallelContext, path: Path) -> list[dict[str, float]]:
    loop = Loop(context, trainable_model(seed=1))
    assert ShardedState(path, context).load(loop.tensors()) == {"note": "two"}
    return loop.run(range(2, 4))


def resume_single(context: ParallelContext, folder: Path) -> Any:
    return resume_from(context, folder / "by_1")


def unpublished(context: ParallelContext, folder: Path) -> None:
    """Write a state whose name is taken."""
    states = ShardedState(folder / "states", context)
    if context.is_main:
        (folder / "states" / "1" / "in the way").mkdir(parents=True)
    states.save(1, Loop(context, trainable_model()).tensors(), {})
    states.wait()


def unshared(context: ParallelContext, folder: Path) -> dict[str, Any]:
    """Save and load as machines do that have no disk in common."""
    states = ShardedState(folder / f"machine {context.rank}", context)
    tensors = Loop(context, trainable_model()).tensors()
    told = []
    try:
        states.save(1, tensors, {})
    except ConfigError as error:
        told.append(str(error))
    if context.is_main:
        (states.path / "40").mkdir()
    try:
        states.load(tensors)
    except ConfigError as error:
        told.append(str(error))
    return {"told": told}


def differing(context: ParallelContext, folder: Path) -> None:
    context.require_same("the same", "the recipe")
    context.require_same(f"recipe {context.rank}", "the recipe")


def dying(context: ParallelContext, folder: Path) -> None:
    loop = Loop(context, trainable_model())
    loop.step(0)
    if context.rank == 1:
        os._exit(1)
    loop.step(1)


SCENARIOS: dict[str, Callable[[ParallelContext, Path], Any]] = {
    function.__name__: function
    for function in (
        equal,
        tied,
        bfloat16,
        lora,
        low_bit,
        resume,
        resume_single,
        trainer,
        stopped,
        loaded,
        loading,
        going_on_from_one,
        unpublished,
        unshared,
        differing,
        dying,
    )
}


def run_processes(
    names: Sequence[str],
    folder: Path,
    *,
    world_size: int = 2,
    expert_parallel: int = 1,
    may_die: bool = False,
) -> list[dict[str, Any]]:
    """Run scenarios in processes of their own; return what each wrote, {} for a dead one."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    method = multiprocessing.get_context("forkserver")
    method.set_forkserver_preload([__name__, "torch.distributed.fsdp"])
    processes: list[BaseProcess] = []
    for rank in range(world_size):
        variables = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(world_size),
            "RANK": str(rank),
        }
        arguments = (names, folder, expert_parallel, variables)
        processes.append(method.Process(target=_process, args=arguments, daemon=True))
        processes[-1].start()
    for process in processes:
        process.join(timeout=300)  # on a busy machine
        assert not process.is_alive(), "a process hangs"
    files = [folder / f"{rank}.json" for rank in range(world_size)]
    results = [json.loads(file.read_text()) if file.exists() else {} for file in files]
    assert may_die or all(results), "a process died"
    assert not any("bug" in result for result in results), results
    return results


def _process(
    names: Sequence[str], folder: Path, expert_parallel: int, variables: dict[str, str]
) -> None:
    os.environ.update(variables)
    torch.set_num_threads(1)
    settings = ParallelSettings(expert_parallel=expert_parallel, timeout_s=120)
    try:
        with ParallelContext.from_environment(settings) as context:
            result = {name: SCENARIOS[name](context, folder) for name in names}
    except Error as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    except Exception:
        result = {"bug": traceback.format_exc()}
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(result))
