"""No field of a recipe is without effect: each changes a short run, or has a test of its own."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixtral.errors import ConfigError
from mixtral.train import Trainer, TrainRecipe, first_model, flops, train_log
from mixtral.train.dpo_settings import DpoSettings
from mixtral.train.lora_settings import LoraSettings
from mixtral.train.parallel_settings import ParallelSettings
from tests.train.conftest import assistant, user, write_records

Case = tuple[dict[str, Any], dict[str, Any]]
"""What both runs have, and what only the second has."""

TOKEN_CASES: dict[str, Case] = {
    "valid_tokens": ({}, {"valid_tokens": "other.npy"}),
    "train_mask": ({}, {"train_mask": "mask.npy"}),
    "valid_mask": ({}, {"valid_mask": "mask.npy"}),
    "max_steps": ({}, {"max_steps": 2}),
    "tokens_per_step": ({}, {"tokens_per_step": 64}),
    "micro_batch_tokens": ({}, {"micro_batch_tokens": 64}),
    "max_seq_len": ({}, {"max_seq_len": 16}),
    "long_seq_len": ({"long_seq_fraction": 1.0, "long_seq_len": 64}, {"long_seq_len": 16}),
    "long_seq_fraction": ({"long_seq_len": 16}, {"long_seq_fraction": 0.7}),
    "learning_rate": ({}, {"learning_rate": 0.03}),
    "min_learning_rate": ({}, {"min_learning_rate": 0.001}),
    "warmup_steps": ({}, {"warmup_steps": 2}),
    "decay_fraction": ({}, {"decay_fraction": 0.3}),
    "weight_decay": ({}, {"weight_decay": 1.0}),
    "beta1": ({}, {"beta1": 0.5}),
    "beta2": ({}, {"beta2": 0.5}),
    "grad_clip": ({}, {"grad_clip": 1e-3}),
    "sampled_words": ({}, {"sampled_words": 8}),
    "load_balancing_coef": ({}, {"load_balancing_coef": 1.0}),
    "z_loss_coef": ({}, {"z_loss_coef": 1.0}),
    "router_jitter": ({}, {"router_jitter": 0.3}),
    "freeze_router": ({}, {"freeze_router": True}),
    "dtype": ({"max_steps": 1}, {"dtype": "bfloat16"}),
    "seed": ({"router_jitter": 0.3}, {"seed": 1}),
    "eval_every": ({}, {"eval_every": 1}),
    "eval_steps": ({}, {"eval_steps": 1}),
}
RECORD_CASES: dict[str, Case] = {
    "train_records": ({}, {"train_records": "other.jsonl"}),
    "valid_records": ({}, {"valid_records": "other.jsonl", "valid_fraction": 0.05}),
    "valid_fraction": ({}, {"valid_fraction": 0.6}),
    "lora": ({}, {"lora": LoraSettings(rank=2)}),
    "lora.rank": ({"lora": LoraSettings(rank=2)}, {"lora": LoraSettings(rank=4)}),
    "lora.dropout": (
        {"lora": LoraSettings(rank=2)},
        {"lora": LoraSettings(rank=2, dropout=0.5)},
    ),
}
PAIR_CASES: dict[str, DpoSettings] = {
    "dpo.loss": DpoSettings(pairs_per_step=4, loss="ipo"),
    "dpo.beta": DpoSettings(pairs_per_step=4, beta=0.5),
    "dpo.label_smoothing": DpoSettings(pairs_per_step=4, label_smoothing=0.2),
    "dpo.sft_coef": DpoSettings(pairs_per_step=4, sft_coef=0.5),
    "dpo.length_normalised": DpoSettings(pairs_per_step=4, length_normalised=True),
    "dpo.pairs_per_step": DpoSettings(pairs_per_step=2),
    "dpo.max_eval_pairs": DpoSettings(pairs_per_step=4, max_eval_pairs=1),
}
ELSEWHERE = {
    "output": "test_trainer.py::test_model_of_somebody_else_is_not_replaced",
    "too_long": "test_every_setting.py::test_long_records_are_left_out_where_that_is_asked_for",
    "train_tokens": "test_data.py::test_missing_and_broken_files_are_refused",
    "model": "test_every_setting.py::test_first_weights_are_those_that_are_asked_for",
    "geometry": "test_trainer.py::test_geometry_changes_the_preset",
    "init": "test_every_setting.py::test_first_weights_are_those_that_are_asked_for",
    "init_from": "test_resume.py::test_changed_start_is_noticed",
    "init_adapter": "test_stages.py::test_adapter_is_trained_on_where_it_was",
    "quantization": "test_stages.py::test_adapter_learns_and_its_base_stays",
    "num_epochs": "test_trainer.py::test_epochs_decide_the_steps_where_none_are_given",
    "embedding_rows": "test_trainer.py::test_rows_of_other_tokens_stay_where_that_is_asked_for",
    "activation_checkpointing": "test_every_setting.py::test_checkpointed_layers_run_twice",
    "starving_load": "test_every_setting.py::test_starving_experts_are_named_below_the_given_share",
    "device": "test_every_setting.py::test_unknown_device_is_refused",
    "log_every": "test_every_setting.py::test_log_state_best_and_tensorboard_are_as_asked_for",
    "checkpoint_every": "test_every_setting.py::"
    "test_log_state_best_and_tensorboard_are_as_asked_for",
    "keep_best": "test_every_setting.py::test_log_state_best_and_tensorboard_are_as_asked_for",
    "tensorboard": "test_every_setting.py::test_log_state_best_and_tensorboard_are_as_asked_for",
    "lora.alpha": "test_lora_settings.py::test_scale_is_alpha_over_rank_or_its_root",
    "lora.use_rslora": "test_lora_settings.py::test_scale_is_alpha_over_rank_or_its_root",
    "lora.targets": "test_lora_settings.py::test_targets_mean_all_their_linears_in_every_layer",
    "lora.target_rank": "test_lora_settings.py::test_each_target_may_have_its_own_rank_and_alpha",
    "lora.target_alpha": "test_lora_settings.py::test_each_target_may_have_its_own_rank_and_alpha",
    "lora.experts": "test_lora_settings.py::test_experts_are_chosen_by_number_or_by_load",
    "lora.expert_loads": "test_lora_settings.py::test_experts_are_chosen_by_number_or_by_load",
    "dpo.reference": "test_stages.py::test_reference_is_the_base_when_the_adapter_is_off",
    "dpo.reference_cache": "test_every_setting.py::test_scores_of_the_reference_go_where_asked_for",
    "parallel.expert_parallel": "test_parallel.py::"
    "test_losses_and_gradient_norms_are_those_of_one_process",
    "parallel.timeout_s": "test_parallel.py::test_lost_process_ends_the_others_with_one_line",
}


@pytest.fixture(autouse=True)
def no_probing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not measure the machine, which takes longer than a run of these."""
    monkeypatch.setattr(flops, "_measure", lambda device, dtype: 1e9)


@pytest.fixture
def token_values(recipe_values: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    for name in ("train", "valid", "other"):
        tokens = rng.integers(3, 500, 600).astype(np.uint16)
        tokens[::60] = 1
        np.save(tmp_path / f"{name}.npy", tokens)
    np.save(tmp_path / "mask.npy", rng.integers(0, 2, 600).astype(np.uint8))
    own = {name: str(tmp_path / f"{name[:5]}.npy") for name in ("train_tokens", "valid_tokens")}
    short = {"max_steps": 3, "warmup_steps": 0, "eval_every": 3, "checkpoint_every": 100}
    return recipe_values | own | short | {"learning_rate": 0.01, "keep_best": False}


@pytest.fixture
def record_values(values: dict[str, Any], conversations: Path, tmp_path: Path) -> dict[str, Any]:
    records = [
        {"messages": [user(f"How much is {i} + 1?"), assistant(str(i + 1))]} for i in range(24)
    ]
    write_records(tmp_path / "other.jsonl", records)
    short = {"max_steps": 3, "eval_every": 3, "checkpoint_every": 100, "keep_best": False}
    return values | short | {"train_records": str(conversations)}


def numbers(values: dict[str, Any], stage: Any, folder: Path, **changes: Any) -> list[Any]:
    """Run to the end, and return what was measured in each step."""
    paths = {
        name: str(folder / value)
        for name, value in changes.items()
        if isinstance(value, str) and "." in value
    }
    recipe = TrainRecipe(**(values | changes | paths))
    names = ("loss", "load_balancing_loss", "grad_norm", "learning_rate", "valid")
    return [[getattr(m, name) for name in names] for m in Trainer(recipe, stage).run()]


def differs(values: dict[str, Any], stage: Any, folder: Path, case: Case) -> bool:
    both, change = case
    first = numbers(values, stage, folder, **both)
    output = str(folder / "changed")
    return first != numbers(values, stage, folder, **(both | change | {"output": output}))


def test_the_same_recipe_gives_the_same_numbers(
    token_values: dict[str, Any], tmp_path: Path
) -> None:
    assert not differs(token_values, "pretrain", tmp_path, ({}, {}))


@pytest.mark.parametrize("name", TOKEN_CASES)
def test_setting_of_a_run_over_tokens_has_an_effect(
    token_values: dict[str, Any], tmp_path: Path, name: str
) -> None:
    assert differs(token_values, "pretrain", tmp_path, TOKEN_CASES[name])


@pytest.mark.parametrize("name", RECORD_CASES)
def test_setting_of_a_run_over_records_has_an_effect(
    record_values: dict[str, Any], tmp_path: Path, name: str
) -> None:
    assert differs(record_values, "sft", tmp_path, RECORD_CASES[name])


@pytest.mark.parametrize("name", PAIR_CASES)
def test_setting_of_preference_training_has_an_effect(
    record_values: dict[str, Any], preferences: Path, tmp_path: Path, name: str
) -> None:
    values = record_values | {"train_records": str(preferences), "learning_rate": 0.003}
    case = ({"dpo": DpoSettings(pairs_per_step=4)}, {"dpo": PAIR_CASES[name]})
    assert differs(values, "dpo", tmp_path, case)


def test_held_out_loss_is_of_the_whole_vocabulary_whatever_training_samples(
    token_values: dict[str, Any],
) -> None:
    rate = {"learning_rate": 1e-30, "max_steps": 1, "eval_every": 1}
    whole, sampled = (
        next(Trainer(TrainRecipe(**(token_values | rate | change))).run())
        for change in ({}, {"sampled_words": 8, "output": token_values["output"] + "-sampled"})
    )
    assert sampled.valid == whole.valid
    assert sampled.loss != whole.loss


def test_preferences_refuse_a_sample_of_the_words(
    record_values: dict[str, Any], preferences: Path
) -> None:
    values = record_values | {"train_records": str(preferences), "sampled_words": 8}
    with pytest.raises(ConfigError, match="sampled_words is 8, and dpo needs whole"):
        Trainer(TrainRecipe(**values), "dpo")


def test_every_field_is_tried_here_or_elsewhere() -> None:
    tables = {"lora": LoraSettings, "dpo": DpoSettings, "parallel": ParallelSettings}
    fields = set(TrainRecipe.__dataclass_fields__) - {"dpo", "parallel"}
    for table, owner in tables.items():
        fields |= {f"{table}.{name}" for name in owner.__dataclass_fields__}
    tried = {*TOKEN_CASES, *RECORD_CASES, *PAIR_CASES, *ELSEWHERE}
    assert fields == tried
    for place in ELSEWHERE.values():
        file, _, test = place.partition("::")
        assert f"def {test}(" in (Path(__file__).parent / file).read_text(), place


def test_long_records_are_left_out_where_that_is_asked_for(
    record_values: dict[str, Any], tmp_path: Path
) -> None:
    texts = ["word " * 200, *(f"What is {i}?" for i in range(20))]
    records = [{"messages": [user(text), assistant("a")]} for text in texts]
    values = record_values | {"train_records": str(write_records(tmp_path / "a.jsonl", records))}
    values |= {"valid_fraction": 0.0}
    with pytest.raises(ConfigError, match=r"a\.jsonl:1: the record has \d+ tokens"):
        Trainer(TrainRecipe(**values), "sft")
    assert Trainer(TrainRecipe(**(values | {"too_long": "skip"})), "sft").max_steps == 3


def test_pairs_too_long_for_a_micro_batch_are_named_or_left_out(
    record_values: dict[str, Any], tmp_path: Path
) -> None:
    records = [{"prompt": f"Say {i}.", "chosen": "yes", "rejected": "no"} for i in range(12)]
    records[3]["prompt"] += " word" * 30
    file = write_records(tmp_path / "pairs.jsonl", records)
    values = record_values | {"train_records": str(file), "dpo": DpoSettings(pairs_per_step=4)}
    values |= {"micro_batch_tokens": 64, "valid_fraction": 0.0}
    with pytest.raises(ConfigError, match=r"pairs\.jsonl:4: the pair has \d+ tokens"):
        Trainer(TrainRecipe(**values), "dpo")
    assert Trainer(TrainRecipe(**(values | {"too_long": "skip"})), "dpo").max_steps == 3


def test_table_of_another_stage_is_refused(record_values: dict[str, Any]) -> None:
    values = record_values | {"dpo": DpoSettings(beta=0.2)}
    with pytest.raises(ConfigError, match=r"a table \[dpo\] is given, and sft does not use it"):
        Trainer(TrainRecipe(**values), "sft")


def test_first_weights_are_those_that_are_asked_for(
    token_values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(first_model, "init_copying", lambda model, seed, pieces: asked.append(seed))
    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "head_dim": 16}
    small |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512}
    values = token_values | {"init_from": "", "model": "7b", "geometry": small}
    made = first_model.make_model(TrainRecipe(**values))
    assert made.source.name == "random:7b"
    assert made.model.config.is_dense
    assert asked == []
    first_model.make_model(TrainRecipe(**(values | {"init": "copy", "seed": 5})))
    assert asked == [5]


@pytest.mark.parametrize(("is_checkpointed", "passes"), [(False, 1), (True, 2)])
def test_checkpointed_layers_run_twice(
    token_values: dict[str, Any], is_checkpointed: bool, passes: int
) -> None:
    values = token_values | {"activation_checkpointing": is_checkpointed}
    made = Trainer(TrainRecipe(**values))
    calls: list[int] = []
    made.model.model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    next(made.run())
    assert len(calls) == passes


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_starving_experts_are_named_below_the_given_share(
    token_values: dict[str, Any], caplog: pytest.LogCaptureFixture, share: float
) -> None:
    with caplog.at_level(logging.WARNING, logger="mixtral"):
        next(Trainer(TrainRecipe(**(token_values | {"starving_load": share}))).run())
    assert ("starves" in caplog.text) == bool(share)


def test_unknown_device_is_refused(token_values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="tpu"):
        Trainer(TrainRecipe(**(token_values | {"device": "tpu"})))


def test_log_state_best_and_tensorboard_are_as_asked_for(
    token_values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    monkeypatch.setattr(train_log, "_open_board", lambda path, first_step: opened.append(path))
    changes = {"log_every": 2, "checkpoint_every": 2, "keep_best": True, "tensorboard": True}
    made = Trainer(TrainRecipe(**(token_values | changes)))
    saved = []
    for _ in made.run():
        made.wait()
        saved.append(made.saved_step)
    assert saved == [None, 2, 3]  # the last step has a state, too
    assert [record["step"] for record in made.folder.read_log()] == [0, 2]
    assert (made.folder.path / "best").is_dir()
    assert opened == [made.folder.path]


def test_scores_of_the_reference_go_where_asked_for(
    record_values: dict[str, Any], preferences: Path, tmp_path: Path
) -> None:
    settings = DpoSettings(pairs_per_step=4, reference_cache=str(tmp_path / "scores"))
    values = record_values | {"train_records": str(preferences), "dpo": settings}
    Trainer(TrainRecipe(**values), "dpo")
    assert len(list((tmp_path / "scores").glob("reference-*.safetensors"))) == 2  # and held out


def test_settings_that_are_seldom_meant_are_told(
    token_values: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"warmup_steps": 50, "max_seq_len": 1000, "tokens_per_step": 120}
    with caplog.at_level(logging.WARNING, logger="mixtral"):
        Trainer(TrainRecipe(**(token_values | changes)))
    assert "warmup_steps is 50 and the run has 3 steps" in caplog.text
    assert "above the 256 positions" in caplog.text
