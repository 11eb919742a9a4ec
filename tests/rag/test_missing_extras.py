"""Without an optional package, one line says which extra brings it."""

import sys
from pathlib import Path

import pytest

from mixtral.errors import UnsupportedError
from mixtral.rag.documents import Kind, read_document
from mixtral.rag.limits import Limits
from tests.rag.documents_for_tests import open_at

RAG, QDRANT = r"pip install 'mixtral\[rag\]'", r"pip install 'mixtral\[qdrant\]'"


@pytest.mark.parametrize(
    ("package", "kind"),
    [("pypdf", "pdf"), ("docx", "docx"), ("bs4", "html"), ("markdown_it", "markdown")],
)
def test_reader_without_its_package_names_the_extra(
    package: str, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnsupportedError, match=RAG):
        read_document("a", b"text", kind, Limits())


def test_collection_without_faiss_names_the_extra_and_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UnsupportedError, match=RAG):
        open_at(tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("package", ["qdrant_client", "Stemmer"])
def test_qdrant_without_its_packages_names_the_extra(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if package == "Stemmer":
        pytest.importorskip("qdrant_client", reason="the extra qdrant is not installed")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnsupportedError, match=QDRANT):
        open_at(f"qdrant://{tmp_path / 'q'}")
