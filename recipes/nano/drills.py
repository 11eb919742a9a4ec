"""Copy drills: documents that can only be predicted by looking back.

A small model spends most of an hour learning to copy at all. Random words that come twice, lists
that are quoted, and pairs that are asked for again make that skill worth learning from the first
step on. The words are drawn from the whole vocabulary of the tokenizer, because a word after a
quotation mark is another token than the same word after a space.
"""

from random import Random


def plain_words(vocabulary: list[str]) -> list[str]:
    """Keep the words of three letters or more that follow a space."""
    words = [piece[1:] for piece in vocabulary if piece.startswith("▁")]
    return [word for word in words if len(word) > 2 and word.isascii() and word.isalpha()]


def make_drill(rng: Random, words: list[str]) -> str:
    """Write one drill."""
    kind = rng.choice((_twice, _quoted, _pairs, _object, _object))
    return kind(rng, words)


def _twice(rng: Random, words: list[str]) -> str:
    line = " ".join(rng.sample(words, rng.randint(4, 20)))
    return f"{line}\n{line}" + (f"\n{line}" if rng.random() < 0.3 else "")


def _quoted(rng: Random, words: list[str]) -> str:
    lines = []
    for _ in range(rng.randint(3, 8)):
        drawn = rng.sample(words, rng.randint(2, 4))
        lines.append(f"{' '.join(drawn)} = " + " ".join(f'"{word}"' for word in drawn))
    return "\n".join(lines)


def _pairs(rng: Random, words: list[str]) -> str:
    drawn = rng.sample(words, 2 * rng.randint(3, 8))
    pairs = list(zip(drawn[::2], drawn[1::2], strict=True))
    asked = rng.sample(pairs, len(pairs))
    return (
        "\n".join(f"{a} is {b}." for a, b in pairs)
        + "\n"
        + "\n".join(f"{a}? {b}." for a, b in asked)
    )


def _object(rng: Random, words: list[str]) -> str:
    drawn = rng.sample(words, 2 * rng.randint(3, 8))
    pairs = list(zip(drawn[::2], drawn[1::2], strict=True))
    lines = "\n".join(f"{a}: {b}" for a, b in pairs)
    fields = ",\n".join(f' "{a}": "{b}"' for a, b in pairs)
    return f"{lines}\n{{\n{fields}\n}}"
