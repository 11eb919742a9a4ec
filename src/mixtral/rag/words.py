"""The words of a text, as the keyword index knows them.

Folded (NFKC, no case), so that the ligatures of a PDF and full-width letters are found by plain
ones. A name in snake_case is its parts; one in camelCase is found whole and by its parts. Accents
and stems are for SQLite's tokenizer. Scripts without spaces come as pairs of characters, the usual
stand-in for a dictionary (Luk and Kwok, "A comparison of Chinese document indexing strategies",
ACM TALIP 2002).
"""

import re
import unicodedata

_CAMEL = re.compile(r"[A-Z]?[a-z]+\d*|[A-Z]+(?![a-z])\d*")
_RUN = re.compile(
    r"(?P<pairs>[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0002ffff]+)"
    r"|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0002ffff]+"
)
_MAX_TERMS = 64
STOP_WORDS = frozenset({
    "a", "about", "after", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be",
    "been", "before", "but", "by", "can", "could", "did", "do", "does", "for", "from", "had",
    "has", "have", "he", "her", "him", "his", "how", "i", "if", "in", "into", "is", "it", "its",
    "just", "me", "more", "most", "my", "no", "not", "of", "on", "or", "our", "she", "should",
    "so", "some", "such", "than", "that", "the", "their", "them", "then", "there", "these",
    "they", "this", "those", "to", "us", "was", "we", "were", "what", "when", "where", "which",
    "while", "who", "whom", "whose", "why", "will", "with", "would", "you", "your",
})  # fmt: skip
"""English words that say nothing of what a text is about."""


def index_terms(text: str) -> str:
    r"""Return the words of a passage, with spaces between them.

    >>> index_terms("FolderLock waits; \ufb01nd x")
    'folderlock folder lock waits find x'
    >>> index_terms("\u6771\u4eac\u90fd")
    '\u6771\u4eac \u4eac\u90fd'
    """
    return " ".join(_words(text))


def query_terms(question: str) -> list[str]:
    """Return the words of a question, each once, without those that tell nothing.

    A word that stands in more than half of all passages weighs nothing in BM25, and the commonest
    words of English are most of what a search would count. They stay where nothing else is left.

    >>> query_terms("How is the expert chosen?")
    ['expert', 'chosen']
    >>> query_terms("What is it?")
    ['what', 'is', 'it']

    Of a question as long as a page, the first 64 words are taken.
    """
    words = list(dict.fromkeys(_words(question)))
    return ([word for word in words if word not in STOP_WORDS] or words)[:_MAX_TERMS]


def _words(text: str) -> list[str]:
    words: list[str] = []
    for match in _RUN.finditer(unicodedata.normalize("NFKC", text)):
        run = match[0]
        if match["pairs"]:
            words.extend(run[i : i + 2] for i in range(max(1, len(run) - 1)))
            continue
        folded = run.casefold()
        words.append(folded)
        if not (run.islower() or run.isupper() or run.istitle()):
            parts = _CAMEL.findall(run)
            words.extend(part.casefold() for part in parts if part.casefold() != folded)
    return words
