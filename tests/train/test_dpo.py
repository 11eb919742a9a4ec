"""Preference training: packing, the loss of a model, evaluation, and the reference's scores."""

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mixtral.checkpoint import write_checkpoint
from mixtral.errors import CheckpointError, ConfigError
from mixtral.model import TokenBatch, Transformer
from mixtral.model.router_trace import RouterRecorder
from mixtral.train.chat_data import Example
from mixtral.train.dpo import EncodedPair, PairSet, PreferenceObjective, deal
from mixtral.train.dpo_settings import DpoSettings
from mixtral.train.log_probs import TokenScorer, frozen_scorer
from mixtral.train.losses import load_balancing_loss
from mixtral.train.reference_cache import add_reference, digest_weights
from tests.models_for_tests import tiny_model

CPU = torch.device("cpu")


def example(prompt: Sequence[int], answer: Sequence[int]) -> Example:
    return Example(
        token_ids=[*prompt, *answer], loss_mask=[False] * len(prompt) + [True] * len(answer)
    )


def pair(prompt: Sequence[int], chosen: Sequence[int], rejected: Sequence[int]) -> EncodedPair:
    return EncodedPair(chosen=example(prompt, chosen), rejected=example(prompt, rejected))


def random_pairs(count: int, seed: int = 0) -> list[EncodedPair]:
    rng = random.Random(seed)

    def words(low: int, high: int) -> list[int]:
        return [rng.randrange(3, 512) for _ in range(rng.randint(low, high))]

    return [pair([1, *words(2, 9)], [*words(1, 6), 2], [*words(1, 6), 2]) for _ in range(count)]


def objective(
    pairs: PairSet, held_out: PairSet | None = None, *, limit: int = 10_000, **changes: Any
) -> PreferenceObjective:
    """Return an objective; ``reference`` and ``seed`` go to it, the rest to settings."""
    names = ("reference", "seed")
    own = {name: changes.pop(name) for name in names if name in changes}
    settings = DpoSettings(**({"pairs_per_step": len(pairs)} | changes))
    own = {"reference": frozen_scorer(tiny_model(seed=1)), "seed": 0} | own
    return PreferenceObjective(pairs, held_out, settings=settings, micro_batch_tokens=limit, **own)


def test_pair_becomes_two_sequences_whose_answers_are_the_targets() -> None:
    micro = PairSet([pair([1, 5, 6], [7, 2], [8, 9, 2])]).batch([0])
    assert micro.batch.input_ids.tolist() == [1, 5, 6, 7, 1, 5, 6, 8, 9]
    assert micro.batch.positions.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4]
    assert list(micro.batch.starts) == [0, 4, 9]
    assert micro.targets.tolist() == [-1, -1, 7, 2, -1, -1, 8, 9, 2]
    assert (micro.size, micro.num_targets) == (1, 5)


def test_each_pass_takes_every_pair_once_and_in_another_order() -> None:
    pairs = PairSet(random_pairs(10))
    source = objective(pairs, pairs_per_step=4)
    assert source.num_steps == 3
    steps = [[i for micro in source.step(k) for i in micro.pair_ids] for k in range(5)]
    assert all(len(step) == 4 for step in steps)
    assert sorted(steps[0] + steps[1] + steps[2] + steps[3] + steps[4]) == sorted([*range(10)] * 2)
    assert set(steps[0] + steps[1]) | set(steps[2]) == set(range(10))
    again = objective(pairs, pairs_per_step=4)
    assert [i for micro in again.step(3) for i in micro.pair_ids] == steps[3]
    other_seed = objective(pairs, pairs_per_step=4, seed=1)
    assert [i for micro in other_seed.step(0) for i in micro.pair_ids] != steps[0]
    halves = objective(pairs, pairs_per_step=5)
    first, second = (set(halves.step(k)[0].pair_ids) for k in (0, 2))  # of two passes
    assert first != second


def test_micro_batches_are_one_step_within_the_limit() -> None:
    pairs = PairSet(random_pairs(16))
    limit = 70
    micros = objective(pairs, limit=limit, pairs_per_step=8).step(1)
    assert len(micros) > 1
    assert all(0 < micro.batch.starts[-1] <= limit for micro in micros)
    whole = objective(pairs, pairs_per_step=8).step(1)
    assert len(whole) == 1
    assert sorted(i for micro in micros for i in micro.pair_ids) == sorted(whole[0].pair_ids)


def test_dealing_fills_groups_evenly_and_leaves_none_empty() -> None:
    rng = random.Random(0)
    for _ in range(200):
        sizes = [rng.randint(1, 100) for _ in range(rng.randint(1, 36))]
        groups = deal(sizes, limit=100)
        assert sorted(item for group in groups for item in group) == list(range(len(sizes)))
        assert all(0 < sum(sizes[item] for item in group) <= 100 for group in groups)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "there is no preference pair"),
        ([pair([1, 5], [6], [7]), pair([1, 5], [6], [])], "pair 1 .* no token in its rejected"),
        ([pair([1, 5], [6], [6])], "pair 0 .* the same answer twice"),
    ],
)
def test_pairs_that_teach_nothing_are_refused(pairs: list[EncodedPair], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PairSet(pairs)


def test_pairs_that_do_not_fit_are_refused() -> None:
    pairs = PairSet([pair([1, 5], [6, 2], [7, 2]), pair([1, *range(20, 40)], [6, 2], [7, 2])])
    with pytest.raises(ConfigError, match=r"pair 1 .* has 44 tokens.* is 43\. .* out the 1 pairs"):
        objective(pairs, limit=43)
    assert objective(pairs, limit=44).num_steps == 1
    with pytest.raises(ConfigError, match="pairs_per_step is 3 and the data has 2"):
        objective(pairs, pairs_per_step=3)


def answer_log_prob(model: Transformer, side: Example) -> Tensor:
    """The slow, obvious version: one sequence, all logits."""
    logits = model.logits(model(TokenBatch.from_sequences([side.token_ids])))
    scored = logits.log_softmax(dim=-1)[:-1].gather(1, torch.tensor(side.token_ids[1:])[:, None])
    return scored[torch.tensor(side.loss_mask[1:])].sum()


def test_loss_of_packed_pairs_is_that_of_each_answer_alone() -> None:
    pairs = random_pairs(5)
    policy, reference = tiny_model(seed=0), tiny_model(seed=1)
    margins, kept = [], []
    for item in pairs:
        chosen = answer_log_prob(policy, item.chosen) - answer_log_prob(reference, item.chosen)
        rejected = answer_log_prob(policy, item.rejected)
        rejected = rejected - answer_log_prob(reference, item.rejected)
        margins.append(0.2 * (chosen - rejected))
        kept.append(answer_log_prob(policy, item.chosen))
    source = objective(PairSet(pairs), beta=0.2)
    (micro,) = source.step(0)
    loss, metrics = source.loss(policy, micro, None)
    wanted = torch.nn.functional.softplus(-torch.stack(margins)).mean()
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-4)
    assert metrics["reward_margin"] == pytest.approx(float(torch.stack(margins).mean()), rel=1e-4)
    assert metrics["log_prob_chosen"] == pytest.approx(float(torch.stack(kept).mean()), rel=1e-5)


def test_loss_before_the_first_step_is_log_2_with_margin_and_kl_of_zero() -> None:
    model = tiny_model()
    source = objective(PairSet(random_pairs(4)), reference=frozen_scorer(model))
    loss, metrics = source.loss(model, source.step(0)[0], None)
    assert float(loss) == pytest.approx(math.log(2), abs=1e-6)
    assert metrics["reward_margin"] == pytest.approx(0, abs=1e-6)
    assert metrics["kl"] == pytest.approx(0, abs=1e-6)


def test_accumulated_micro_batches_give_the_gradient_of_one_large_batch() -> None:
    pairs = PairSet(random_pairs(8))
    grads = []
    for limit in (10_000, 60):
        model = tiny_model().requires_grad_(True)
        source = objective(pairs, limit=limit, sft_coef=0.1)
        micros = source.step(0)
        for micro in micros:
            loss, _ = source.loss(model, micro, None)
            (loss * micro.size / 8).backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    assert len(micros) > 2
    for name, whole in grads[0].items():
        assert whole is not None
        torch.testing.assert_close(grads[1][name], whole, atol=1e-5, rtol=1e-3)


def test_training_prefers_the_chosen_answers_with_router_losses_beside() -> None:
    pairs = PairSet(random_pairs(6))
    model = tiny_model().requires_grad_(True).train()
    source = objective(pairs, pairs, reference=frozen_scorer(tiny_model()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    (micro,) = source.step(0)
    before = source.evaluate(model)
    for _ in range(8):
        recorder = RouterRecorder()
        loss, _ = source.loss(model, micro, recorder)
        assert [len(x) for x in recorder.router_logits] == [len(micro.targets)] * 2
        (loss + 0.01 * load_balancing_loss(recorder.router_logits, 2)).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = source.evaluate(model)
    assert after["loss"] < 0.9 * before["loss"]
    assert after["reward_accuracy"] == 1
    assert after["reward_chosen"] > after["reward_rejected"]
    assert model.training


def test_evaluation_is_the_mean_over_the_first_held_out_pairs() -> None:
    all_pairs = random_pairs(7)
    train, held_out = PairSet(all_pairs[:2]), PairSet(all_pairs)
    model = tiny_model()
    small = objective(train, held_out, limit=60, max_eval_pairs=5).evaluate(model)
    source = objective(PairSet(all_pairs[:5]))
    loss, metrics = source.loss(model, source.step(0)[0], None)
    assert small["loss"] == pytest.approx(float(loss), rel=1e-5)
    for name, value in metrics.items():
        assert small[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert objective(train).evaluate(model) == {}


class Counting:
    """A scorer that counts its calls and can be told to stop."""

    def __init__(self, score: TokenScorer, stop_after: int | None = None) -> None:
        self.score = score
        self.calls = 0
        self.stop_after = stop_after

    def __call__(self, batch: TokenBatch, targets: Tensor) -> Tensor:
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        return self.score(batch, targets)


def scored(
    pairs: PairSet, score: TokenScorer, folder: Path, digest: str = "a", **changes: Any
) -> Path:
    settings: dict[str, Any] = {"micro_batch_tokens": 60, "device": CPU} | changes
    return add_reference(pairs, score, weights_digest=digest, folder=folder, **settings)


def test_table_gives_the_loss_that_scoring_at_each_step_gives(tmp_path: Path) -> None:
    pairs = PairSet(random_pairs(6))
    scored(pairs, frozen_scorer(tiny_model(seed=1)), tmp_path / "new" / "folder")
    from_table, at_each_step = objective(pairs, reference=None), objective(pairs)
    model = tiny_model()
    (micro,) = from_table.step(0)
    expected, _ = at_each_step.loss(model, micro, None)
    torch.testing.assert_close(from_table.loss(model, micro, None)[0], expected)


def test_second_run_reads_the_scores_and_tells_how_far_it_is(tmp_path: Path) -> None:
    data = random_pairs(6)
    first = Counting(frozen_scorer(tiny_model()))
    second = Counting(first.score)
    heard: list[tuple[int, int]] = []
    pairs, again = PairSet(data), PairSet(data)
    path = scored(pairs, first, tmp_path, on_progress=lambda *now: heard.append(now))
    assert first.calls > 2
    assert heard[0] == (0, 6)
    assert heard[-1] == (6, 6)
    assert heard == sorted(heard)
    assert scored(again, second, tmp_path) == path
    assert second.calls == 0
    assert pairs.reference is not None
    assert again.reference is not None
    assert torch.equal(pairs.reference, again.reference)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_stopped_scoring_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixtral.train.reference_cache._SAVE_EVERY_S", -1.0)
    data = random_pairs(8)
    whole = Counting(frozen_scorer(tiny_model()))
    expected = PairSet(data)
    scored(expected, whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        scored(PairSet(data), Counting(whole.score, stop_after=2), tmp_path)
    rest = Counting(whole.score)
    pairs = PairSet(data)
    scored(pairs, rest, tmp_path)
    assert rest.calls == whole.calls - 2
    assert pairs.reference is not None
    assert expected.reference is not None
    assert torch.equal(pairs.reference, expected.reference)


def test_other_pairs_and_other_weights_have_files_of_their_own(tmp_path: Path) -> None:
    score = frozen_scorer(tiny_model())
    data = random_pairs(3)
    longer_answer = Example(
        token_ids=data[0].chosen.token_ids, loss_mask=[True] * len(data[0].chosen.token_ids)
    )
    same_ids = [EncodedPair(chosen=longer_answer, rejected=data[0].rejected), *data[1:]]
    paths = {
        scored(PairSet(data), score, tmp_path),
        scored(PairSet(random_pairs(3, seed=1)), score, tmp_path),
        scored(PairSet(same_ids), score, tmp_path),
        scored(PairSet(data), score, tmp_path, digest="b"),
    }
    assert len(paths) == 4


def test_digest_sees_every_weight_its_name_and_its_dtype() -> None:
    model = tiny_model()
    digests = {digest_weights(model), digest_weights(tiny_model(seed=1))}
    assert digest_weights(tiny_model()) in digests
    digests.add(digest_weights(tiny_model().bfloat16()))
    model.model.layers[1].block_sparse_moe.experts[3].w2.weight[0, 0] += 1e-3
    digests.add(digest_weights(model))
    assert len(digests) == 4


def damages(content: bytes) -> Iterator[bytes]:
    yield b""
    yield content[:40]
    yield content[:-3]
    yield content[:-1] + bytes([content[-1] ^ 1])
    yield b"junk" * 100
    yield content.replace(b"__metadata__", b"__netadata__")


def test_damaged_scores_are_refused_by_name(tmp_path: Path) -> None:
    pairs = PairSet(random_pairs(3))
    score = frozen_scorer(tiny_model())
    path = scored(pairs, score, tmp_path)
    for broken in damages(path.read_bytes()):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"reference-.*safetensors is damaged; delete it"):
            scored(pairs, score, tmp_path)


def test_scores_of_others_under_this_name_are_refused(tmp_path: Path) -> None:
    pairs = PairSet(random_pairs(3))
    score = frozen_scorer(tiny_model())
    path = scored(pairs, score, tmp_path)
    scored(pairs, score, tmp_path, digest="b").replace(path)
    with pytest.raises(CheckpointError, match="of other pairs or another model"):
        scored(pairs, score, tmp_path)


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be"):
        scored(PairSet(random_pairs(2)), frozen_scorer(tiny_model()), tmp_path / "file")


def test_broken_reference_is_refused(tmp_path: Path) -> None:
    def score(batch: TokenBatch, targets: Tensor) -> Tensor:
        return torch.full(targets.shape, torch.nan)

    with pytest.raises(ConfigError, match="no finite log-prob"):
        scored(PairSet(random_pairs(2)), score, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trl_name", "settings"),
    [("sigmoid", {}), ("ipo", {"loss": "ipo"}), ("sigmoid_norm", {"length_normalised": True})],
)
@pytest.mark.filterwarnings("ignore")  # of other people's packages
def test_loss_and_gradients_of_a_batch_are_those_of_trl(
    tmp_path: Path, trl_name: str, settings: dict[str, Any]
) -> None:
    from transformers import MixtralForCausalLM

    from tests.data.reference.make_dpo_golden import PAIRS, trl_loss, trl_trainer

    policy, reference = tiny_model(seed=0).requires_grad_(True), tiny_model(seed=1)
    theirs = []
    for name, model in (("policy", policy), ("reference", reference)):
        write_checkpoint(tmp_path / name, model.config, model.named_parameters(), layout="hf")
        theirs.append(MixtralForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32))
    trainer = trl_trainer(*theirs, loss=trl_name, beta=0.1)
    wanted, wanted_metrics = trl_loss(trainer, PAIRS)
    wanted.backward()

    data = [pair(p["prompt_ids"], p["chosen_ids"], p["rejected_ids"]) for p in PAIRS]
    source = objective(PairSet(data), reference=frozen_scorer(reference), **settings)
    loss, metrics = source.loss(policy, source.step(0)[0], None)
    loss.backward()
    torch.testing.assert_close(loss, wanted.detach(), atol=1e-5, rtol=1e-4)
    assert metrics["log_prob_chosen"] == pytest.approx(wanted_metrics["logps/chosen"], rel=1e-5)
    grads = dict(theirs[0].named_parameters())
    for name in ("lm_head.weight", "model.layers.0.self_attn.q_proj.weight"):
        mine, other = policy.get_parameter(name).grad, grads[name].grad
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-3)
