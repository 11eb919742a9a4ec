"""Turn what a user types as a model into a local folder, downloading it if need be.

A path stays a path. ``org/name`` or ``org/name@revision`` is a repository of the Hugging Face hub.
Official repositories hold the weights two or three times; the list of files is read first and one
copy is fetched, with the config and the tokenizer. huggingface_hub does the transfer, keeps its
cache, and reads ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME`` and ``HF_HUB_OFFLINE``. A connection
that is cut is taken up at the same byte; a download that is started again keeps the files that are
whole and begins the others anew (huggingface_hub 2.4 removes partial files when it stops). Where
the hub cannot be reached, a cached copy is used.

Whatever fails ends as one line that says what to do. Whether a folder is complete and right is for
``open_checkpoint`` to say.
"""

import errno
import logging
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import tqdm as hub_tqdm

from mixtral.checkpoint.folder import (
    CHECKSUMS_FILE,
    CONFIG_FILES,
    TOKENIZER_FILES,
    find_weight_sets,
)
from mixtral.errors import CheckpointError

_LOG = logging.getLogger(__name__)
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
_MODEL_FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".json")
# The HTTP library's own base class, whichever this version of huggingface_hub is built on.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]


def resolve_model_path(model: str | Path, *, progress: bool = False) -> Path:
    """Return the local folder of a model, after a download where it is a hub id.

    Args:
        model: A folder, a file inside it, or a hub id, ``org/name`` or ``org/name@revision``.
            What exists as a path is a path.
        progress: Show a bar while downloading, if standard error is a terminal.

    Raises:
        CheckpointError: There is no such path or repository, or the download failed.
    """
    if not str(model).strip():
        raise CheckpointError("the model is an empty text; give a model folder or a hub id.")
    path = _existing(model)
    if path is not None and path.is_dir():
        return path
    if path is not None:
        if path.suffix in _MODEL_FILE_SUFFIXES:
            return path.parent
        raise CheckpointError(
            f"{path} is a file of an unknown kind; give a model folder, or a file in it that ends "
            f"in {', '.join(_MODEL_FILE_SUFFIXES)}."
        )
    if isinstance(model, Path) or not _HUB_ID.fullmatch(model):
        raise CheckpointError(
            f"{model} does not exist; give a model folder or a hub id such as "
            "mistralai/Mixtral-8x7B-Instruct-v0.1."
        )
    repo, _, revision = model.partition("@")
    return _download(repo, revision or "main", progress=progress)


def _existing(model: str | Path) -> Path | None:
    try:
        path = Path(model).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # Too long, not a path, ~ of an unknown user.
        return None


def _download(repo: str, revision: str, *, progress: bool) -> Path:
    try:
        try:
            sizes, commit = _list_files(repo, revision)
        except OfflineModeIsEnabled:
            return _cached(repo, revision)
        except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
            raise
        except (_HTTP_ERROR, OSError) as error:
            cached = _cached(repo, revision)
            _LOG.warning("%s: using the cached copy of %s", _first_line(error), repo)
            return cached
        wanted = _choose_files(repo, sizes)
        _require_free_disk(repo, commit, {name: sizes[name] for name in wanted})
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=wanted,
                tqdm_class=hub_tqdm if progress and sys.stderr.isatty() else _NoBar,
            )
        )
    except (_HTTP_ERROR, OSError, HFValidationError) as error:
        raise CheckpointError(_explain(error, repo, revision)) from error


def _list_files(repo: str, revision: str) -> tuple[dict[str, int], str]:
    """Return the sizes of the files at the top of a repository, and the commit."""
    api = HfApi()
    commit = api.model_info(repo, revision=revision).sha or revision
    tree = api.list_repo_tree(repo, revision=commit)
    return {file.path: file.size for file in tree if isinstance(file, RepoFile)}, commit


def _choose_files(repo: str, sizes: Mapping[str, int]) -> list[str]:
    sets = find_weight_sets(sizes)
    if not sets:
        raise CheckpointError(
            f"{repo} has no weights that can be read (it holds {', '.join(sorted(sizes)[:5])}); "
            "choose a repository with model*.safetensors or consolidated files."
        )
    # An index may be there without its shards; whether all of them are is for the reader to say.
    chosen = next((weights for weights in sets if weights.files), None)
    if chosen is None:
        raise CheckpointError(
            f"{repo} has {sets[0].index}, but none of the files of weights that belong to it; "
            "choose another repository or revision."
        )
    index = (chosen.index,) if chosen.index else ()
    ours = (*CONFIG_FILES, CHECKSUMS_FILE)
    about = (n for n in sizes if n in ours or TOKENIZER_FILES.fullmatch(n))
    return sorted({*chosen.files, *index, *about})


def _require_free_disk(repo: str, commit: str, sizes: Mapping[str, int]) -> None:
    cached = (n for n in sizes if isinstance(try_to_load_from_cache(repo, n, revision=commit), str))
    needed = sum(sizes.values()) - sum(sizes[name] for name in cached)
    folder = Path(constants.HF_HUB_CACHE)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"{repo} needs {needed / 1e9:.1f} GB more in {constants.HF_HUB_CACHE}, which has "
            f"{free / 1e9:.1f} GB free. Free some space, or set HF_HOME to a larger disk."
        )


def _cached(repo: str, revision: str) -> Path:
    # No pattern: any snapshot will do, the reader names what is missing from it.
    return Path(
        snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=[])
    )


def _explain(error: Exception, repo: str, revision: str) -> str:
    """Say in one line what went wrong with a download, and what to do."""
    if isinstance(error, GatedRepoError):
        return (
            f"{repo} is gated: accept its terms at {constants.ENDPOINT}/{repo} and set HF_TOKEN "
            "to a token of that account."
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{repo} is neither a local folder nor a repository of {constants.ENDPOINT}; "
            "check the spelling, or set HF_TOKEN if it is private."
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision {revision}; give a branch, a tag or a commit after the @."
    if isinstance(error, HFValidationError):
        return f"{repo} is not a hub id: {_first_line(error)}"
    if isinstance(error, LocalEntryNotFoundError):
        if constants.HF_HUB_OFFLINE:
            return (
                f"{repo} is not in the cache ({constants.HF_HUB_CACHE}) and HF_HUB_OFFLINE is set; "
                "unset it to download, or give a local folder."
            )
        return (
            f"{repo} is not in the cache and {constants.ENDPOINT} cannot be reached; "
            "check the network, or give a local folder."
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return (
            f"the disk of {constants.HF_HUB_CACHE} is full; free some space or set HF_HOME to a "
            "larger disk. Files that are whole are kept."
        )
    return (
        f"{repo} could not be downloaded from {constants.ENDPOINT}: {_first_line(error)}. "
        "Try again; files that are whole are kept."
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


class _NoBar(hub_tqdm):
    """A progress bar that shows nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what tqdm takes."""
        super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]
