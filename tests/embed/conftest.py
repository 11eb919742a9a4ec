"""The bundled model, loaded once, and a tiny model of our own making."""

import shutil
from importlib import util
from pathlib import Path

import pytest

pytest.importorskip("sentence_transformers", reason="the extra embed is not installed")

from mixtral.embed import Embedder
from mixtral.embed.source import BUNDLED_PACKAGE


@pytest.fixture(scope="session")
def bundled_folder() -> Path:
    """The data files of all-MiniLM-L6-v2."""
    spec = util.find_spec(BUNDLED_PACKAGE.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{BUNDLED_PACKAGE} is not installed")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def embedder(bundled_folder: Path) -> Embedder:
    """all-MiniLM-L6-v2."""
    return Embedder()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, bundled_folder: Path) -> Path:
    """A random model of 32 components that reads 24 tokens and does not normalise its vectors."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel

    source = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(source)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(bundled_folder / name, source)
    folder = tmp_path_factory.mktemp("tiny")
    transformer = Transformer(str(source), max_seq_length=24)
    pooling = Pooling(32, pooling_mode="cls")
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(folder))
    return folder
