"""What a measurement says of its model: enough to tell it from every other one."""

import json
from pathlib import Path

from mixtral.cli.measuring import describe
from mixtral.cli.options import ModelOptions


def test_adapter_is_told_from_itself_at_another_scale(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    config = tmp_path / "adapter_config.json"
    found = []
    for alpha in (8, 8, 16):
        config.write_text(json.dumps({"r": 8, "lora_alpha": alpha}))
        found.append(describe(ModelOptions(model="random:nano"), adapter=str(tmp_path)))
    assert found[0] == found[1] != found[2]


def test_tokenizer_file_is_told_from_another_at_the_same_path(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.model"
    found = []
    for content in (b"one", b"one", b"two"):
        file.write_bytes(content)
        model = ModelOptions(model="random:nano", tokenizer=str(file))
        found.append(describe(model, adapter=None))
    assert found[0] == found[1] != found[2]
    named = describe(ModelOptions(model="random:nano", tokenizer="v3"), adapter=None)
    assert "tokenizer_fingerprint" not in named
