"""The functions of a Python file, as tools.

With ``__all__``, the file says itself which they are, functions and ready ``Tool`` objects alike.
Otherwise they are the functions that are written in the file, have a docstring, and whose names do
not begin with an underscore. The file is run, as ``python file.py`` would run it, though not as
``__main__``: only use files that you would run.
"""

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from mixtral.agent.function_tool import function_tool
from mixtral.agent.tool import Tool
from mixtral.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolFile:
    """What was found in a file."""

    tools: list[Tool]
    """Its tools, in the order of the file, or of ``__all__``."""
    left_out: list[str]
    """Public functions of the file without a docstring, which are no tools."""


def load_functions(path: Path) -> ToolFile:
    """Run a Python file and return its functions as tools.

    Raises:
        ConfigError: The file is not there, fails, has no tools, or one that is none.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is no file; name a Python file with functions.")
    module = _run_file(path)
    listed = getattr(module, "__all__", None)
    if listed is not None:
        tools = [_tool(_member(module, name, path)) for name in _names(listed, path)]
        left_out = []
    else:
        own = [*_own_functions(module)]
        tools = [function_tool(function) for function in own if function.__doc__]
        left_out = [function.__name__ for function in own if not function.__doc__]
    if not tools:
        raise ConfigError(
            f"{path} has no tools; write functions with type hints and a docstring, or list them "
            "in __all__."
        )
    return ToolFile(tools=tools, left_out=left_out)


def _run_file(path: Path) -> ModuleType:
    # A name that cannot be one of a module that something else imports.
    name = f"mixtral tool file {path.resolve()}"
    spec = importlib.util.spec_from_file_location(name, path.absolute(), loader=None)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    # Type hints of its classes are looked up by the name of their module.
    sys.modules[name] = module
    try:
        with _importable_neighbours(path):
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise ConfigError(
            f"{path} could not be run: {type(error).__name__}: {error} (line {_line(error, path)})."
        ) from error
    return module


@contextmanager
def _importable_neighbours(path: Path) -> Iterator[None]:
    """Let the file import what lies beside it, as it could if it were the program."""
    before = [*sys.path]
    sys.path.insert(0, str(path.resolve().parent))
    try:
        yield
    finally:
        sys.path[:] = before


def _line(error: BaseException, path: Path) -> int | str:
    file = str(path.absolute())
    if isinstance(error, SyntaxError) and error.filename == file and error.lineno is not None:
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    return lines[-1] or "unknown" if lines else "unknown"


def _own_functions(module: ModuleType) -> Iterator[FunctionType]:
    seen = set()
    for name, value in vars(module).items():
        is_own = isinstance(value, FunctionType) and value.__module__ == module.__name__
        if is_own and not name.startswith("_") and value not in seen:
            seen.add(value)
            yield value


def _names(listed: Any, path: Path) -> list[str]:
    if isinstance(listed, list | tuple) and all(isinstance(name, str) for name in listed):
        return [*listed]
    raise ConfigError(
        f"__all__ of {path} is {listed!r}; it must be a list of names, each in quotes."
    )


def _member(module: ModuleType, name: str, path: Path) -> Any:
    if not hasattr(module, name):
        raise ConfigError(f"__all__ of {path} lists {name!r}, which the file does not define.")
    return getattr(module, name)


def _tool(member: Callable[..., Any] | Tool) -> Tool:
    return member if isinstance(member, Tool) else function_tool(member)
