"""Settings: types, ranges, aliases."""

import math
from typing import Any

import pytest

from mixtral.errors import ConfigError
from mixtral.server.settings import DEFAULT_ALIASES, ServerSettings


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("port", 70000, "port is 70000; it must be from 0 to 65535."),
        ("port", "80", "port is '80'; it must be a whole number."),
        ("port", True, "port is True; it must be a whole number."),
        ("max_body_mb", 0, "max_body_mb is 0.0; it must be from 0.001 to 1000."),
        ("max_body_mb", math.nan, "max_body_mb is nan; it must be a number."),
        ("max_body_mb", 10**400, "it must be a number."),
        ("log_format", "xml", "log_format is 'xml'; it must be text or json."),
        ("log_prompts", "yes", "log_prompts is 'yes'; it must be true or false."),
        ("log_prompts", 1, "log_prompts is 1; it must be true or false."),
        ("host", "  ", "host is an empty text; leave it out instead."),
        ("api_key", "secret", "api_key is not usable; it must be a list of texts."),
        ("cors_origins", ("example.com",), "cors_origins has 'example.com'; an origin is"),
        ("cors_origins", ("https://a.example/",), "an origin is"),
        ("aliases", {"a": 1}, "it must be a table of texts."),
        ("aliases", {"a b": "nano"}, "aliases has 'a b'; a model name has letters"),
        ("served_model_name", "a\nb", "a model name has letters"),
        ("tls_cert", "cert.pem", "tls_key is missing; tls_cert needs it: give both, or neither."),
        ("tls_key", "key.pem", "tls_cert is missing; tls_key needs it: give both, or neither."),
    ],
)
def test_wrong_value_is_told_with_what_is_allowed(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ServerSettings(**{name: value})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whole_number_stands_for_a_float_and_a_list_for_a_tuple() -> None:
    settings = ServerSettings(max_body_mb=2, cors_origins=["*"])  # type: ignore[arg-type]
    assert settings.max_body_bytes == 2_000_000
    assert settings.cors_origins == ("*",)


def test_api_keys_are_not_shown() -> None:
    assert "hush" not in repr(ServerSettings(api_key=("hush",)))


def test_default_aliases_answer_for_the_served_model_beside_the_users_own() -> None:
    settings = ServerSettings(aliases={"mine": "nano"})
    aliases = settings.aliases_for("nano")
    assert set(aliases) == {*DEFAULT_ALIASES, "mine"}
    assert set(aliases.values()) == {"nano"}
    only = ServerSettings(aliases={"mine": "nano"}, default_aliases=False)
    assert only.aliases_for("nano") == {"mine": "nano"}


def test_model_is_no_alias_of_itself() -> None:
    assert "mistral-small" not in ServerSettings().aliases_for("mistral-small")


def test_alias_of_another_model_is_refused() -> None:
    settings = ServerSettings(aliases={"mistral-small": "mixtral"})
    with pytest.raises(ConfigError, match="the served model is nano: write mistral-small=nano"):
        settings.aliases_for("nano")
