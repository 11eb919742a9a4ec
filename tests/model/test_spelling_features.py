"""First vectors of tokens: what is spelled alike is alike, and nothing else is."""

import math

import pytest
import torch

from mixtral.model.spelling_features import spelling_features

PIECES = [
    b"",
    b" word",
    b"word",
    b" Word",
    b"WORD",
    b" wordy",
    b" stone",
    b"",
    b"\n",
    b" ",
    b"\xe9",
]
WIDTH = 2048  # so wide that vectors without anything in common are nearly at right angles


def cosines(pieces: list[bytes] = PIECES, seed: int = 0) -> torch.Tensor:
    rows = spelling_features(pieces, WIDTH, torch.Generator().manual_seed(seed))
    assert rows.shape == (len(pieces), WIDTH)
    torch.testing.assert_close(rows.norm(dim=1), torch.full((len(pieces),), math.sqrt(WIDTH)))
    return rows @ rows.T / WIDTH


def test_forms_of_a_word_are_alike_and_other_words_less() -> None:
    found = cosines()
    for form in (2, 3, 4):
        assert found[1, form] > 0.65
    assert 0.15 < found[1, 5] < 0.45  # begins with the same letters
    assert abs(found[1, 6]) < found[1, 5]


def test_bytes_of_a_character_are_no_space() -> None:
    quote = "\u201c".encode()
    found = cosines([quote, b" " + quote, quote[1:], b" " + quote[1:]])
    assert found[0, 1] > 0.65
    assert found[0, 2] < 0.4


def test_no_two_tokens_are_the_same_and_control_tokens_are_like_nothing() -> None:
    found = cosines() - torch.eye(len(PIECES))
    assert found.max() < 0.9
    assert found[0].abs().max() < 0.1
    assert found[7].abs().max() < 0.1


def test_first_letter_can_be_read_off_by_a_linear_probe() -> None:
    """Sorting and spelling words that were never seen needs no more than that."""
    generator = torch.Generator().manual_seed(1)
    letters = torch.randint(97, 123, (800, 6), generator=generator)
    pieces = [b" " + bytes(row) for row in letters.tolist()]
    rows = spelling_features(pieces, 256, generator)
    targets = torch.nn.functional.one_hot(letters[:, 0] - 97, 26).float()
    weights = torch.linalg.lstsq(rows[:600], targets[:600]).solution
    right = (rows[600:] @ weights).argmax(1) == letters[600:, 0] - 97
    assert right.float().mean() > 0.6  # chance: 0.04


@pytest.mark.parametrize("seed", [0, 1])
def test_equal_seeds_give_equal_vectors(seed: int) -> None:
    assert torch.equal(cosines(seed=seed), cosines(seed=seed))
    assert not torch.equal(cosines(seed=seed), cosines(seed=seed + 1))
