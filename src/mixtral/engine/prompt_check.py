"""Checks token ids that come from outside."""

from collections.abc import Sequence
from operator import index

from mixtral.errors import InvalidRequest


def check_prompt(token_ids: Sequence[int], vocab_size: int) -> list[int]:
    """Check that a prompt has tokens that the model knows, and return them as plain numbers.

    Raises:
        InvalidRequest: It is empty, or a token id is not in the vocabulary.
    """
    if not len(token_ids):
        raise InvalidRequest("the prompt has no tokens; it must have at least one.")
    return check_ids("the prompt", token_ids, vocab_size)


def check_ids(name: str, token_ids: Sequence[int], vocab_size: int) -> list[int]:
    """Return token ids as plain numbers.

    Raises:
        InvalidRequest: One is no whole number from 0 to ``vocab_size - 1``; the message says
            ``name`` and the id.
    """
    checked = []
    for token_id in token_ids:
        try:
            # Whole numbers of NumPy and torch have an index, floats and texts do not.
            number = -1 if isinstance(token_id, bool) else index(token_id)
        except TypeError:
            number = -1
        if not 0 <= number < vocab_size:
            raise InvalidRequest(
                f"{name} has the token id {token_id!r}; this model knows the whole numbers "
                f"from 0 to {vocab_size - 1}."
            )
        checked.append(number)
    return checked
