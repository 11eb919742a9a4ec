"""Where settings come from, and which one wins."""

import logging
from pathlib import Path
from typing import Any

import pytest

from mixtral.errors import ConfigError
from mixtral.server.sources import Sources

MODEL_TYPES = {"model": str, "kv_cache_gb": float | None, "exact_activations": bool}


def sources(
    tmp_path: Path,
    *,
    given: dict[str, Any] | None = None,
    environ: dict[str, str] | None = None,
    toml: str | bytes | None = None,
) -> Sources:
    file = None
    if toml is not None:
        file = tmp_path / "mixtral.toml"
        file.write_bytes(toml if isinstance(toml, bytes) else toml.encode())
    return Sources(given=given or {}, environ=environ or {}, file=file, model_types=MODEL_TYPES)


def test_command_line_wins_over_environment_over_file_over_default(tmp_path: Path) -> None:
    found = sources(
        tmp_path,
        given={"port": "1", "host": None},
        environ={"MIXTRAL_PORT": "2", "MIXTRAL_MAX_WAITING": "3"},
        toml='port = 4\nmax_waiting = 5\nmax_messages = 6\nhost = "::1"',
    ).settings()
    assert (found.port, found.max_waiting, found.max_messages) == (1, 3, 6)
    assert found.host == "::1"
    assert found.max_num_seqs == 64


def test_every_kind_of_value_is_read_from_the_environment(tmp_path: Path) -> None:
    found = sources(
        tmp_path,
        environ={
            "MIXTRAL_MAX_BODY_MB": "0.5",
            "MIXTRAL_LOG_PROMPTS": "True",
            "MIXTRAL_ENABLE_PREFIX_CACHE": "0",
            "MIXTRAL_CORS_ORIGINS": "https://a.example, https://b.example",
            "MIXTRAL_ALIASES": "a=nano,b=nano",
            "MIXTRAL_API_KEY": "one,two",
            "MIXTRAL_LOG_FORMAT": "json",
        },
    ).settings()
    assert found.max_body_mb == 0.5
    assert found.log_prompts
    assert not found.enable_prefix_cache
    assert found.cors_origins == ("https://a.example", "https://b.example")
    assert found.aliases == {"a": "nano", "b": "nano"}
    assert found.api_key == ("one", "two")
    assert found.log_format == "json"


def test_every_kind_of_value_is_read_from_the_file(tmp_path: Path) -> None:
    toml = """
        api_key = "one"
        cors_origins = ["*"]
        request_timeout_s = 7
        default_aliases = false
        [aliases]
        "mistral-small" = "nano"
    """
    found = sources(tmp_path, toml=toml).settings()
    assert found.api_key == ("one",)
    assert found.cors_origins == ("*",)
    assert found.request_timeout_s == 7
    assert not found.default_aliases
    assert found.aliases == {"mistral-small": "nano"}


def test_options_of_the_model_stand_in_the_same_places(tmp_path: Path) -> None:
    found = sources(tmp_path, environ={"MIXTRAL_KV_CACHE_GB": "2"}, toml='model = "/models/8x7b"')
    assert found.find("model") == ("/models/8x7b", str(tmp_path / "mixtral.toml"))
    assert found.find("kv_cache_gb") == (2.0, "MIXTRAL_KV_CACHE_GB")
    assert found.find("exact_activations") is None


def test_empty_variable_is_not_set(tmp_path: Path) -> None:
    assert sources(tmp_path, environ={"MIXTRAL_PORT": " "}).settings().port == 8000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"environ": {"MIXTRAL_PORT": "x"}}, "MIXTRAL_PORT: port is 'x'; it must be a whole"),
        ({"environ": {"MIXTRAL_PORT": "99999"}}, "MIXTRAL_PORT: port is 99999; it must be from"),
        ({"environ": {"MIXTRAL_ALLOW_NO_KEY": "maybe"}}, "it must be true or false."),
        ({"environ": {"MIXTRAL_ALIASES": "a"}}, "it must be NAME=SERVED_NAME"),
        ({"given": {"aliases": ["=x"]}}, "--alias: aliases is '=x'; it must be"),
        ({"given": {"keepalive_s": "soon"}}, "--keepalive-s: keepalive_s is 'soon'; it must be"),
        ({"toml": "prot = 1"}, "mixtral.toml: prot is no setting; did you mean port?"),
        ({"toml": "zzz = 1"}, "zzz is no setting; known are adapters, aliases,"),
        ({"toml": "[server]\nport = 1"}, "server is no setting;"),
        ({"toml": "port = '8000'"}, "mixtral.toml: port is '8000'; it must be a whole number."),
        ({"toml": "port = "}, "cannot be read as TOML"),
        ({"toml": b"\xff\xfe"}, "cannot be read as TOML"),
    ],
)
def test_wrong_value_is_one_line_that_says_where_it_stands(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        sources(tmp_path, **arguments).settings()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        Sources(given={}, environ={}, file=tmp_path / "no.toml", model_types={})


def test_misspelt_variable_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mixtral"):
        sources(tmp_path, environ={"MIXTRAL_MAX_BODY_MP": "1", "MIXTRAL_CPU_LEVEL": "avx2"})
    assert [r.getMessage() for r in caplog.records] == [
        "MIXTRAL_MAX_BODY_MP is no setting; did you mean MIXTRAL_MAX_BODY_MB?"
    ]
