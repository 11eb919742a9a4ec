"""The [lora] table of a recipe: which linears it means, and which values it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from mixtral.errors import ConfigError
from mixtral.model.adapter import adaptable_linears
from mixtral.train.lora_settings import LoraSettings
from tests.models_for_tests import tiny_config


def write_report(path: Path, loads: list[Any]) -> str:
    path.write_text(json.dumps({"layers": [{"load": load} for load in loads], "text": "a novel"}))
    return str(path)


def adapted_experts(settings: LoraSettings) -> dict[int, list[int]]:
    """Return the adapted experts of each layer of the tiny model."""
    found: dict[int, list[int]] = {}
    for name in settings.specs(tiny_config()):
        if name.endswith(".w1"):
            parts = name.split(".")
            found.setdefault(int(parts[2]), []).append(int(parts[-2]))
    return found


def test_targets_mean_all_their_linears_in_every_layer() -> None:
    config = tiny_config()
    every = list(adaptable_linears(config))
    everything = LoraSettings(targets=["attention", "router", "experts"]).specs(config)
    assert list(everything) == every
    attention = LoraSettings(targets=["attention"]).specs(config)
    assert list(attention) == [name for name in every if ".self_attn." in name]
    single = LoraSettings(targets=["q_proj", "w2"]).specs(config)
    assert list(single) == [name for name in every if name.endswith(("q_proj", "w2"))]
    dense = tiny_config(num_local_experts=0, num_experts_per_tok=0)
    assert list(LoraSettings().specs(dense)) == list(adaptable_linears(dense))


def test_scale_is_alpha_over_rank_or_its_root() -> None:
    config = tiny_config()
    plain = LoraSettings(rank=16, alpha=8.0).specs(config)
    assert {(spec.rank, spec.scale) for spec in plain.values()} == {(16, 0.5)}
    rooted = LoraSettings(rank=16, alpha=8.0, use_rslora=True).specs(config)
    assert {(spec.rank, spec.scale) for spec in rooted.values()} == {(16, 2.0)}


def test_each_target_may_have_its_own_rank_and_alpha() -> None:
    settings = LoraSettings(
        rank=4,
        alpha=4.0,
        targets=["attention", "experts"],
        target_rank={"experts": 2, "w2": 8},
        target_alpha={"attention": 12.0},
    )
    specs = settings.specs(tiny_config())
    layer = "model.layers.1."
    query, expert = layer + "self_attn.q_proj", layer + "block_sparse_moe.experts.0."
    assert (specs[query].rank, specs[query].scale) == (4, 3.0)
    assert (specs[expert + "w1"].rank, specs[expert + "w1"].scale) == (2, 2.0)
    assert (specs[expert + "w2"].rank, specs[expert + "w2"].scale) == (8, 0.5)


def test_experts_are_chosen_by_number_or_by_load(tmp_path: Path) -> None:
    assert adapted_experts(LoraSettings()) == {0: [0, 1, 2, 3], 1: [0, 1, 2, 3]}
    assert adapted_experts(LoraSettings(experts="3, 0")) == {0: [0, 3], 1: [0, 3]}
    report = write_report(tmp_path / "loads.json", [[0.1, 0.4, 0.2, 0.3], [5, 1, 7, 0]])
    busiest = LoraSettings(experts="busiest:2", expert_loads=report)
    assert adapted_experts(busiest) == {0: [1, 3], 1: [0, 2]}
    chosen = busiest.specs(tiny_config())
    assert sum(".self_attn." in name for name in chosen) == 8


def test_equal_loads_choose_the_first_experts(tmp_path: Path) -> None:
    report = write_report(tmp_path / "loads.json", [[1, 1, 1, 1], [0, 0, 0, 0]])
    busiest = LoraSettings(experts="busiest:3", expert_loads=report)
    assert adapted_experts(busiest) == {0: [0, 1, 2], 1: [0, 1, 2]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 0}, r"lora\.rank is 0; it must be a whole number from 1 to 1024"),
        ({"alpha": 0.0}, r"lora\.alpha is 0\.0"),
        ({"use_rslora": 1}, r"lora\.use_rslora is 1; it must be true or false"),
        ({"dropout": 1.0}, r"lora\.dropout is 1\.0; .* from 0 to below 1"),
        ({"targets": "attention"}, r"it must be a list"),
        ({"targets": []}, r"lora\.targets is empty; name some of attention, router"),
        ({"targets": ["heads"]}, r"lora\.targets has 'heads'"),
        ({"target_rank": {"router": 4}}, r"'router', which lora\.targets does not adapt"),
        ({"target_rank": {"head": 4}}, r"lora\.target_rank has 'head'"),
        ({"target_rank": {"w1": 0}}, r"lora\.target_rank\.w1 is 0"),
        ({"target_rank": 4}, r"lora\.target_rank is 4; it must be a table"),
        ({"target_alpha": {"w1": -1}}, r"lora\.target_alpha\.w1 is -1"),
        ({"experts": "some"}, r"lora\.experts is 'some'"),
        ({"experts": "0,0"}, r"lora\.experts is '0,0'; .* different numbers"),
        ({"experts": 3}, r"lora\.experts is 3 .* must be texts"),
        ({"experts": "busiest:0", "expert_loads": "x"}, r"busiest needs a number"),
        ({"experts": "busiest:2"}, r"lora\.expert_loads is empty"),
        ({"experts": "0", "expert_loads": "x"}, r"the report is for busiest only"),
        ({"experts": "0", "targets": ["attention"]}, r"has no expert"),
    ],
)
def test_wrong_setting_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoraSettings(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"experts": "1,4"}, r"this model has the experts 0 to 3"),
        ({"experts": "busiest:5", "expert_loads": "x"}, r"whole number from 1 to 4"),
    ],
)
def test_experts_that_the_model_lacks_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoraSettings(**fields).specs(tiny_config())


@pytest.mark.parametrize("fields", [{"targets": ["router"]}, {"experts": "0"}])
def test_dense_model_has_no_router_and_no_choice(fields: dict[str, Any]) -> None:
    dense = tiny_config(num_local_experts=0, num_experts_per_tok=0)
    with pytest.raises(ConfigError, match="this model is dense"):
        LoraSettings(**fields).specs(dense)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("{", "is no routing report"),
        ("[]", "is no routing report"),
        ('{"layers": [{"loads": []}]}', "is no routing report"),
        ('{"layers": [{"load": [1, 2, 3, 4]}]}', "has 1 layers; this model has 2"),
        ('{"layers": [{"load": [1, 2]}, {"load": [1, 2]}]}', "load of layer 0 is"),
        ('{"layers": [{"load": [1, 2, 3, -1]}, {"load": [1, 2, 3, 4]}]}', "load of layer 0 is"),
        ('{"layers": [{"load": [1, 2, 3, NaN]}, {"load": [1, 2, 3, 4]}]}', "load of layer 0 is"),
    ],
)
def test_wrong_routing_report_is_named(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "loads.json"
    if text is not None:
        path.write_text(text)
    settings = LoraSettings(experts="busiest:2", expert_loads=str(path))
    with pytest.raises(ConfigError, match=message) as error:
        settings.specs(tiny_config())
    assert str(path) in str(error.value)
