"""Chunks cover the text, keep to their sizes and sections, and overlap where a section goes on."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixtral.errors import ConfigError
from mixtral.rag.chunking import (
    Chunk,
    chunk_document,
    embedded_text,
    estimate_tokens,
)
from mixtral.rag.documents import Document, Section
from mixtral.rag.read_markdown import read_markdown
from mixtral.rag.read_text import read_code
from mixtral.rag.settings import CollectionSettings


def count_words(texts: Sequence[str]) -> list[int]:
    """A tokenizer with a token for each word."""
    return [len(text.split()) for text in texts]


def count_characters(texts: Sequence[str]) -> list[int]:
    return [len(text) for text in texts]


def plain(text: str, *cuts: int, is_code: bool = False) -> Document:
    ends = sorted({*(min(cut, len(text)) for cut in cuts), len(text)} - {0})
    starts = [0, *ends][:-1]
    sections = tuple(
        Section(start=start, end=end, heading=f"H{start}", page=number)
        for number, (start, end) in enumerate(zip(starts, ends, strict=True), start=1)
        if start < end
    )
    return Document(title="t", text=text, sections=sections, is_code=is_code)


def chunk(
    document: Document, *, tokens: int = 16, overlap: int = 4, count: object = count_words
) -> list[Chunk]:
    sizes = CollectionSettings(chunk_tokens=tokens, overlap_tokens=overlap)
    return chunk_document(document, sizes, count)  # type: ignore[arg-type]


def texts(document: Document, chunks: Sequence[Chunk]) -> list[str]:
    return [document.text[one.start : one.end] for one in chunks]


pieces = st.sampled_from(
    (
        *("word", "two words", ".", ". ", "\n", "\n\n", " ", "\t", ":\n", "- item", "1. x"),
        *("a" * 90, "!", "東京都。", "\u2028", "😀", "é", "def f():\n", "    return", "#"),
    )
)


@settings(deadline=None, max_examples=150)
@given(
    text=st.lists(pieces, max_size=120).map("".join),
    cuts=st.lists(st.integers(0, 300), max_size=3),
    is_code=st.booleans(),
    overlap=st.integers(0, 8),
    by_characters=st.booleans(),
)
@example(text="wordtwo wordstwo words.\n\n", cuts=[], is_code=False, overlap=7, by_characters=True)
@example(
    text=".- item\n\n\ntwo words     return",
    cuts=[7],
    is_code=False,
    overlap=4,
    by_characters=True,
)
def test_chunks_are_spans_that_cover_the_text_within_size_and_section(
    text: str, cuts: list[int], is_code: bool, overlap: int, by_characters: bool
) -> None:
    document = plain(text, *cuts, is_code=is_code)
    count = count_characters if by_characters else count_words
    chunks = chunk(document, overlap=overlap, count=count)
    covered = bytearray(len(text))
    for one in chunks:
        found = text[one.start : one.end]
        assert found
        assert found == (found.rstrip() if is_code else found.strip())
        assert not found.startswith("\n")
        assert count([found]) <= [16]
        (section,) = [s for s in document.sections if s.start <= one.start < s.end]
        assert one.end <= section.end
        assert (one.heading, one.page) == (section.heading, section.page)
        covered[one.start : one.end] = b"x" * (one.end - one.start)
    left_out = "".join(char for char, is_in in zip(text, covered, strict=True) if not is_in)
    assert not left_out.strip()
    starts = [one.start for one in chunks]
    ends = [one.end for one in chunks]
    assert starts == sorted(set(starts))
    assert ends == sorted(set(ends)), "a chunk within another says nothing new"


def test_the_example_of_the_module_is_what_it_does() -> None:
    a, b, c = "a a a a a. ", "b b b b. ", "c c c.\n\n"
    d, e = "d d. ", "e e e e e e e."
    document = plain(a + b + c + d + e)
    sizes = CollectionSettings(chunk_tokens=16, overlap_tokens=4)
    object.__setattr__(sizes, "chunk_tokens", 12)
    chunks = chunk_document(document, sizes, count_words)
    assert texts(document, chunks) == [(a + b + c).strip(), c + d + e]


def test_what_fits_into_one_chunk_is_one_chunk() -> None:
    document = plain("One sentence. Another one.\n\nA paragraph.")
    assert texts(document, chunk(document)) == [document.text]


def test_chunk_ends_at_a_paragraph_rather_than_at_a_sentence_rather_than_in_one() -> None:
    one, two, three = "a b c d e. " * 2, "f g.\n\n", "h i. " * 4
    document = plain(one + two + three)
    first, *_ = texts(document, chunk(document, overlap=0))
    assert first == (one + two).strip()
    document = plain("a b c d e f. g h i j k l. m n o p q r s t u v w x y z.")
    first, *_ = texts(document, chunk(document, overlap=0))
    assert first == "a b c d e f. g h i j k l."


def test_next_chunk_repeats_whole_sentences_up_to_the_overlap() -> None:
    sentences = [f"word{i} x y." for i in range(20)]
    document = plain(" ".join(sentences))
    chunks = chunk(document, overlap=6)
    for before, after in itertools.pairwise(chunks):
        shared = document.text[after.start : before.end]
        assert len(shared.split()) == 6
        assert shared in " ".join(sentences)
        assert shared.startswith("word")
    without = chunk(document, overlap=0)
    assert all(a.end <= b.start for a, b in itertools.pairwise(without))


def test_word_longer_than_a_chunk_is_cut() -> None:
    document = plain("x" * 1000)
    found = chunk(document, overlap=0, count=count_characters)
    assert "".join(texts(document, found)) == document.text


def test_markdown_and_code_chunks_have_their_headings() -> None:
    document = read_markdown("a.md", b"# A\n\ntext\n\n## B\n\n" + b"words here. " * 20)
    found = chunk(document)
    assert [one.heading for one in found][:2] == ["A", "A > B"]
    assert len(found) > 3
    assert {one.heading for one in found[1:]} == {"A > B"}
    code = read_code("a.py", b"def f():\n    pass\n\n\ndef g():\n    pass\n")
    assert texts(code, chunk(code)) == ["def f():\n    pass", "def g():\n    pass"]
    assert [one.heading for one in chunk(code)] == ["def f", "def g"]


def test_long_code_is_cut_at_lines() -> None:
    lines = [f"    x = call({i}, {i})" for i in range(40)]
    document = read_code("a.py", ("def f():\n" + "\n".join(lines)).encode())
    found = texts(document, chunk(document, overlap=0))
    assert len(found) > 5
    assert "\n".join(found) == document.text


def test_windows_of_characters_are_those_of_the_guide() -> None:
    text = "The guide cuts without looking. " * 60
    document = plain(text)
    for size, overlap in ((512, 0), (100, 20)):
        sizes = CollectionSettings(chunk_characters=size, overlap_characters=overlap)
        found = chunk_document(document, sizes, count_words)
        step = size - overlap
        theirs = [text[i : i + size] for i in range(0, len(text), step)]
        assert texts(document, found) == theirs[: len(found)]
        assert found[-1].end == len(text)
    paged = plain(text, 700)
    sizes = CollectionSettings(chunk_characters=512)
    found = chunk_document(paged, sizes, count_words)
    assert [(one.page, one.start) for one in found] == [
        (1, 0),
        (1, 512),
        (2, 700),
        (2, 1212),
        (2, 1724),
    ]


def test_text_is_counted_in_few_calls() -> None:
    calls = []

    def count(some: Sequence[str]) -> list[int]:
        calls.append(len(some))
        return count_words(some)

    document = plain("One sentence of six words here. " * 500, 100, 2000, 9000)
    assert len(chunk(document, count=count)) > 100
    assert len(calls) <= 6


def test_embedded_text_begins_with_the_nearest_part_of_the_heading() -> None:
    assert embedded_text(None, "text") == "text"
    assert embedded_text("A > B", "text") == "A > B\ntext"
    long = embedded_text("far " * 100 + "near", "text")
    assert len(long) <= 165
    assert long.endswith("near\ntext")


def test_estimate_is_not_below_words_and_grows_with_bytes() -> None:
    assert estimate_tokens(["", "a b c d", "experts", "東京都"]) == [0, 4, 3, 3]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chunk_tokens": 8}, "chunk_tokens is 8; .* from 16 to 8192"),
        ({"overlap_tokens": 100}, "overlap_tokens is 100; .* from 0 to 96"),
        ({"chunk_characters": 1}, "chunk_characters is 1"),
        ({"overlap_characters": 5}, "overlap_characters is 5; .* from 0 to 0"),
        ({"chunk_characters": 100, "overlap_characters": 51}, "from 0 to 50"),
        ({"chunk_characters": 512, "chunk_tokens": 64}, "chunk_tokens is 64 and .* leave one out"),
        ({"chunk_characters": 512, "overlap_tokens": 0}, "overlap_tokens is 0 and .* 512"),
        ({"fusion": "sum"}, "fusion is 'sum'; it must be weights or ranks"),
        ({"keyword_weight": 1.5}, "keyword_weight is 1.5; .* from 0 to 1"),
        ({"diversity": float("nan")}, "diversity is nan"),
        ({"num_candidates": 0}, "num_candidates is 0"),
        ({"exact_up_to": -1}, "exact_up_to is -1"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CollectionSettings(**fields)  # type: ignore[arg-type]
