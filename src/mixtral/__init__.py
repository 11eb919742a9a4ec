"""Run, serve, fine-tune, evaluate and explain Mixtral on the machine at hand.

``import mixtral`` is quick: names that need torch are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from mixtral.config import ModelConfig
from mixtral.errors import (
    CheckpointError,
    ConfigError,
    ContextLengthExceeded,
    EngineDead,
    EngineError,
    Error,
    InvalidRequest,
    OutOfBlocks,
    QueueFull,
    RequestError,
    TokenizerError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from mixtral.async_llm import AsyncLLM
    from mixtral.engine import SamplingParams
    from mixtral.llm import LLM

__version__ = "0.5.0"

__all__ = [
    "LLM",
    "AsyncLLM",
    "CheckpointError",
    "ConfigError",
    "ContextLengthExceeded",
    "EngineDead",
    "EngineError",
    "Error",
    "InvalidRequest",
    "ModelConfig",
    "OutOfBlocks",
    "QueueFull",
    "RequestError",
    "SamplingParams",
    "TokenizerError",
    "UnsupportedError",
]


def __getattr__(name: str) -> object:
    """Import the names that need torch on first use (PEP 562)."""
    if name == "LLM":
        return import_module("mixtral.llm").LLM
    if name == "AsyncLLM":
        return import_module("mixtral.async_llm").AsyncLLM
    if name == "SamplingParams":
        return import_module("mixtral.engine").SamplingParams
    raise AttributeError(f"module 'mixtral' has no attribute {name!r}")
