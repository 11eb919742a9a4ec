"""Every exception that this package raises on purpose.

A caller who catches ``Error`` catches everything that a user can cause or cure; anything else
that escapes is a bug of ours. A message is one line: what is wrong, the value, what is allowed,
what to do. The tree:

    mixtral.Error
     +-- ConfigError              a field of a configuration is outside its allowed values
     +-- CheckpointError          a file of weights, or the folder around it, is wrong
     +-- TokenizerError           no tokenizer, or one that does not belong to the model
     +-- UnsupportedError         a valid wish that this version cannot fulfil
     +-- RequestError             one request is wrong; others go on
     |    +-- InvalidRequest
     |    +-- ContextLengthExceeded
     |    +-- QueueFull
     +-- EngineError              the engine itself cannot go on
          +-- OutOfBlocks
          +-- EngineDead

``ConfigError`` and ``RequestError`` are also ``ValueError``, which is what Python's users catch.
"""


class Error(Exception):
    """Base of every error of this package."""


class ConfigError(Error, ValueError):
    """A configuration field has a value outside the allowed ones."""


class CheckpointError(Error):
    """A checkpoint file or folder is missing, cut, or disagrees with its config."""


class TokenizerError(Error):
    """No tokenizer was found, or its files are not the ones this package knows."""


class UnsupportedError(Error):
    """The input is valid, but this version cannot do it."""


class RequestError(Error, ValueError):
    """One request cannot be served as written."""


class InvalidRequest(RequestError):
    """A field of the request has a wrong type or value."""


class ContextLengthExceeded(RequestError):
    """The prompt and the tokens asked for do not fit into the context of the model."""


class QueueFull(RequestError):
    """More requests wait than the engine was told to hold."""


class EngineError(Error):
    """The engine cannot go on."""


class OutOfBlocks(EngineError):
    """The KV cache has no free block left and nothing can be preempted."""


class EngineDead(EngineError):
    """The engine stopped after an internal failure; start a new one."""
