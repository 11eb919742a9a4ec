"""An embedder that needs no model, and small files of each kind."""

import io
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixtral.rag import AddedDocument, Collection, CollectionSettings

DIMENSION = 64
SMALL = CollectionSettings(chunk_tokens=32, overlap_tokens=8)
TEXTS = {
    "moon.txt": "The moon goes around the earth in 27 days. It is made of rock.",
    "bread.txt": "Bread is baked from flour, water and salt. The oven is hot.",
    "router.txt": "The router of a Mixtral chooses two experts for each token. E4711 is rare.",
}


def write_texts(folder: Path) -> Path:
    """Make a folder of three documents."""
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    return folder


def open_at(
    place: Path | str,
    *,
    name: str = "hash",
    settings: CollectionSettings | None = SMALL,
    embedder: "Callable[[Sequence[str]], NDArray[np.float32]] | None" = None,
    create: bool = True,
) -> Collection:
    """Open a collection with the embedder below."""
    return Collection(
        place, embed=embedder or embed, embedder_name=name, settings=settings, create=create
    )


def statuses(added: Sequence[AddedDocument]) -> dict[str, str]:
    """Names of files to what became of them."""
    return {Path(one.source).name: one.status for one in added}


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return unit vectors that count hashed character trigrams: like texts have like vectors."""
    vectors = np.full((len(texts), DIMENSION), 1e-3, dtype=np.float32)
    for vector, text in zip(vectors, texts, strict=True):
        codes = np.frombuffer(text.lower().encode("utf-32-le"), dtype=np.uint32).astype(np.int64)
        if len(codes) > 2:
            hashed = (codes[:-2] * 31 + codes[1:-1] * 1009 + codes[2:] * 65537) % 1021 % DIMENSION
            vector += np.bincount(hashed, minlength=DIMENSION)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_pdf(
    pages: Sequence[str], *, title: str = "", bookmarks: Sequence[tuple[str, int]] = ()
) -> bytes:
    """Return a PDF with a line of text on each line of each page, page numbers from 1."""
    streams = [
        "\n".join(
            f"BT /F1 12 Tf 72 {720 - 14 * row} Td ({line}) Tj ET"
            for row, line in enumerate(page.split("\n"))
        ).encode("latin-1")
        for page in pages
    ]
    return pdf_with_streams(streams, title=title, bookmarks=bookmarks)


def pdf_with_streams(
    streams: Sequence[bytes], *, title: str = "", bookmarks: Sequence[tuple[str, int]] = ()
) -> bytes:
    """Return a PDF whose pages have these content streams, compressed."""
    num = len(streams)
    page_ids = [4 + 2 * i for i in range(num)]
    outline_id = 4 + 2 * num
    kids = " ".join(f"{i} 0 R" for i in page_ids)
    outlines = f" /Outlines {outline_id} 0 R" if bookmarks else ""
    objects = {
        1: f"<< /Type /Catalog /Pages 2 0 R{outlines} >>".encode(),
        2: f"<< /Type /Pages /Kids [{kids}] /Count {num} >>".encode(),
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    }
    for page_id, stream in zip(page_ids, streams, strict=True):
        packed = zlib.compress(stream)
        objects[page_id] = (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {page_id + 1} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        ).encode()
        head = f"<< /Length {len(packed)} /Filter /FlateDecode >>\nstream\n".encode()
        objects[page_id + 1] = head + packed + b"\nendstream"
    if bookmarks:
        first, last = outline_id + 1, outline_id + len(bookmarks)
        objects[outline_id] = (
            f"<< /Type /Outlines /First {first} 0 R /Last {last} 0 R /Count {len(bookmarks)} >>"
        ).encode()
        for place, (name, page) in enumerate(bookmarks):
            after = f" /Next {first + place + 1} 0 R" if first + place < last else ""
            objects[first + place] = (
                f"<< /Title ({name}) /Parent {outline_id} 0 R "
                f"/Dest [{page_ids[page - 1]} 0 R /Fit]{after} >>"
            ).encode()
    info = max(objects) + 1
    objects[info] = f"<< /Title ({title}) >>".encode()
    return _file(objects, info)


def _file(objects: dict[int, bytes], info: int) -> bytes:
    out = io.BytesIO()
    out.write(b"%PDF-1.4\n")
    places = {}
    for number in sorted(objects):
        places[number] = out.tell()
        out.write(f"{number} 0 obj\n".encode() + objects[number] + b"\nendobj\n")
    start = out.tell()
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
    for number in sorted(objects):
        out.write(f"{places[number]:010d} 00000 n \n".encode())
    trailer = f"<< /Size {len(objects) + 1} /Root 1 0 R /Info {info} 0 R >>"
    out.write(f"trailer\n{trailer}\nstartxref\n{start}\n%%EOF\n".encode())
    return out.getvalue()


def make_docx(blocks: Sequence[tuple[str, str]], *, title: str = "") -> bytes:
    """Return a docx of paragraphs, each a style and a text."""
    import docx

    document = docx.Document()
    document.core_properties.title = title
    for style, text in blocks:
        document.add_paragraph(text, style=style)
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()
