"""A sentence-transformers model behind one blocking call.

The model is sentence-transformers' own: its transformer, its pooling, its further layers. Ours is
what a server needs around it: input checks, tokens counted, cuts told, batches by length, vectors
of length 1 whatever the model ends with. Weights are float32, so that a vector does not depend on
what else is in the batch by more than 1e-5.

torch runs with as many threads as the calling thread has (``torch.get_num_threads()``); nothing
here sets them.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from mixtral.embed.batches import CPU_LIMITS, GPU_LIMITS, plan_batches
from mixtral.embed.inputs import check_dimension, check_inputs
from mixtral.embed.source import Source, find_source
from mixtral.errors import CheckpointError, UnsupportedError
from mixtral.loading import torch_device

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from mixtral.embed.reader import Piece

_LOG = logging.getLogger(__name__)
MAX_BATCH = 64
"""Inputs of one forward pass."""
_PROBE = "A sentence that says whether the model is read as it was saved."


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Embeddings:
    """The vectors of one request, in the order of its inputs."""

    vectors: NDArray[np.float32]
    """[N, D], each row of length 1."""
    num_tokens: list[int]
    """Tokens that the model read of each input, special tokens included, what was cut not."""
    is_cut: list[bool]
    """Whether the end of an input was left out because the model reads no further."""


class Embedder:
    """A loaded embedding model. Calls from several threads take turns.

    Args:
        model: A folder that sentence-transformers saved, a hub id (``org/name`` or
            ``org/name@revision``), or None for all-MiniLM-L6-v2 of the extra ``embed``.
        device: ``cpu``, ``cuda`` or ``auto``.

    Raises:
        UnsupportedError: The extra is not installed, or the model is of a kind not known here.
        CheckpointError: Files are missing, damaged, or not those that were pinned.
        ConfigError: There is no such device.
    """

    def __init__(self, model: str | Path | None = None, *, device: str = "cpu") -> None:
        source = find_source(model)
        where = torch_device(device)
        source.verify()
        self._limits = CPU_LIMITS if where.type == "cpu" else GPU_LIMITS
        self._lock = threading.Lock()
        self._model = _load(source, where)
        # Not at the top: it imports transformers, which takes a second.
        from mixtral.embed.reader import Reader

        self._reader = Reader(self._model, name=source.name)
        self.name = source.name
        """The hub id, the folder's name, or all-MiniLM-L6-v2."""
        self.dimension = self._check_vectors()
        """D, components of a vector."""
        self.max_tokens = self._reader.max_tokens
        """Tokens of an input that are read, special tokens included."""

    def embed(
        self, inputs: Sequence[str | Sequence[int]], *, dimension: int | None = None
    ) -> Embeddings:
        """Return a unit vector for each input.

        Args:
            inputs: 1 to 2,048 texts, or lists of ids of the model's own tokenizer, or both.
            dimension: Keep this many components and scale to length 1 again; sensible for models
                trained for it (Matryoshka, arXiv:2205.13147). None keeps all.

        Raises:
            InvalidRequest: An input is empty or wrong, or ``dimension`` above the model's.
        """
        pieces = self.read(inputs, dimension=dimension)
        return self.pack(pieces, self.run(pieces), dimension=dimension)

    def read(
        self, inputs: Sequence[str | Sequence[int]], *, dimension: int | None = None
    ) -> list["Piece"]:
        """Check a request and return what is to run; the first of the three parts of ``embed``.

        Raises:
            InvalidRequest: As ``embed``.
        """
        check_dimension(dimension, self.dimension)
        checked = check_inputs(inputs)
        with self._lock:
            return self._reader.read(checked)

    def run(self, pieces: Sequence["Piece"], *, max_batch: int = MAX_BATCH) -> NDArray[np.float32]:
        """Return the vectors of pieces, of any number of requests, [N, D]."""
        vectors = np.empty((len(pieces), self.dimension), dtype=np.float32)
        lengths = [len(piece.token_ids) for piece in pieces]
        for batch in plan_batches(lengths, limits=self._limits, max_batch=max_batch):
            with self._lock:
                vectors[batch] = self._forward([pieces[i].token_ids for i in batch])
        return vectors

    def pack(
        self,
        pieces: Sequence["Piece"],
        vectors: NDArray[np.float32],
        *,
        dimension: int | None = None,
    ) -> Embeddings:
        """Return the answer to a request from its pieces and their vectors."""
        if dimension is not None and dimension < self.dimension:
            vectors = vectors[:, :dimension]
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
        return Embeddings(
            vectors=vectors,
            num_tokens=[len(piece.token_ids) for piece in pieces],
            is_cut=[piece.is_cut for piece in pieces],
        )

    @torch.inference_mode()
    def _forward(self, token_ids: list[list[int]]) -> NDArray[np.float32]:
        features = self._model.tokenizer.pad({"input_ids": token_ids}, return_tensors="pt")
        on_device = {name: tensor.to(self._model.device) for name, tensor in features.items()}
        vectors: torch.Tensor = self._model(on_device)["sentence_embedding"]
        unit = torch.nn.functional.normalize(vectors.float(), dim=1)  # [N, D]
        array: NDArray[np.float32] = unit.cpu().numpy()
        return array

    def _check_vectors(self) -> int:
        """Return D, after comparing one vector with the library's own."""
        theirs = self._model.encode(
            [_PROBE], normalize_embeddings=True, show_progress_bar=False
        ).astype(np.float32)
        ours = self._forward([self._reader.read([_PROBE])[0].token_ids])
        if not np.allclose(ours, theirs, atol=1e-4):
            raise UnsupportedError(
                "this embedding model gives other vectors here than in sentence-transformers: "
                "it needs a task or a prompt that cannot be said here. Choose another model."
            )
        return int(ours.shape[1])


class PendingEmbedder:
    """A model that was found, and is to be loaded later, perhaps on another thread.

    Args:
        model: As for ``Embedder``.
        device: As for ``Embedder``.

    Raises:
        UnsupportedError: The extra is not installed, or the machine lacks the device.
        CheckpointError: There is no such model.
        ConfigError: There is no such device.
    """

    def __init__(self, model: str | Path | None = None, *, device: str = "cpu") -> None:
        self.name = find_source(model).name
        """What the embedder will be called."""
        torch_device(device)
        self._model = model
        self._device = device

    def load(self) -> Embedder:
        """Load it; raises what ``Embedder`` does."""
        return Embedder(self._model, device=self._device)


def _load(source: Source, device: torch.device) -> "SentenceTransformer":
    from sentence_transformers import SentenceTransformer

    try:
        if not source.is_local:
            _require_modules_file(source)
        with _no_progress_bars():
            return SentenceTransformer(
                source.place,
                device=str(device),
                revision=source.revision,
                local_files_only=source.is_local,
                trust_remote_code=False,
                model_kwargs={"dtype": torch.float32},
            ).eval()
    except CheckpointError:
        raise
    # What five libraries raise for a damaged file or a failed download has no common base.
    except Exception as error:
        _LOG.debug("loading %s failed", source.place, exc_info=True)
        lines = str(error).strip().splitlines() or [""]
        raise CheckpointError(
            f"embedding model {source.place} could not be loaded: "
            f"{type(error).__name__}: {lines[0].rstrip('.')}."
        ) from error


def _require_modules_file(source: Source) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        hf_hub_download(source.place, "modules.json", revision=source.revision)
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError as error:
        raise CheckpointError(
            f"{source.place} has no modules.json; choose a model of sentence-transformers, such "
            "as BAAI/bge-m3."
        ) from error


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    from transformers.utils import logging as transformers_logging

    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
