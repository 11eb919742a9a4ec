"""Waiting sequences, in the order in which they should start.

Higher priority first. Within one priority, owners (API keys) share the engine evenly, whatever
each of them sends: the owner that was served least comes next (virtual token counter,
arXiv:2401.00588, section 4.1). Within one owner, first come, first served.

An owner's account counts the tokens run for it, those of answers twice, because each takes a step
of its own. An owner who comes back after a pause starts at the account of the least served one
present, so nobody can save up.
"""

from bisect import insort
from collections.abc import Iterator

from mixtral.engine.sequence import Sequence

_OUTPUT_WEIGHT = 2


class FairQueue:
    """Sequences that wait, and what each owner has received."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Sequence]] = {}
        self._accounts: dict[str, int] = {}
        self._num_present: dict[str, int] = {}

    def __len__(self) -> int:
        """Count the waiting sequences."""
        return sum(map(len, self._waiting.values()))

    def arrive(self, sequence: Sequence) -> None:
        """Note that an owner has one more sequence in the engine, waiting or running."""
        owner = sequence.owner
        if owner not in self._num_present:
            present = [self._accounts[name] for name in self._num_present]
            least = min(present, default=0)
            self._accounts[owner] = max(self._accounts.get(owner, 0), least)
            if not present:
                self._accounts = {owner: 0}
        self._num_present[owner] = self._num_present.get(owner, 0) + 1

    def leave(self, sequence: Sequence) -> None:
        """Note that a sequence has left the engine."""
        self._num_present[sequence.owner] -= 1
        if not self._num_present[sequence.owner]:
            del self._num_present[sequence.owner]

    def push(self, sequence: Sequence) -> None:
        """Let a sequence wait; one that was preempted gets its old place."""
        insort(
            self._waiting.setdefault(sequence.owner, []), sequence, key=lambda waiting: waiting.rank
        )

    def remove(self, sequence: Sequence) -> bool:
        """Take a sequence out; False where it does not wait."""
        queue = self._waiting.get(sequence.owner, [])
        if sequence not in queue:
            return False
        queue.remove(sequence)
        if not queue:
            del self._waiting[sequence.owner]
        return True

    def charge_prompt(self, sequence: Sequence) -> None:
        """Add the tokens to run of a starting sequence to its owner's account, once."""
        if not sequence.was_charged:
            sequence.was_charged = True
            self._accounts[sequence.owner] += sequence.num_uncomputed_tokens

    def charge_output(self, sequence: Sequence) -> None:
        """Add one generated token to the account of its owner."""
        self._accounts[sequence.owner] += _OUTPUT_WEIGHT

    def in_order(self) -> Iterator[Sequence]:
        """Yield the waiting sequences in the order in which they should start."""
        accounts = dict(self._accounts)
        places = dict.fromkeys(self._waiting, 0)
        while places:
            owner = min(places, key=lambda o: self._key(o, places[o], accounts))
            sequence = self._waiting[owner][places[owner]]
            yield sequence
            accounts[owner] += sequence.num_uncomputed_tokens
            places[owner] += 1
            if places[owner] == len(self._waiting[owner]):
                del places[owner]

    def _key(self, owner: str, place: int, accounts: dict[str, int]) -> tuple[int, int, int]:
        head = self._waiting[owner][place]
        return (-head.priority, accounts[owner], head.sequence_id)
