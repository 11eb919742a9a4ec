"""The page at / : what the browser may do for it, and that its files are whole and ours."""

import asyncio
import hashlib
import re
from functools import cache
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from mixtral.server.keys import KeyRing
from mixtral.server.middleware import protect
from mixtral.server.playground_routes import CONTENT_TYPES, playground_router, read_files
from mixtral.server.settings import ServerSettings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "src" / "mixtral" / "server" / "playground"
KEY = "a" * 32
OWN = sorted(
    path
    for path in FOLDER.rglob("*")
    if path.suffix in (".html", ".css", ".js", ".svg") and "vendor" not in path.parts
)
VENDORED = re.findall(
    r"^\| `(\S+)` .*\| `([0-9a-f]{64})` \|$",
    (FOLDER / "vendor" / "README.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


@cache
def app() -> FastAPI:
    made = FastAPI()
    made.include_router(playground_router())
    return made


def request(
    path: str, *, method: str = "GET", known: str | None = None, key: str | None = None
) -> httpx.Response:
    """Ask a server that wants an API key, as a browser that has none unless ``key`` is given."""
    headers = {} if known is None else {"If-None-Match": known}
    headers |= {} if key is None else {"Authorization": f"Bearer {key}"}

    async def send() -> httpx.Response:
        protected = protect(app(), settings=ServerSettings(), keys=KeyRing(keys=[KEY]))
        transport = httpx.ASGITransport(protected)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(send())


def test_every_file_is_served_with_its_type_and_without_a_key() -> None:
    for path in FOLDER.rglob("*"):
        name = path.relative_to(FOLDER).as_posix()
        if path.is_dir() or path.suffix not in CONTENT_TYPES:
            continue
        response = request(f"/playground/{name}")
        assert response.status_code == 200, name
        assert response.content == path.read_bytes(), name
        assert response.headers["content-type"] == CONTENT_TYPES[path.suffix], name
        assert response.headers["x-content-type-options"] == "nosniff", name


def test_the_page_is_at_the_root_and_links_to_the_documentation() -> None:
    response = request("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert 'href="docs"' in response.text
    assert request("/playground", key=KEY).headers["location"] == "/"


def test_policy_allows_this_server_alone_and_nothing_inside_the_page() -> None:
    policy = request("/").headers["content-security-policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["frame-ancestors"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in policy


def test_a_file_that_the_browser_has_is_not_sent_again() -> None:
    first = request("/playground/css/theme.css")
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = request("/playground/css/theme.css", known=known)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert request("/playground/css/theme.css", known='"other"').status_code == 200
    assert first.headers["cache-control"] == "no-cache"


def test_different_files_have_different_tags() -> None:
    page_files = read_files()
    assert len({file.etag for file in page_files.values()}) == len(page_files)


@pytest.mark.parametrize(
    "path",
    [
        "/playground/none.js",
        "/playground/../app.py",
        "/playground/%2e%2e/app.py",
        "/playground//etc/passwd",
        "/playground/js",
        "/playground/package.json",
    ],
)
def test_nothing_but_the_files_of_the_page_is_served(path: str) -> None:
    assert request(path, key=KEY).status_code == 404


def test_headers_can_be_asked_for_alone() -> None:
    response = request("/", method="HEAD")
    assert response.status_code == 200
    assert response.headers["etag"] == request("/").headers["etag"]


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_no_file_names_another_site(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert re.findall(r"https?://[\w.]|(?<![:\w])//\w+\.\w|@import|\burl\(", text) == []


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_no_file_writes_html_or_runs_text(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    ways += r"|srcdoc|\son\w+=\"|style=\"|<script>"
    assert re.findall(ways, text) == []


def test_files_are_small_enough_to_be_read() -> None:
    assert {path.name: n for path in OWN if (n := len(path.read_text().splitlines())) > 350} == {}
    total = sum(path.stat().st_size for path in (FOLDER / "vendor").rglob("*") if path.is_file())
    assert total < 400_000


def test_vendored_files_are_those_of_their_table_and_have_licences() -> None:
    scripts = sorted(
        path.relative_to(FOLDER / "vendor").as_posix()
        for path in (FOLDER / "vendor").rglob("*.*js")
        if path.is_file()
    )
    assert sorted(name for name, _ in VENDORED) == scripts != []
    for name, digest in VENDORED:
        path = FOLDER / "vendor" / name
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
        assert (path.parent / "LICENSE").stat().st_size > 500


def test_every_file_that_the_page_or_a_module_asks_for_is_there() -> None:
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    for name in re.findall(r'(?:src|href)="playground/([^"]+)"', page):
        assert (FOLDER / name).is_file(), name
    for module in (FOLDER / "js").glob("*.js"):
        for name in re.findall(r' from "([^"]+)"', module.read_text(encoding="utf-8")):
            assert (module.parent / name).is_file(), f"{module.name}: {name}"


def test_every_id_that_a_module_asks_for_is_in_the_page_once() -> None:
    ids = re.findall(r'\bid="([^"]+)"', (FOLDER / "index.html").read_text(encoding="utf-8"))
    assert len(ids) == len(set(ids))
    for module in (FOLDER / "js").glob("*.js"):
        asked = re.findall(r'byId\("([^"]+)"\)', module.read_text(encoding="utf-8"))
        assert sorted(set(asked) - set(ids)) == [], module.name


def test_every_control_of_the_page_has_a_name() -> None:
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    labels = set(re.findall(r'<label for="([^"]+)"', page))
    for tag in re.findall(r"<(?:input|select|textarea)\b[^>]*>", page):
        assert re.search(r'id="([^"]+)"', tag)[1] in labels, tag  # type: ignore[index]


def test_every_test_name_is_on_the_page_of_the_documentation() -> None:
    told = (ROOT / "docs" / "playground.md").read_text(encoding="utf-8")
    text = "".join(path.read_text(encoding="utf-8") for path in OWN)
    names = set(re.findall(r'data-testid="([\w-]+)"|testid: "([\w-]+)"', text))
    flat = sorted({first or second for first, second in names})
    assert len(flat) > 50
    assert [name for name in flat if f"`{name}`" not in told] == []
