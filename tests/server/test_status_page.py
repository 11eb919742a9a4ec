"""The page ``/status``: three files of ours, and a policy that lets nothing else in."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mixtral.server.schemas_status import ServerStatus
from mixtral.server.status_routes import PAGE_FILES
from tests.server.engine_for_tests import get, make_service

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


class Tags(HTMLParser):
    """Every start tag of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def texts() -> dict[str, str]:
    return {path: get(make_service(), path).text for path in PAGE_FILES}


@pytest.mark.parametrize("path", PAGE_FILES)
def test_every_file_is_served_with_its_type_and_the_policy(path: str) -> None:
    response = get(make_service(), path)
    assert response.status_code == 200
    suffix = Path(PAGE_FILES[path][0]).suffix
    assert response.headers["content-type"] == f"{TYPES[suffix]}; charset=utf-8"
    assert response.headers["x-content-type-options"] == "nosniff"
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; connect-src 'self'; script-src 'self'")
    assert "unsafe" not in policy


def test_the_page_has_no_script_style_or_handler_of_its_own() -> None:
    for tag, attributes in Tags(texts()["/status"]).found:
        assert tag != "style"
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        assert tag != "script" or attributes["src"]


def test_everything_that_the_files_load_is_served() -> None:
    for path, text in texts().items():
        assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)|//cdn|@import|url\(", text) == []
        loaded = re.findall(r'(?:src|stylesheet" href)="([^"]+)"', text)
        loaded += ["status/" + name for name in re.findall(r'from "\./([^"]+)"', text)]
        assert {"/" + name for name in loaded} <= set(PAGE_FILES), path


def test_a_slash_at_the_end_leads_to_the_page_whose_addresses_are_relative() -> None:
    response = get(make_service(), "/status/")
    assert (response.status_code, response.headers["location"]) == (307, "../status")


def test_the_page_reads_fields_that_there_are() -> None:
    script = texts()["/status/status.js"]
    read = set(re.findall(r"\b(?:r|report)\.([a-z_0-9]+)", script))
    assert read <= set(ServerStatus.model_fields)
    # What it does not show: what kind of object it is, a count beside a time, what a chart has.
    shown = read | {"object", "window_s", "num_waits"}
    assert set(ServerStatus.model_fields) - shown == set()


def test_every_element_that_the_script_asks_for_is_on_the_page() -> None:
    ids = {attributes.get("id") for _, attributes in Tags(texts()["/status"]).found}
    asked = set(re.findall(r'byId\("([a-z-]+)"\)', texts()["/status/status.js"]))
    assert asked <= ids
