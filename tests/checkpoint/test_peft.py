"""Adapters in PEFT's format: both layouts, there and back, with PEFT itself as the judge."""

import copy
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from mixtral.checkpoint import write_checkpoint
from mixtral.checkpoint.peft import PeftLayout, read_adapter, write_adapter
from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError, Error
from mixtral.model import Transformer
from mixtral.model.adapter import Adapter, LoraMatrices
from tests.adapters_for_tests import TARGETS, merged, random_adapter, relative_error
from tests.models_for_tests import tiny_config, tiny_model

# PEFT looks for patterns of parameters among the modules only, and applies them all the same.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
]
TOKENS = [5, 300, 7, 8, 120, 42, 9, 77, 200, 11, 13, 2, 90, 400]
DENSE = {"num_local_experts": 0, "num_experts_per_tok": 0}
EXPERT = "model.layers.0.block_sparse_moe.experts.3."


def mixed_adapter(config: ModelConfig) -> Adapter:
    """Return an adapter whose ranks and scales differ wherever they can."""
    return random_adapter(
        config, rank=lambda name: 1 + len(name) % 4 + int(name[-1] == "3"), scale=mixed_scale
    )


def mixed_scale(name: str) -> float:
    # Powers of two, by which B can be multiplied without rounding.
    return 2.0 ** (sum(map(ord, name)) % 3)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    return in_transformers(tiny_model(), tmp_path_factory.mktemp("models") / "moe")


@pytest.fixture
def base(loaded: PreTrainedModel) -> PreTrainedModel:
    """Return the tiny model in transformers, fresh, because PEFT changes it."""
    return copy.deepcopy(loaded)


def in_transformers(model: Transformer, folder: Path) -> PreTrainedModel:
    write_checkpoint(folder, model.config, model.named_parameters(), layout="hf")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def peft_logits(base: PreTrainedModel, adapter: Path) -> torch.Tensor:
    with torch.inference_mode():
        return PeftModel.from_pretrained(base, adapter)(torch.tensor([TOKENS])).logits[0]


def our_logits(model: Transformer, adapter: Adapter) -> torch.Tensor:
    return merged(model, adapter).whole_logits(TOKENS)


def assert_equal(actual: Adapter, expected: Adapter) -> None:
    assert list(actual.matrices) == list(expected.matrices)
    assert actual.base_model == expected.base_model
    for name, matrices in expected.matrices.items():
        found = actual.matrices[name]
        assert torch.equal(found.a, matrices.a), name
        assert torch.equal(found.b, matrices.b), name
        assert found.scale == matrices.scale, name


@pytest.mark.parametrize("layout", ["fused", "modules"])
@pytest.mark.parametrize("target", TARGETS)
def test_adapter_comes_back_as_it_was_written(
    target: str, layout: PeftLayout, tmp_path: Path
) -> None:
    config = tiny_config()
    adapter = random_adapter(config, target, scale=lambda name: 16 / 3)
    write_adapter(tmp_path / "a", adapter, config, layout=layout)
    assert_equal(read_adapter(tmp_path / "a", config), adapter)


def test_untrained_adapter_keeps_its_random_half(tmp_path: Path) -> None:
    config = tiny_config()
    start = random_adapter(config)
    fresh = {
        name: LoraMatrices(a=m.a, b=torch.zeros_like(m.b), scale=m.scale)
        for name, m in start.matrices.items()
    }
    adapter = Adapter(matrices=fresh, base_model="nano")
    write_adapter(tmp_path / "a", adapter, config, layout="fused")
    assert_equal(read_adapter(tmp_path / "a", config), adapter)


def test_ranks_that_differ_come_back_from_both_layouts(tmp_path: Path) -> None:
    config = tiny_config()
    adapter = mixed_adapter(config)
    write_adapter(tmp_path / "modules", adapter, config, layout="modules")
    assert_equal(read_adapter(tmp_path / "modules", config), adapter)
    write_adapter(tmp_path / "fused", adapter, config, layout="fused")
    fused = read_adapter(tmp_path / "fused", config)
    for name, matrices in adapter.matrices.items():
        assert fused.matrices[name].rank == matrices.rank
        assert torch.equal(fused.matrices[name].delta(), matrices.delta()), name


@pytest.mark.parametrize("target", [*TARGETS, "mixed"])
def test_peft_gives_the_same_logits_for_a_fused_adapter(
    target: str, base: PreTrainedModel, tmp_path: Path
) -> None:
    model = tiny_model()
    config = model.config
    adapter = mixed_adapter(config) if target == "mixed" else random_adapter(config, target)
    write_adapter(tmp_path / "a", adapter, config)
    expected = our_logits(model, adapter)
    assert relative_error(peft_logits(base, tmp_path / "a"), expected) < 1e-5
    assert relative_error(model.whole_logits(TOKENS), expected) > 1e-4


@pytest.mark.parametrize("target", ["everything", "attention", "experts", "only w2"])
def test_peft_turns_a_regular_adapter_by_modules_into_a_fused_one(
    target: str, base: PreTrainedModel, tmp_path: Path
) -> None:
    model = tiny_model()
    adapter = random_adapter(model.config, target)
    write_adapter(tmp_path / "a", adapter, model.config, layout="modules")
    expected = our_logits(model, adapter)
    assert relative_error(peft_logits(base, tmp_path / "a"), expected) < 1e-5


MADE_BY_PEFT: dict[str, dict[str, Any]] = {
    "attention": {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    "experts": {
        "target_modules": [],
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    },
    "only gate_up_proj": {
        "target_modules": ["v_proj"],
        "target_parameters": ["mlp.experts.gate_up_proj"],
    },
    "only down_proj, odd rank": {
        "target_modules": [],
        "target_parameters": ["mlp.experts.down_proj"],
        "r": 3,
    },
    "odd rank": {"target_modules": [], "target_parameters": ["experts.gate_up_proj"], "r": 5},
    "router": {"target_modules": [], "target_parameters": ["gate.weight"]},
    "published names": {"target_modules": ["w1", "w2", "w3", "gate", "q_proj"]},
    "patterns": {
        "target_modules": ["q_proj", "o_proj"],
        "target_parameters": ["mlp.experts.down_proj"],
        "rank_pattern": {"layers.1.self_attn.q_proj": 2, "down_proj": 3},
        "alpha_pattern": {"o_proj": 5, r".*\.1\.mlp\.experts\.down_proj": 12},
    },
    "rslora": {
        "target_modules": ["q_proj"],
        "target_parameters": ["mlp.experts.gate_up_proj"],
        "use_rslora": True,
    },
}


@pytest.mark.parametrize("case", MADE_BY_PEFT)
def test_adapter_made_by_peft_gives_the_same_logits_here(
    case: str, base: PreTrainedModel, tmp_path: Path
) -> None:
    fields = {"r": 4, "lora_alpha": 10} | MADE_BY_PEFT[case]
    peft = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **fields))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.1, generator=generator)
    peft.save_pretrained(tmp_path / "a")
    with torch.inference_mode():
        expected = peft(torch.tensor([TOKENS])).logits[0]
    model = tiny_model()
    adapter = read_adapter(tmp_path / "a", model.config)
    assert adapter.base_model == base.name_or_path
    assert relative_error(our_logits(model, adapter), expected) < 1e-5
    assert relative_error(model.whole_logits(TOKENS), expected) > 1e-4


def test_dense_adapter_goes_to_peft_and_back(tmp_path: Path) -> None:
    model = tiny_model(**DENSE)
    base = in_transformers(model, tmp_path / "base")
    adapter = random_adapter(model.config)
    write_adapter(tmp_path / "a", adapter, model.config)
    assert_equal(read_adapter(tmp_path / "a", model.config), adapter)
    expected = our_logits(model, adapter)
    assert relative_error(peft_logits(base, tmp_path / "a"), expected) < 1e-5


def test_kinds_of_linears_are_named_shortly_and_parts_of_one_by_path(tmp_path: Path) -> None:
    config = tiny_config()
    write_adapter(tmp_path / "all", random_adapter(config), config, layout="modules")
    whole = json.loads((tmp_path / "all" / "adapter_config.json").read_text())
    assert whole["target_modules"] == [
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate", "w1", "w2", "w3"),
    ]
    assert (whole["r"], whole["lora_alpha"], whole["rank_pattern"]) == (3, 6, {})
    one = random_adapter(config, "expert 3 of layer 0")
    write_adapter(tmp_path / "one", one, config, layout="modules")
    part = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert part["target_modules"] == [EXPERT + "w1", EXPERT + "w2", EXPERT + "w3"]


def test_failure_while_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    config = tiny_config()
    with pytest.raises(CheckpointError, match=r"the disk of .* is full"):
        write_adapter(tmp_path / "a", random_adapter(config), config)
    assert not list(tmp_path.iterdir())


def test_target_that_exists_is_kept(tmp_path: Path) -> None:
    config = tiny_config()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").touch()
    with pytest.raises(CheckpointError, match="exists and is not an empty folder"):
        write_adapter(tmp_path / "a", random_adapter(config), config)


@pytest.mark.parametrize(
    ("adapter", "layout", "message"),
    [
        (Adapter(matrices={}), "fused", "adapts no linear"),
        (random_adapter(tiny_config(hidden_size=32)), "fused", "for another model"),
        (random_adapter(tiny_config()), "stacked", "layout is 'stacked'; it must be one of fused"),
    ],
)
def test_what_cannot_be_written_is_named(
    adapter: Adapter, layout: PeftLayout, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        write_adapter(tmp_path / "a", adapter, tiny_config(), layout=layout)
    assert not list(tmp_path.iterdir())


Break = Callable[[Path], None]


def setting(**fields: object) -> Break:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def tensors(edit: Callable[[dict[str, torch.Tensor]], object]) -> Break:
    def change(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        found = load_file(path)
        edit(found)
        save_file({name: t.contiguous() for name, t in found.items()}, path)

    return change


def cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
EXPERTS = "base_model.model.model.layers.0.mlp.experts."
WRONG_FILES: dict[str, tuple[Break, str]] = {
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "has no adapter_config.json"),
    "no JSON": (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read as JSON"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "does not exist"),
    "cut": (cut, "is cut: tensor"),
    "empty": (tensors(dict.clear), "holds no tensors"),
    "IA3": (setting(peft_type="IA3"), "peft_type is 'IA3'; only 'LORA'"),
    "DoRA": (setting(use_dora=True), "use_dora is True; DoRA cannot be used"),
    "bias": (setting(bias="all"), "bias is 'all'"),
    "whole modules": (setting(modules_to_save=["lm_head"]), "modules that were trained whole"),
    "PiSSA": (setting(init_lora_weights="pissa_niter_4"), "which changes the base weights"),
    "rank 0": (setting(r=0), "r is 0; it must be a whole number from 1 to 1048576"),
    "alpha": (setting(lora_alpha="16"), "lora_alpha is '16'"),
    "pattern": (setting(rank_pattern={"(": 2}), "is no regular expression"),
    "huge rank": (setting(r=10**400), "r is 1000+; it must be a whole number from 1"),
    "rsLoRA as a text": (setting(use_rslora="true"), "use_rslora is 'true'; it must be true or"),
    "pattern with flags": (setting(rank_pattern={"(?i)q": 2}), "is no regular expression"),
    "pattern too large": (setting(rank_pattern={"a{99999999999}": 2}), "is no regular expression"),
    "slow pattern": (setting(rank_pattern={"(a*)*b": 2}), "could take forever"),
    "slower pattern": (setting(alpha_pattern={".*.*.*.*x": 2}), "could take forever"),
    "patterns": (setting(alpha_pattern=[1]), "must be a JSON object"),
    "another rank": (setting(r=7, rank_pattern={}), r"has rank 3 for .*; .* says 7"),
    "no B": (tensors(lambda t: t.pop(FIRST + "B.weight")), "lacks 1 tensor: .*q_proj.lora_B"),
    "NaN": (tensors(lambda t: t[FIRST + "A.weight"].fill_(torch.nan)), "is not finite"),
    "NaN in experts": (
        tensors(lambda t: t[EXPERTS + "lora_B.weight"].fill_(torch.nan)),
        "down_proj holds a value that is not finite",
    ),
    "embedding": (
        tensors(lambda t: t.update({"base_model.model.embed.lora_embedding_A": torch.ones(1, 1)})),
        "is no LoRA matrix of a linear",
    ),
    "head": (
        tensors(
            lambda t: t.update(
                {f"base_model.model.lm_head.lora_{x}.weight": torch.ones(3, 3) for x in "AB"}
            )
        ),
        "adapts lm_head, which this model does not have",
    ),
    "shape": (
        tensors(lambda t: t.update({FIRST + "A.weight": torch.ones(3, 65)})),
        r"A \[3, 65\] and B \[64, 3\] for .*q_proj; its weight is \[64, 64\]",
    ),
    "dtype": (
        tensors(lambda t: t.update({FIRST + "A.weight": torch.ones(3, 64, dtype=torch.float64)})),
        "has dtype F64",
    ),
    "twice": (
        tensors(
            lambda t: t.update(
                {
                    f"base_model.model.{EXPERT}w1.lora_A.weight": torch.ones(3, 64),
                    f"base_model.model.{EXPERT}w1.lora_B.weight": torch.ones(96, 3),
                }
            )
        ),
        "adapts .*experts.3.w1 twice",
    ),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_wrong_adapter_gets_one_line_that_names_it(case: str, tmp_path: Path) -> None:
    config, (change, message) = tiny_config(), WRONG_FILES[case]
    write_adapter(tmp_path / "a", random_adapter(config), config)
    change(tmp_path / "a")
    with pytest.raises(Error, match=message) as error:
        read_adapter(tmp_path / "a", config)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


OTHER_MODELS: list[dict[str, int]] = [
    {"num_hidden_layers": 1},
    {"num_local_experts": 6},
    {"num_local_experts": 3},
    {"intermediate_size": 64},
    {"hidden_size": 32},
    DENSE,
]


@pytest.mark.parametrize("changes", OTHER_MODELS)
def test_fused_experts_of_another_model_are_refused(
    changes: dict[str, int], tmp_path: Path
) -> None:
    adapter = random_adapter(tiny_config(), "experts")
    write_adapter(tmp_path / "a", adapter, tiny_config())
    with pytest.raises(CheckpointError, match="for another model"):
        read_adapter(tmp_path / "a", tiny_config(**changes))


@pytest.mark.parametrize("changes", [*OTHER_MODELS, {"num_key_value_heads": 4}])
def test_modules_of_another_model_are_refused(changes: dict[str, int], tmp_path: Path) -> None:
    adapter = random_adapter(tiny_config())
    write_adapter(tmp_path / "a", adapter, tiny_config(), layout="modules")
    with pytest.raises(CheckpointError, match="for another model"):
        read_adapter(tmp_path / "a", tiny_config(**changes))


def test_weights_saved_by_an_older_peft_are_read(tmp_path: Path) -> None:
    config = tiny_config()
    adapter = random_adapter(config)
    write_adapter(tmp_path / "a", adapter, config)
    new = tmp_path / "a" / "adapter_model.safetensors"
    torch.save(load_file(new), new.with_name("adapter_model.bin"))
    new.unlink()
    assert_equal(read_adapter(tmp_path / "a", config), adapter)


def test_file_is_one_that_maps(tmp_path: Path) -> None:
    config = tiny_config()
    write_adapter(tmp_path / "a", random_adapter(config), config)
    head = (tmp_path / "a" / "adapter_model.safetensors").read_bytes()[:8]
    assert struct.unpack("<Q", head)[0] % 8 == 0
    found = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
