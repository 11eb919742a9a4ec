"""Configuration: counts to the digit, every published spelling, refusals that name the field."""

import json
from pathlib import Path

import pytest
import torch

from mixtral.config import EngineConfig, ModelConfig, load_json
from mixtral.errors import ConfigError, UnsupportedError
from mixtral.model import Transformer
from mixtral.model_source import find_model
from tests.models_for_tests import tiny_config


@pytest.mark.parametrize(
    ("preset", "total", "active"),
    [
        ("8x7b", 46_702_792_704, 12_879_925_248),
        ("8x22b", 140_630_071_296, 39_161_468_928),
        ("7b", 7_241_732_096, 7_241_732_096),
    ],
)
def test_presets_have_the_published_parameter_counts(preset: str, total: int, active: int) -> None:
    config = ModelConfig.preset(preset)
    assert (config.num_parameters, config.num_active_parameters) == (total, active)


@pytest.mark.parametrize("preset", ["8x7b", "8x22b", "7b", "nano"])
def test_counts_equal_the_summed_shapes_of_the_model(preset: str) -> None:
    config = ModelConfig.preset(preset)
    with torch.device("meta"):
        model = Transformer(config)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    assert config.num_parameters == sum(sizes.values())
    idle = [f".experts.{e}." for e in range(max(1, config.num_experts_per_tok), config.num_experts)]
    active = sum(n for name, n in sizes.items() if not any(part in name for part in idle))
    assert config.num_active_parameters == active


@pytest.mark.parametrize("preset", ["8x7b", "8x22b", "7b", "nano"])
def test_config_json_round_trip_keeps_every_field(preset: str) -> None:
    config = ModelConfig.preset(preset)
    assert ModelConfig.from_hf(json.loads(json.dumps(config.to_hf()))) == config


def test_params_json_of_the_first_release_gives_8x7b() -> None:
    values = {
        "dim": 4096,
        "n_layers": 32,
        "head_dim": 128,
        "hidden_dim": 14336,
        "n_heads": 32,
        "n_kv_heads": 8,
        "norm_eps": 1e-05,
        "vocab_size": 32000,
        "moe": {"num_experts_per_tok": 2, "num_experts": 8},
    }
    assert ModelConfig.from_params_json(values) == ModelConfig.preset("8x7b")


def test_params_json_in_hugging_face_spelling_may_hold_numbers_as_strings() -> None:
    values = {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": "1e-05",
        "vocab_size": 32000,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "rope_theta": "1000000.0",
        "sliding_window": "4096",
    }
    expected = ModelConfig.preset("8x7b").replace(sliding_window=4096)
    assert ModelConfig.from_params_json(values) == expected


def test_rope_theta_is_read_in_both_spellings() -> None:
    values = tiny_config(rope_theta=12345.0).to_hf()
    assert ModelConfig.from_hf(values).rope_theta == 12345.0
    del values["rope_theta"]
    values["rope_parameters"] = {"rope_type": "default", "rope_theta": 777.0}
    assert ModelConfig.from_hf(values).rope_theta == 777.0


def test_kv_bytes_per_token_of_8x7b() -> None:
    assert ModelConfig.preset("8x7b").kv_bytes_per_token() == 2 * 32 * 8 * 128 * 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 0),
        ("hidden_size", -1),
        ("num_hidden_layers", 1.5),
        ("num_attention_heads", True),
        ("num_key_value_heads", 3),
        ("head_dim", 15),
        ("num_experts_per_tok", 9),
        ("num_experts_per_tok", 0),
        ("num_local_experts", -1),
        ("rope_theta", 0.0),
        ("rms_norm_eps", float("nan")),
        ("sliding_window", 0),
        ("dtype", "int8"),
        ("max_position_embeddings", "long"),
    ],
)
def test_wrong_field_is_named_with_its_value(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{field} is {value!r}"):
        tiny_config(**{field: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
        ({"rope_scaling": {"factor": 4.0}}, "rope_scaling: factor is 4.0; supported is 1"),
        (
            {
                "rope_scaling": {"rope_type": "default"},
                "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6},
            },
            "rope_parameters: rope_type is 'yarn'",
        ),
        ({"quantization_config": {"quant_method": "awq"}}, "quant_method 'awq'"),
    ],
)
def test_other_architectures_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        ModelConfig.from_hf(tiny_config().to_hf() | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"yarn": {"factor": 4}}, "yarn is {'factor': 4}"),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, "rope_type is 'linear'"),
        ({"rope_scaling": {"factor": 4}}, "factor is 4"),
    ],
)
def test_scaled_rotary_embedding_in_params_json_is_refused(
    change: dict[str, object], message: str
) -> None:
    values = tiny_config().to_params_json()
    unscaled: dict[str, object] = {"yarn": None, "rope_scaling": {"type": "default", "factor": 1.0}}
    assert ModelConfig.from_params_json(values | unscaled).rope_theta == 1e6
    with pytest.raises(UnsupportedError, match=message):
        ModelConfig.from_params_json(values | change)


def test_params_json_without_a_context_has_that_of_its_geometry() -> None:
    for preset, context in (("8x22b", 65536), ("8x7b", 32768), ("nano", 8192)):
        values = ModelConfig.preset(preset).replace(vocab_size=32000).to_params_json()
        del values["max_seq_len"]
        assert ModelConfig.from_params_json(values).max_position_embeddings == context
    values = tiny_config().to_params_json()
    del values["max_seq_len"]
    assert ModelConfig.from_params_json(values).max_position_embeddings == 32768


def test_end_tokens_that_are_ignored_are_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for ends in (2, [2], [2, 2]):
        values = tiny_config().to_hf() | {"eos_token_id": ends}
        (tmp_path / "config.json").write_text(json.dumps(values))
        find_model(str(tmp_path))
    assert caplog.text == ""
    (tmp_path / "config.json").write_text(json.dumps(values | {"eos_token_id": [2, 300]}))
    assert find_model(str(tmp_path)).config.eos_token_id == 2
    assert caplog.text.count("eos_token_id is [2, 300]; one token ends an answer here, 2") == 1


def test_missing_fields_are_named_in_the_spelling_of_the_file() -> None:
    values = tiny_config().to_hf()
    del values["vocab_size"]
    with pytest.raises(ConfigError, match=r"config\.json lacks vocab_size"):
        ModelConfig.from_hf(values)
    with pytest.raises(ConfigError, match=r"params\.json lacks .*n_layers"):
        ModelConfig.from_params_json({"dim": 64})


@pytest.mark.parametrize("content", ["", "{", "[1]", "nan nan", "\xff"])
def test_broken_json_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"config\.json"):
        load_json(path)


def test_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"preset is '9x9b'.*8x7b, 8x22b, 7b, nano"):
        ModelConfig.preset("9x9b")


def test_engine_block_size_must_be_a_power_of_two() -> None:
    with pytest.raises(ConfigError, match="block_size is 24; it must be a power of two"):
        EngineConfig(num_blocks=4, block_size=24)
