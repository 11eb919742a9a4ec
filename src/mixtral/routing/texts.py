"""The texts of a report: files and folders, each a domain of its own (books, code, maths, ...)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mixtral.errors import ConfigError

ReadFile = Callable[[Path], Iterable[Sequence[int]]]
"""Returns the sequences of token ids of a file, each a text of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """Files that are reported together."""

    name: str
    """What they are called in the report."""
    files: tuple[Path, ...]
    """The files, in the order in which they are read."""


class DomainSequences:
    """The sequences of a domain; each loop over it reads the files anew.

    Args:
        domain: Its files.
        read: How one is read.
        max_tokens: Tokens to read at most, the last sequence whole; None reads everything.
    """

    def __init__(self, domain: Domain, read: ReadFile, *, max_tokens: int | None = None) -> None:
        self._domain = domain
        self._read = read
        self._max_tokens = max_tokens

    def __iter__(self) -> Iterator[Sequence[int]]:
        """Yield the sequences of all files, in order.

        Raises:
            ConfigError: They have fewer than two tokens that are text.
        """
        tokens, characters = 0, 0
        for file in self._domain.files:
            for sequence in self._read(file):
                yield sequence
                tokens += len(sequence)
                characters += len(sequence) - 1  # <s> is no text
                if self._max_tokens is not None and tokens >= self._max_tokens:
                    return
        if characters < 2:
            files = ", ".join(map(str, self._domain.files))
            raise ConfigError(
                f"{files:.300} is empty or shorter than 2 tokens; give a longer text for "
                f"{self._domain.name}."
            )


class Joined:
    """The sequences of several domains, one after the other; each loop reads them anew.

    Args:
        parts: Sequences of token ids, by domain.
    """

    def __init__(self, parts: Iterable[Iterable[Sequence[int]]]) -> None:
        self._parts = list(parts)

    def __iter__(self) -> Iterator[Sequence[int]]:
        """Yield all sequences, in order."""
        for part in self._parts:
            yield from part


def find_domains(arguments: Sequence[str | Path]) -> list[Domain]:
    """Make one domain of each file or folder.

    Args:
        arguments: Paths, or ``NAME=PATH`` to give a name. Of a folder all files are taken,
            also those in its folders, but none whose name begins with a dot.

    Raises:
        ConfigError: There is no argument, a path does not exist, a folder has no files, or two
            domains have one name.
    """
    if not arguments:
        raise ConfigError("no text is named; give files or folders: --text book.txt code/.")
    domains = [_find_domain(str(argument)) for argument in arguments]
    seen: dict[str, Domain] = {}
    for domain in domains:
        if domain.name in seen:
            raise ConfigError(
                f"two texts are called {domain.name}; name one of them: NAME={domain.files[0]}."
            )
        seen[domain.name] = domain
    return domains


def sequences_of(
    domains: Sequence[Domain], read: ReadFile, *, max_tokens: int | None = None
) -> dict[str, DomainSequences]:
    """Return the sequences of each domain by its name; ``max_tokens`` limits each domain."""
    return {domain.name: DomainSequences(domain, read, max_tokens=max_tokens) for domain in domains}


def _find_domain(argument: str) -> Domain:
    name, equals, rest = argument.partition("=")
    is_named = bool(equals and name) and not Path(argument).expanduser().exists()
    path = Path(rest if is_named else argument).expanduser()
    chosen = name if is_named else path.resolve().stem
    if path.is_file():
        return Domain(name=chosen, files=(path,))
    if not path.is_dir():
        raise ConfigError(f"text {path} does not exist; it must be a file or a folder of files.")
    files = tuple(sorted(file for file in path.rglob("*") if _is_text(file, path)))
    if not files:
        raise ConfigError(f"text folder {path} has no files; name one with texts in it.")
    return Domain(name=chosen, files=files)


def _is_text(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.is_file() and not hidden
