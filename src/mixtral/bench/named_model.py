"""The model that a benchmark runs on: how the user names it, and how it is held in memory."""

from dataclasses import dataclass

import torch

from mixtral.bench.contender import is_packed
from mixtral.checkpoint import open_checkpoint
from mixtral.loading import find_or_download, load_model
from mixtral.model import CpuTransformer, LanguageModel
from mixtral.model_source import ModelSource


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOptions:
    """Which model, in which format, on how many threads."""

    name: str
    """As the user named it."""
    layers: int | None = None
    """Layers, for random weights only."""
    dtype: str | None = None
    """Type of the weights; None keeps what is stored."""
    quantization: str | None = None
    """Recipe in which the weights are packed as they are loaded; None leaves them."""
    device: str = "cpu"
    """cpu, cuda or auto."""
    threads: int | None = None
    """Threads of each engine; None leaves those of torch as they are."""
    seed: int = 0
    """Seed of random weights and of the prompts."""

    def find(self) -> ModelSource:
        """Return where the weights come from, downloading a hub id first.

        Raises:
            ConfigError: The name means nothing.
            CheckpointError: The download failed, or the folder is not a model.
        """
        return find_or_download(self.name, layers=self.layers)

    def load(self, source: ModelSource) -> tuple[LanguageModel, str]:
        """Set the number of threads and load the model.

        Returns:
            The model, and the format of its weights: a recipe or a dtype.

        Raises:
            ConfigError: The dtype, quantization or device is unknown, or they do not go together.
            UnsupportedError: The device is not there, or the weights do not fit into memory.
            CheckpointError: A file is wrong.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        model = load_model(
            source,
            dtype=self.dtype,
            quantization=self.quantization,
            device=self.device,
            seed=self.seed if source.is_random else 0,  # others have none, but prompts do
        )
        return model, self._format_of(model, source)

    def _format_of(self, model: LanguageModel, source: ModelSource) -> str:
        # Where nothing can run packed weights, they were unpacked.
        recipe = self.quantization or _stored_recipe(source) if is_packed(model) else None
        if recipe is not None:
            return recipe
        # The dtype of that one is the cache's.
        dtype = torch.bfloat16 if isinstance(model, CpuTransformer) else model.dtype
        return str(dtype).removeprefix("torch.")


def _stored_recipe(source: ModelSource) -> str | None:
    recipe = None if source.folder is None else open_checkpoint(source.folder).recipe
    return None if recipe is None else recipe.name
