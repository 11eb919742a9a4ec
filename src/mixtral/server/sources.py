"""Where settings come from: the command line, the environment, a TOML file, in this order.

What stands further left wins. A setting ``max_body_mb`` is ``--max-body-mb``, the environment
variable ``MIXTRAL_MAX_BODY_MB``, and ``max_body_mb`` at the top of the file; the options of the
model (``model``, ``quantization``, ...) are named in the same way. In the environment a list is
written with commas, and an empty variable is one that is not set.
"""

import difflib
import logging
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

from mixtral.errors import ConfigError
from mixtral.server.settings import SETTING_TYPES, ServerSettings, check_setting, without_none

logger = logging.getLogger(__name__)

ENV_PREFIX = "MIXTRAL_"
"""Beginning of every environment variable of ours."""

_FLAGS = {"adapters": "--adapter", "aliases": "--alias", "cors_origins": "--cors-origin"}
_PAIRS = {
    "aliases": "NAME=SERVED_NAME, such as mistral-small=nano",
    "adapters": "NAME=FOLDER, such as json=adapters/json",
}
_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def flag_of(name: str) -> str:
    """Return a setting's option of the command line.

    >>> flag_of("max_body_mb"), flag_of("aliases")
    ('--max-body-mb', '--alias')
    """
    return _FLAGS.get(name, "--" + name.replace("_", "-"))


def variable_of(name: str) -> str:
    """Return a setting's environment variable.

    >>> variable_of("max_body_mb")
    'MIXTRAL_MAX_BODY_MB'
    """
    return ENV_PREFIX + name.upper()


class Sources:
    """The three sources, asked setting by setting.

    Args:
        given: What the command line said: texts, lists of texts, or values of the right type.
            None stands for nothing.
        environ: The environment.
        file: TOML file; None for none.
        model_types: Names and types of the options of the model, which stand in the same places.

    Raises:
        ConfigError: The file cannot be read, or has a key that is no setting.
    """

    def __init__(
        self,
        *,
        given: Mapping[str, Any],
        environ: Mapping[str, str],
        file: Path | None,
        model_types: Mapping[str, Any],
    ) -> None:
        self._given = given
        self._environ = environ
        self._file = file
        self._types = {**model_types, **SETTING_TYPES}
        self._in_file = {} if file is None else _read(file, self._types)
        _warn_of_misspelt(environ, self._types)

    def find(self, name: str) -> tuple[Any, str] | None:
        """Return a value, and where it stands as a person would say it; None: nowhere.

        Raises:
            ConfigError: Its text does not spell a value of its type.
        """
        kind = self._types[name]
        if (value := self._given.get(name)) is not None:
            return parse_value(name, value, kind, where=flag_of(name)), flag_of(name)
        variable = variable_of(name)
        if text := self._environ.get(variable, "").strip():
            return parse_value(name, text, kind, where=variable), variable
        if name in self._in_file:
            value = self._in_file[name]
            # One text may stand for a list of one.
            is_single = get_origin(kind) is tuple and isinstance(value, str)
            return ((value,) if is_single else value), str(self._file)
        return None

    def settings(self) -> ServerSettings:
        """Return the settings of the server.

        Raises:
            ConfigError: A value is wrong; the message begins with where it stands.
        """
        values = {}
        for name in SETTING_TYPES:
            found = self.find(name)
            if found is None:
                continue
            value, where = found
            try:
                values[name] = check_setting(name, value)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from error
        return ServerSettings(**values)


def parse_value(name: str, value: Any, kind: Any, *, where: str) -> Any:
    """Return what a text, or a list of texts, says for a setting; other values as they are.

    Args:
        name: The setting.
        value: A text, a list of texts, or a value of the right type.
        kind: Type of the setting.
        where: Flag or variable, for messages.

    Raises:
        ConfigError: The text does not spell such a value.

    >>> parse_value("port", "8000", int, where="--port")
    8000
    """
    kind, _ = without_none(kind)
    origin = get_origin(kind)
    if origin is tuple:
        return tuple(_texts(value))
    if origin is Mapping:
        return _pairs(name, _texts(value), where)
    if not isinstance(value, str):
        return value
    if kind is bool:
        if value.lower() not in _TRUTHS:
            raise ConfigError(f"{where}: {name} is {value!r}; it must be true or false.")
        return _TRUTHS[value.lower()]
    if kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise ConfigError(f"{where}: {name} is {value!r}; it must be {what}.") from None
    return value


def _texts(value: str | Sequence[str]) -> list[str]:
    if not isinstance(value, str):
        return list(value)
    return [part for part in (p.strip() for p in value.split(",")) if part]


def _pairs(name: str, texts: list[str], where: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        key, sign, target = text.partition("=")
        if not (key and sign and target):
            raise ConfigError(f"{where}: {name} is {text!r}; it must be {_PAIRS[name]}.")
        if pairs.setdefault(key, target) != target:
            raise ConfigError(
                f"{where}: {name} has {key}={pairs[key]} and {key}={target}; give one of them, or "
                "another name."
            )
    return pairs


def _read(file: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"--config is {file}, which does not exist.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file} cannot be read as TOML: {error}.") from error
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = (
                f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}."
            )
            raise ConfigError(f"{file}: {name} is no setting; {hint}")
    return values


def _warn_of_misspelt(environ: Mapping[str, str], known: Mapping[str, Any]) -> None:
    # Not an error: other programs may have variables that begin like ours.
    variables = [variable_of(name) for name in (*known, "config")]
    for name in environ:
        if name.startswith(ENV_PREFIX) and name not in variables:
            close = difflib.get_close_matches(name, variables, n=1, cutoff=0.9)
            if close:
                logger.warning("%s is no setting; did you mean %s?", name, close[0])
