"""What a document may cost before it is refused.

Documents come from anywhere: a PDF of a few kilobytes may unpack to gigabytes, a page may take an
hour to lay out. Each limit ends in one line that names the limit and the value found. Size and
length are checked where the bytes are read; time and memory are kept by the process that reads
(``reader_process``), because no check inside a library can promise them.
"""

from dataclasses import dataclass

from mixtral.errors import UnsupportedError
from mixtral.validation import require_int, require_positive_number

INSTALL = "pip install 'mixtral[rag]'"


class DocumentRefused(UnsupportedError):
    """One document cannot be read; others go on. The message is the reason, for its owner."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bounds of one document, and of one walk through a folder.

    Raises:
        ConfigError: A limit is not a number above 0.
    """

    max_file_bytes: int = 50_000_000
    """Bytes of a file, an upload or a download."""
    max_pages: int = 5_000
    """Pages of a PDF."""
    max_characters: int = 20_000_000
    """Characters of extracted text: about 7,000 pages."""
    max_unpacked_bytes: int = 200_000_000
    """Bytes of everything inside a docx, which is a zip archive. The streams of a PDF have limits
    of pypdf's own, 75 MB each."""
    max_memory_bytes: int = 1_000_000_000
    """Memory that the reading process may take beyond what it starts with."""
    timeout_s: float = 60.0
    """Seconds for reading one document, and for downloading one."""
    max_files: int = 100_000
    """Files that one call may find in folders and by globs."""

    def __post_init__(self) -> None:
        """Check each limit."""
        for name in _COUNTS:
            require_int(name, getattr(self, name), low=1)
        require_positive_number("timeout_s", self.timeout_s)


_COUNTS = (
    "max_file_bytes",
    "max_pages",
    "max_characters",
    "max_unpacked_bytes",
    "max_memory_bytes",
    "max_files",
)
