"""What a sequence may say next, as the engine sees it: bits, not grammars.

Whoever knows text (``mixtral.structured``, ``mixtral.tools``) gives the engine an object of this
shape per sequence. The engine calls ``prepare`` as soon as the tokens so far are known, runs the
model, and asks for ``mask`` only when the logits are there, so finding the mask costs no step time
where it can be done on another thread.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Constraint(Protocol):
    """State of one sequence under a grammar."""

    def prepare(self, num_remaining: int) -> None:
        """Begin to work out which tokens may come next; returns at once.

        Args:
            num_remaining: Tokens that the answer may still have, at least 1. A constraint may use
                it to steer to a valid end in time.
        """

    def mask(self) -> NDArray[np.uint32] | None:
        """Return the tokens that may come next, waiting for ``prepare`` where it still works.

        Returns:
            ceil(V / 32) words, bit ``i % 32`` of word ``i // 32`` set where token i is allowed, or
            None where every token is. The end token is set where the text may end here.
        """

    def accept(self, token_id: int) -> None:
        """Note the token that was chosen; it was allowed by ``mask``."""

    @property
    def is_complete(self) -> bool:
        """Whether the text is whole and nothing but the end token could follow."""

    @property
    def was_shortened(self) -> bool:
        """Whether ``num_remaining`` made the text end earlier than the model wanted."""
