"""What ``mixtral rag`` prints: sources, passages, lists, and what an answer alone does not show.

Texts of documents come from anywhere. They are printed without markup, and a terminal sees their
control characters spelled out.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from mixtral.cli.console import format_count, note, write_text

if TYPE_CHECKING:
    from mixtral.rag import AddedDocument, Passage, RagAnswer, StoredDocument
    from mixtral.rag.citations import Citation

_MOST_REASONS = 20  # Lines about refused files; --json has all.
_SHOWN_CHARACTERS = 400  # Of a passage in a list of passages.


def print_documents(documents: "Sequence[StoredDocument]") -> None:
    """Print two lines for each document: what it is, and where it came from."""
    for one in documents:
        added = datetime.fromtimestamp(one.added_at).astimezone().strftime("%Y-%m-%d %H:%M")
        sizes = [] if one.num_pages is None else [plural(one.num_pages, "page")]
        sizes.append(plural(one.num_chunks, "passage"))
        sizes.append(f"{format_count(one.num_characters)} characters")
        title = " ".join(one.title.split())
        write_text(f"{one.document_id}  {title} ({', '.join(sizes)}), added {added}\n")
        write_text(f"    {one.source}\n")


def print_sources(answer: "RagAnswer") -> None:
    """Print where an answer comes from, or where to read if nothing supports it."""
    for citation in answer.citations:
        mark = "" if citation.is_supported else " (named by the model; its words are not there)"
        write_text(f"\n{_span(citation)}{mark}\n")
        if citation.is_supported:
            write_text(_indented(citation.text))
    if answer.nearest is not None:
        write_text("\nNearest to the question, in the document's words:\n")
        write_text(f"{_span(answer.nearest)}\n{_indented(answer.nearest.text)}")


def print_passages(passages: "Sequence[Passage]") -> None:
    """Print passages with their numbers, long ones cut."""
    for number, passage in enumerate(passages, start=1):
        head = f"[{number}] {_place(passage)}, similarity {passage.similarity:.2f}\n"
        write_text(("\n" if number > 1 else "") + head + _indented(passage.text))


def _span(citation: "Citation") -> str:
    where = _place(citation.passage)
    return f"[{citation.number}] {where}, characters {citation.start} to {citation.end}"


def _place(passage: "Passage") -> str:
    page = "" if passage.page is None else f", page {passage.page}"
    heading = f", {passage.heading}" if passage.heading else ""
    return " ".join(f"{passage.source}{page}{heading}".split())


def _indented(text: str) -> str:
    shown = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + " [...]"
    return "".join(f"    {line}\n" for line in shown.splitlines() if line.strip())


def note_limits(answer: "RagAnswer", found: "Sequence[Passage]") -> None:
    """Say on standard error what the answer alone does not show."""
    if not answer.passages:
        nearest = max((passage.similarity for passage in found), default=None)
        if nearest is None:
            note("the store has no passages; add documents with mixtral rag add.")
        else:
            note(
                f"the nearest passage has a similarity of {nearest:.2f}; mixtral rag search shows "
                "it, --min-similarity -1 asks the model all the same."
            )
    elif answer.is_found and not answer.citations:
        note("no passage supports this answer; --show-passages prints what the model was shown.")
    if answer.num_left_out:
        count = plural(answer.num_left_out, "passage")
        note(f"{count} did not fit into the context of the model and had no part in this.")
    if answer.is_cut:
        note("only the beginning of the passage fitted into the context of the model.")
    if answer.unknown_numbers:
        numbers = ", ".join(f"[{number}]" for number in answer.unknown_numbers)
        note(f"the answer names {numbers}, and there is no such passage.")
    if answer.finish_reason == "length":
        note("the answer was cut off; --max-tokens allows a longer one.")


def note_refused(added: "Sequence[AddedDocument]") -> None:
    """Say on standard error which files were refused, and why."""
    refused = [one for one in added if one.status == "refused" and not _is_skipped(one)]
    for one in refused[:_MOST_REASONS]:
        note(printable(f"{one.source}: {one.reason}"))
    if len(refused) > _MOST_REASONS:
        note(f"... and {len(refused) - _MOST_REASONS} more; --json has the reasons.")
    if any(_is_skipped(one) for one in added):
        note("skipped are files that hold no text that can be read; --json names them.")


def counted(added: "Sequence[AddedDocument]") -> str:
    """Return how many documents became what; empty for none."""
    counts: dict[str, int] = {}
    for one in added:
        name = "skipped" if _is_skipped(one) else one.status
        counts[name] = counts.get(name, 0) + 1
    order = ("added", "updated", "unchanged", "refused", "skipped")
    return ", ".join(f"{counts[n]} {n}" for n in order if n in counts)


def _is_skipped(document: "AddedDocument") -> bool:
    return document.status == "refused" and (document.reason or "").startswith("skipped")


def plural(number: int, noun: str) -> str:
    """Return a number of things.

    >>> plural(1, "passage"), plural(2, "passage")
    ('1 passage', '2 passages')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def printable(text: str) -> str:
    r"""Return text without characters that a terminal would carry out.

    >>> printable("a\x1b[2Jb")
    'a [2Jb'
    """
    return "".join(c if c.isprintable() else " " for c in text)
