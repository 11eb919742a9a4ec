"""The figure of what is learned: every character stands in it, and the learned ones are marked."""

from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="pictures need the extra train")

from matplotlib.patches import Rectangle

from mixtral.pictures import save_figure
from mixtral.train.mask_picture import draw_learned, wrap_pieces

PIECES = [("<s>[INST] Which?\nTell me $1 and $2.[/INST]", False), (" Both." * 30 + "</s>", True)]


def test_every_character_is_drawn_once_and_the_learned_ones_have_a_ground() -> None:
    (axes,) = draw_learned([("a.jsonl:1", PIECES)]).axes
    drawn = "".join(text.get_text() for text in axes.texts)
    assert drawn == "a.jsonl:1" + "".join(
        f"  {''.join(part for part, _ in line)}" for line in wrap_pieces(PIECES, 106)
    )
    grounds = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    assert sum(bar.get_width() for bar in grounds) == len(PIECES[1][0])


def test_lines_keep_all_text_and_are_no_longer_than_asked() -> None:
    lines = list(wrap_pieces(PIECES, 20))
    assert all(sum(len(part) for part, _ in line) <= 20 for line in lines)
    for is_learned in (False, True):
        kept = "".join(part for line in lines for part, learned in line if learned is is_learned)
        assert kept == "".join(text for text, learned in PIECES if learned is is_learned).replace(
            "\n", ""
        )


def test_an_endless_text_is_cut_with_a_word_about_it() -> None:
    (axes,) = draw_learned([("a.jsonl:1", [("line\n" * 1000, True)])]).axes
    assert axes.texts[-1].get_text() == "... 603 more lines"
    assert len(axes.patches) == 399  # the title is not learned


def test_the_same_text_gives_the_same_file(tmp_path: Path) -> None:
    files = [save_figure(draw_learned([("a", PIECES)]), tmp_path / f"{n}.png") for n in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()
