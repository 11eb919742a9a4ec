"""The page's modules without a browser: ``node --test``, and their agreement with the server."""

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mixtral.errors import InvalidRequest
from mixtral.server.schemas import SamplingFields
from mixtral.structured.schema_check import check_schema

HERE = Path(__file__).parent
MODULES = HERE.parents[1] / "src" / "mixtral" / "server" / "playground" / "js"
NODE = shutil.which("node")
MIN_NODE = 20

NOT_SHOWN = {
    "model",  # has a place of its own
    "stream",  # always
    "stream_options",
    "seed",  # random_seed under its other name
    "user",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
}
"""Sampling fields that the page does not offer."""

WRONG_SCHEMAS: tuple[Any, ...] = (
    False,
    {"type": "struct"},
    {"properties": []},
    {"type": "object", "properties": {"a/b": {"type": 1}}},
    {"required": "a"},
    {"enum": []},
    {"anyOf": []},
    {"minLength": -1},
    {"type": "integer", "minimum": "0"},
    {"$ref": "#/$defs/none"},
    {"type": "array", "uniqueItems": True},
    {"not": {"type": "string"}},
    {"if": {"type": "string"}, "then": {"minLength": 1}},
    {"type": "string", "format": "regex"},
    {"type": "array", "contains": {"type": "integer"}},
    {"type": "object", "propertyNames": {"minLength": 2}},
    {"dependentRequired": {"a": ["b"]}},
    {"pattern": 3},
)
RIGHT_SCHEMAS: tuple[Any, ...] = (
    True,
    {},
    {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
    {"type": ["string", "null"], "x-note": 1, "not": False},
    {"type": "string", "contains": {"type": "integer"}, "uniqueItems": True},
    {"$defs": {"a/b": {"const": 1}}, "$ref": "#/$defs/a~1b"},
    {"type": "array", "maxItems": 1, "uniqueItems": True},
)


def node_problem() -> str | None:
    if NODE is None:
        return "node is not installed; it runs the page's modules"
    version = subprocess.run([NODE, "--version"], capture_output=True, text=True, check=True).stdout
    major = int(re.findall(r"\d+", version)[0])
    return f"node is {version.strip()}; {MIN_NODE} or newer is needed" if major < MIN_NODE else None


PROBLEM = node_problem()
needs_node = pytest.mark.skipif(PROBLEM is not None, reason=PROBLEM or "")


def run_module(source: str) -> subprocess.CompletedProcess[str]:
    command = [str(NODE), "--input-type=module", "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, timeout=120)


def printed(source: str) -> Any:
    """Run a module and return what it prints as JSON."""
    done = run_module(source)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def url(name: str) -> str:
    return json.dumps((MODULES / name).as_uri())


@needs_node
def test_modules_pass_their_own_tests() -> None:
    files = sorted(HERE.glob("*.test.mjs"))
    assert len(files) >= 8
    # In one process; node --test starts one for each file.
    source = "".join(f"await import({json.dumps(path.as_uri())});" for path in files)
    done = run_module(source)
    failures = re.findall(r"^not ok .*(?:\n  .*)*", done.stdout, re.MULTILINE)
    assert done.returncode == 0, "\n".join(failures) + done.stderr
    assert int(re.findall(r"^# pass (\d+)$", done.stdout, re.MULTILINE)[0]) > 100


@needs_node
def test_sampling_fields_are_those_of_the_server_with_their_ranges() -> None:
    source = f"import {{ SAMPLING_FIELDS as f }} from {url('sampling.js')};"
    shown = {one["name"]: one for one in printed(source + "console.log(JSON.stringify(f))")}
    schema = SamplingFields.model_json_schema()["properties"]
    assert set(shown) == set(schema) - NOT_SHOWN
    for name, field in shown.items():
        if field["kind"] not in ("number", "integer"):
            continue
        bounds = next(one for one in schema[name]["anyOf"] if one.get("type") != "null")
        assert bounds["type"] == field["kind"], name
        assert field.get("min") == bounds.get("minimum"), name
        assert field.get("above") == bounds.get("exclusiveMinimum"), name
        # JavaScript holds whole numbers up to 2**53 - 1 exactly.
        assert field["max"] == min(bounds["maximum"], 2**53 - 1), name


@needs_node
def test_what_the_editor_refuses_the_server_refuses_and_what_is_right_passes_both() -> None:
    schemas = json.dumps([*WRONG_SCHEMAS, *RIGHT_SCHEMAS])
    source = f"import {{ checkSchema as c }} from {url('schema_check.js')};"
    told = printed(source + f"console.log(JSON.stringify({schemas}.map(c)))")
    for schema, problems in zip(WRONG_SCHEMAS, told[: len(WRONG_SCHEMAS)], strict=True):
        assert problems != [], schema
        with pytest.raises(InvalidRequest):
            check_schema(schema)
    for schema, problems in zip(RIGHT_SCHEMAS, told[len(WRONG_SCHEMAS) :], strict=True):
        assert problems == [], schema
        check_schema(schema)


@needs_node
def test_copied_python_is_valid_and_says_what_the_request_says() -> None:
    body = {
        "model": "nano",
        "messages": [{"role": "user", "content": 'A "quote", \\ and\n\u2028 \U0001f600'}],
        "temperature": 0.5,
        "random_seed": 7,
        "min_p": 0.1,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"enum": [None, True, 1.5, "x" * 90]}},
        },
    }
    source = f"import {{ SNIPPETS as s }} from {url('snippets.js')};"
    place = '{ url: "http://127.0.0.1:8000", hasKey: true }'
    codes = printed(
        f"{source} const body = {json.dumps(body)};"
        f'console.log(JSON.stringify(["mistralai", "openai"].map(k => s[k].write(body, {place}))))'
    )
    mistral, openai = (sent_fields(code) for code in codes)
    assert openai["extra_body"] == {"min_p": 0.1}
    assert openai["seed"] == 7
    assert openai["messages"] == mistral["messages"] == body["messages"]
    assert openai["response_format"] == body["response_format"]
    assert mistral["response_format"]["json_schema"]["schema_definition"]["enum"][0] is None
    assert "min_p" not in mistral


def sent_fields(code: str) -> dict[str, Any]:
    """Return the arguments of the call that asks for the answer."""
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    call = next(one for one in calls if any(word.arg == "messages" for word in one.keywords))
    return {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
