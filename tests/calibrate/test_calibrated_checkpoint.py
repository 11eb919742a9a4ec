"""``mixtral convert --calibrate``: from a text to a packed folder with its report."""

import json
from pathlib import Path

import pytest
import torch

from mixtral import LLM
from mixtral.calibrate import CalibrationSettings, quantize_calibrated
from mixtral.calibrate import checkpoint as calibrated
from mixtral.checkpoint import convert, open_checkpoint, quantize_checkpoint
from mixtral.checkpoint.gguf import write_gguf
from mixtral.errors import ConfigError
from mixtral.model_source import find_model
from mixtral.model_tokenizer import find_tokenizer
from mixtral.quantization import find_recipe
from mixtral.tokenizer import load_tokenizer
from tests.cli.conftest import Run
from tests.models_for_tests import tiny_model

TEXT = "\n".join(
    f"Question {i}: what is {i} plus {i + 3}? The answer is {2 * i + 3}, as everybody knows."
    for i in range(400)
)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


QUICK = CalibrationSettings(min_tokens=200, max_tokens=400, min_tokens_per_expert=1)


def test_calibration_that_is_stopped_while_it_measures_leaves_nothing_and_can_run_again(
    tmp_path: Path, text: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    source, target = find_model(str(tiny)), tmp_path / "packed"
    arguments = (source, target, find_recipe("int4"), text, find_tokenizer(source))
    with monkeypatch.context() as stopped:
        stopped.setattr(calibrated, "compare_models", stop)
        with pytest.raises(KeyboardInterrupt):
            quantize_calibrated(*arguments, settings=QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]
    quantize_calibrated(*arguments, settings=QUICK)
    assert (target / "calibration.json").is_file()


def test_calibrated_file_keeps_tokenizer_and_float32_norms(tmp_path: Path, text: Path) -> None:
    file = tmp_path / "tiny.gguf"
    model = tiny_model(vocab_size=32768, hidden_size=32, num_hidden_layers=1)
    write_gguf(
        file,
        model.config,
        model.named_parameters(),
        quantization="q8_0",
        tokenizer_version="v3",
    )
    source = find_model(str(file))
    target = tmp_path / "packed"
    arguments = (source, target, find_recipe("int4"), text, find_tokenizer(source))
    quantize_calibrated(*arguments, settings=QUICK)
    assert load_tokenizer(target, vocab_size=32768).version == "v3"
    quantize_checkpoint(file, tmp_path / "plain", find_recipe("int4"))
    plain = dict(open_checkpoint(tmp_path / "plain").tensors())
    for name, tensor in open_checkpoint(target).tensors():
        assert tensor.dtype == plain[name].dtype
        if not name.endswith(".packed"):
            assert torch.equal(tensor, plain[name]), name


def test_float16_model_is_calibrated(tmp_path: Path, text: Path, tiny: Path) -> None:
    convert(tiny, tmp_path / "half", layout="hf", dtype=torch.float16)
    source = find_model(str(tmp_path / "half"))
    target = tmp_path / "packed"
    quantize_calibrated(
        source, target, find_recipe("int4"), text, find_tokenizer(source), settings=QUICK
    )
    assert open_checkpoint(target).recipe == find_recipe("int4")


def test_calibrated_folder_loads_and_its_report_measures_it(
    tmp_path: Path, text: Path, tiny: Path
) -> None:
    source = find_model(str(tiny))
    found = quantize_calibrated(
        source,
        tmp_path / "packed",
        find_recipe("int4"),
        text,
        find_tokenizer(source),
        settings=CalibrationSettings(min_tokens=600, max_tokens=1200, min_tokens_per_expert=8),
    )
    report = json.loads((tmp_path / "packed" / "calibration.json").read_text())
    assert report["quality"]["perplexity"] == found.quality.perplexity
    assert abs(found.quality.perplexity_change) < 0.05
    assert 0 < found.quality.kl_divergence < 0.2
    assert len(found.quality.same_experts) == source.config.num_hidden_layers
    assert report["calibration"]["num_tokens"] >= 600
    config = json.loads((tmp_path / "packed" / "config.json").read_text())
    assert config["quantization_config"]["origin"]["calibration"] == "text.txt"
    token_ids = list(range(1000, 1060))
    packed = LLM(tmp_path / "packed", device="cpu").logits(token_ids)
    plain = LLM(tiny, device="cpu").logits(token_ids)
    assert (packed - plain).norm() / plain.norm() < 0.4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nano", "OUT", "--quantization", "int4", "--calibrate", "nowhere.txt"], "that exists"),
        (["nano", "OUT", "--quantization", "int4", "--calibrate", "SHORT"], "at least 2"),
        (["nano", "OUT", "--format", "hf", "--calibrate", "TEXT"], "goes with --quantization"),
        (
            ["random:nano", "OUT", "--quantization", "int4", "--calibrate", "TEXT"],
            "weights are random",
        ),
    ],
)
def test_wrong_calibration_is_refused_in_one_line(
    run: Run, tmp_path: Path, text: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "short.txt").write_text("Hi.", encoding="utf-8")
    names = {"OUT": tmp_path / "out", "TEXT": text, "SHORT": tmp_path / "short.txt"}
    result = run("convert", *(str(names.get(a, a)) for a in arguments))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_packed_source_is_refused(run: Run, tmp_path: Path, text: Path, tiny: Path) -> None:
    assert run("convert", tiny, tmp_path / "p", "--quantization", "int8").exit_code == 0
    command = ["convert", str(tmp_path / "p"), str(tmp_path / "q"), "--quantization", "int4"]
    result = run(*command, "--calibrate", str(text))
    assert result.exit_code in (1, 2)
    assert "packed as int8" in " ".join(result.stderr.split())


def test_reader_of_the_text_needs_two_sequences(tmp_path: Path) -> None:
    source = find_model("nano")
    (tmp_path / "one.txt").write_text("one line", encoding="utf-8")
    with pytest.raises(ConfigError, match="at least 2"):
        quantize_calibrated(
            source,
            tmp_path / "out",
            find_recipe("int3"),
            tmp_path / "one.txt",
            find_tokenizer(source),
        )
