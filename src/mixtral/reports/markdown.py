"""Blocks of a report as Markdown."""

from collections.abc import Iterable, Sequence

from mixtral.reports.report import Block, Heading, Table


def markdown(blocks: Sequence[Block]) -> str:
    """Return blocks with an empty line between them.

    >>> print(markdown(["Two tokens.", Heading("Load")]), end="")
    Two tokens.
    <BLANKLINE>
    ## Load
    """
    return "\n".join(_block(block) for block in blocks)


def markdown_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: Sequence[int] = (0,)
) -> str:
    """Return a table; columns of words begin on the left, columns of numbers end on the right.

    >>> print(markdown_table(("layer", "load"), [("0", "1.00")]), end="")
    | layer | load |
    |---|--:|
    | 0 | 1.00 |
    """
    first, *others = ("| " + " | ".join(map(_escape, line)) + " |" for line in (head, *rows))
    rule = "|".join("---" if place in text_columns else "--:" for place in range(len(head)))
    return "\n".join([first, f"|{rule}|", *others]) + "\n"


def _block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"## {block.text}\n"
    if isinstance(block, Table):
        return markdown_table(block.head, block.rows, text_columns=block.text_columns)
    return f"{block}\n"


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
