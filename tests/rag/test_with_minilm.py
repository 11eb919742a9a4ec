"""The bundled embedding model in a collection: meaning is found, and no chunk is cut by it."""

import shutil
from importlib import util
from pathlib import Path

import pytest

pytest.importorskip("faiss", reason="the extra rag is not installed")
pytest.importorskip("sentence_transformers", reason="the extra embed is not installed")

from mixtral.embed import Embedder
from mixtral.embed.source import BUNDLED_PACKAGE
from mixtral.errors import CheckpointError, ConfigError
from mixtral.rag import Collection, CollectionSettings
from mixtral.rag.ask import Ask
from mixtral.rag.chunking import embedded_text
from mixtral.rag.embedding import cross_encoder

DOCUMENTS = {
    "growth.txt": "Before college the two main things I worked on, outside of school, were writing "
    "and programming. I wrote short stories, and tried programs on the IBM 1401.",
    "painting.txt": "I wanted not just to build things, but to build things that would last. "
    "Paintings were made hundreds of years ago, and people still look at them.",
    "ban.txt": "After the match the player was excluded from the sport for three games, because he "
    "had struck an opponent with his head.",
    "packing.txt": "Weights of four bits lie two to a byte, the even column in the low half. A "
    "scale of sixteen bits stands for each group of 128.",
}
QUESTIONS = {
    "What were the two main things the author worked on before college?": "growth.txt",
    "Why was he banned from football?": "ban.txt",
    "How is int4 packed?": "packing.txt",
    "Which art survives its maker?": "painting.txt",
}


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    if util.find_spec(BUNDLED_PACKAGE.replace("-", "_")) is None:
        pytest.skip(f"{BUNDLED_PACKAGE} is not installed")
    return Embedder()


def test_question_finds_the_passage_that_answers_it_first(
    embedder: Embedder, tmp_path: Path
) -> None:
    with Collection.of(tmp_path / "store", embedder) as collection:
        for name, text in DOCUMENTS.items():
            collection.add_bytes(name, text.encode())
        for question, name in QUESTIONS.items():
            assert collection.search(question, limit=1)[0].source == name


@pytest.mark.slow
def test_question_about_int4_finds_its_layout_in_our_own_docs(
    embedder: Embedder, tmp_path: Path
) -> None:
    question = "how is int4 packed?"
    with Collection.of(tmp_path / "store", embedder) as collection:
        collection.add([Path(__file__).resolve().parents[2] / "docs"])
        first = collection.search(question)[0]
    assert (Path(first.source).name, first.heading) == (
        "quantization.md",
        "Quantization > The layout",
    )
    assert Ask().is_relevant(question, first)


def test_chunks_have_the_size_that_was_asked_for_and_the_model_reads_all_of_them(
    embedder: Embedder, tmp_path: Path
) -> None:
    paragraph = "The router sends each token to two experts; Zürich's 東京 pays 12,345.67 for it. "
    text = "\n\n".join(f"# Heading {i}\n\n" + paragraph * 40 for i in range(2))
    settings = CollectionSettings(chunk_tokens=100, overlap_tokens=30)
    with Collection.of(tmp_path / "store", embedder, settings=settings) as collection:
        collection.add_bytes("a.txt", text.encode())
        found = collection.search("router", limit=100)
        sizes = embedder.embed([passage.text for passage in found]).num_tokens
        assert max(sizes) <= 100 + 2  # And the two special tokens.
        assert sum(sizes) / len(sizes) > 70
        whole = embedder.embed([embedded_text(p.heading, p.text) for p in found])
        assert not any(whole.is_cut)


def test_chunks_longer_than_the_model_reads_are_refused(embedder: Embedder, tmp_path: Path) -> None:
    settings = CollectionSettings(chunk_tokens=300)
    told = r"chunk_tokens is 300, and all-MiniLM-L6-v2 reads chunks of up to 253"
    with Collection.of(tmp_path / "store", embedder, settings=settings) as collection:
        with pytest.raises(ConfigError, match=told):
            collection.add_bytes("a.txt", b"text")
        assert collection.documents() == []


def test_cross_encoder_ranks_the_best_passages_again(embedder: Embedder, tmp_path: Path) -> None:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    spec = util.find_spec(BUNDLED_PACKAGE.replace("-", "_"))
    assert spec is not None
    assert spec.submodule_search_locations
    folder = tmp_path / "cross"
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(Path(spec.submodule_search_locations[0]) / "model" / name, folder)
    rerank = cross_encoder(folder)
    texts = list(DOCUMENTS.values())
    scores = rerank("Which art survives?", texts)
    assert len(scores) == 4
    with Collection.of(
        tmp_path / "store", embedder, settings=CollectionSettings(diversity=0), rerank=rerank
    ) as collection:
        for name, text in DOCUMENTS.items():
            collection.add_bytes(name, text.encode())
        found = collection.search("Which art survives?")
        expected = sorted(zip(scores, texts, strict=True), reverse=True)
        assert [passage.text for passage in found] == [text for _, text in expected]
    with pytest.raises(CheckpointError, match="is no folder"):
        cross_encoder(tmp_path / "missing")
