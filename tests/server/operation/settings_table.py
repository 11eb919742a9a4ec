"""The table of settings in docs/deploy.md. Run it after changing a setting:

python -m tests.server.operation.settings_table
"""

import dataclasses
from pathlib import Path
from typing import Any

from mixtral.cli.fields import read_fields
from mixtral.cli.options import ModelOptions
from mixtral.server.settings import ServerSettings
from mixtral.server.sources import flag_of

PAGE = Path(__file__).parents[3] / "docs" / "deploy.md"
BEGIN = "<!-- settings: made by tests/server/operation/settings_table.py -->\n"
END = "<!-- end of settings -->\n"


def settings_table() -> str:
    """Return all options of ``mixtral serve`` as one Markdown table."""
    lines = ["| setting | option | default | meaning |", "|---|---|---|---|"]
    for name, default, text in (*_of_model(), *_of_server()):
        shown = "" if default in (None, ()) or default == {} else f"`{_spelt(default)}`"
        # What is on can only be turned off.
        flag = flag_of(name).replace("--", "--no-", 1) if default is True else flag_of(name)
        lines.append(f"| `{name}` | `{flag}` | {shown} | {text} |")
    return "\n".join(lines) + "\n"


def _spelt(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def _of_model() -> list[tuple[str, Any, str]]:
    annotations = ModelOptions.__annotations__
    return [
        (field.name, field.default, annotations[field.name].__metadata__[0].help)
        for field in dataclasses.fields(ModelOptions)
    ]


def _of_server() -> list[tuple[str, Any, str]]:
    docs = read_fields("server/settings.py", "ServerSettings")
    return [
        (
            field.name,
            None if field.default is dataclasses.MISSING else field.default,
            docs[field.name].doc,
        )
        for field in dataclasses.fields(ServerSettings)
    ]


def with_table(page: str) -> str:
    """Return the page with the table of today."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + settings_table() + END + after


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
