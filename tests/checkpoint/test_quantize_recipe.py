"""Recipes: which part has which format, how large that is, and what config.json says of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from mixtral import ConfigError, Error, ModelConfig, UnsupportedError
from mixtral.checkpoint import open_checkpoint
from mixtral.config import read_config_file, read_recipe_file
from mixtral.kernels import formats
from mixtral.quantization import (
    GROUP_BYTES,
    GROUP_SIZE,
    PANEL_ROWS,
    RECIPES,
    QuantizationRecipe,
    find_recipe,
    packed_shape,
)
from tests.checkpoints_for_tests import write_random


def test_sizes_are_those_of_the_kernels() -> None:
    assert {name: form.group_bytes for name, form in formats.FORMATS.items()} == GROUP_BYTES
    assert (formats.GROUP_SIZE, formats.PANEL_ROWS) == (GROUP_SIZE, PANEL_ROWS)
    for name, form in formats.FORMATS.items():
        for rows, columns in ((1, 1), (32, 128), (33, 129), (14336, 4096)):
            assert packed_shape(name, rows, columns) == form.packed_shape(rows, columns)


def test_router_norms_and_embedding_are_never_packed() -> None:
    layer = "model.layers.3."
    for recipe in RECIPES.values():
        assert recipe.format_of("model.embed_tokens.weight") == "bfloat16"
        for name in (
            layer + "block_sparse_moe.gate.weight",
            layer + "input_layernorm.weight",
            "model.norm.weight",
        ):
            assert recipe.format_of(name) is None
        for part in ("w1", "w2", "w3"):
            name = f"{layer}block_sparse_moe.experts.7.{part}.weight"
            assert recipe.format_of(name) == recipe.experts
        for part in "qkvo":
            assert recipe.format_of(f"{layer}self_attn.{part}_proj.weight") == recipe.attention
        assert recipe.format_of("lm_head.weight") == recipe.lm_head


def test_int3_leaves_room_for_8x7b_in_24_gib() -> None:
    config = ModelConfig.preset("8x7b")
    sizes = {name: recipe.packed_bytes(config) for name, recipe in RECIPES.items()}
    assert sizes["int3"] + config.kv_bytes_per_token() * 4096 < 20 * 2**30
    assert sizes["int3"] < sizes["int4"] < sizes["int8"] < config.weight_bytes("bfloat16")
    bits = {name: recipe.bits_per_weight(config) for name, recipe in RECIPES.items()}
    assert bits["int8"] < 8.3
    assert bits["int4"] < 4.4
    assert bits["int3"] < 3.5


def test_recipe_survives_json() -> None:
    for recipe in RECIPES.values():
        made = recipe.made_from("nano", tool="mixtral 9", calibration="wiki.txt")
        for written in (recipe, made):
            read = QuantizationRecipe.from_json(json.loads(json.dumps(written.to_json())))
            assert read == recipe
            assert read.origin == written.origin


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8", None])
def test_weights_packed_by_another_tool_are_refused(method: str | None) -> None:
    values = ModelConfig.preset("8x7b").to_hf() | {"quantization_config": {"quant_method": method}}
    with pytest.raises(UnsupportedError, match=f"quant_method {method!r}.*--quantization"):
        ModelConfig.from_hf(values)


@pytest.mark.parametrize(
    ("change", "kind", "part"),
    [
        ({"format_version": 2}, UnsupportedError, "format_version 2; .* newer mixtral"),
        ({"format_version": "1"}, ConfigError, "format_version '1'"),
        ({"format_version": None}, ConfigError, "format_version None"),
        ({"recipe": 4}, ConfigError, "recipe 4"),
        ({"group_size": 64}, ConfigError, "group_size 64; it must be 128"),
        ({"parts": {"experts": "int4"}}, ConfigError, "experts, attention, lm_head"),
        ({"parts": ["int4"]}, ConfigError, "parts"),
        (
            {"parts": {"experts": "int2", "attention": "int4", "lm_head": "int4"}},
            ConfigError,
            "quantization of experts is 'int2'",
        ),
        ({"origin": "me"}, ConfigError, "origin 'me'"),
    ],
)
def test_quantization_config_that_lies_is_refused_with_its_file(
    change: dict[str, Any], kind: type[Error], part: str, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    write_random("hf", tmp_path, tiny_config, seed=0)
    about = RECIPES["int4"].to_json() | change
    file = tmp_path / "config.json"
    file.write_text(json.dumps(tiny_config.to_hf() | {"quantization_config": about}))
    for read in (read_recipe_file, read_config_file):
        with pytest.raises(kind, match=rf"config\.json: .*{part}") as caught:
            read(file)
        assert "\n" not in str(caught.value)
    with pytest.raises(kind, match=part):
        open_checkpoint(tmp_path)


def test_config_without_quantization_has_no_recipe(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    write_random("hf", tmp_path, tiny_config, seed=0)
    assert read_recipe_file(tmp_path / "config.json") is None
    assert open_checkpoint(tmp_path).recipe is None


def test_unknown_recipe_is_refused() -> None:
    with pytest.raises(ConfigError, match="quantization is 'int2'; it must be one of int8, int4"):
        find_recipe("int2")
