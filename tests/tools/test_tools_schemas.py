"""A schema keeps its meaning when it moves, and forbids what is certain to be no argument."""

from typing import Any

import pytest

from mixtral.tools.schemas import moved_schema

ROOT = "#/items/anyOf/3/properties/arguments"
A = {"a": {"type": "string"}}


@pytest.mark.parametrize(
    ("schema", "is_closed"),
    [
        ({"type": "object", "properties": A, "required": ["a"]}, True),
        ({"type": "object", "properties": {}, "title": "T", "description": "d"}, True),
        ({"type": "object"}, False),
        ({"properties": A, "required": ["b"]}, False),
        ({"properties": A, "minProperties": 2}, False),
        ({"properties": A, "anyOf": [{"required": ["b"]}]}, False),
        ({"properties": A, "allOf": [{"$ref": "#/$defs/b"}]}, False),
        ({"properties": A, "patternProperties": {"^x": True}}, False),
        ({"properties": {"a": {"$ref": "#/properties/b"}, "b": {"properties": A}}}, False),
        ({"properties": A, "required": [["a"]]}, False),
    ],
)
def test_object_is_closed_only_where_that_leaves_valid_arguments(
    schema: dict[str, Any], is_closed: bool
) -> None:
    assert ("additionalProperties" in moved_schema(schema, ROOT)) is is_closed


def test_client_keeps_members_that_it_allows() -> None:
    schema = {"type": "object", "properties": A, "additionalProperties": True}
    assert moved_schema(schema, ROOT) == schema


def test_references_to_the_root_follow_it_and_data_stays() -> None:
    schema = {
        "properties": {"$ref": {"enum": [{"$ref": "#/x"}]}, "b": {"$ref": "#/$defs/b"}},
        "not": {"$ref": "#"},
        "$defs": {"b": {"items": {"$ref": "#/$defs/b"}}},
    }
    moved = moved_schema(schema, ROOT)
    assert moved["properties"]["$ref"] == {"enum": [{"$ref": "#/x"}]}
    assert moved["properties"]["b"] == {"$ref": f"{ROOT}/$defs/b"}
    assert moved["not"] == {"$ref": ROOT}
    assert moved["$defs"]["b"]["items"] == {"$ref": f"{ROOT}/$defs/b"}


@pytest.mark.parametrize(
    ("draft", "schema", "expected"),
    [
        ("draft-07", {"items": [True], "additionalItems": False}, "prefixItems items"),
        ("2019-09", {"items": [True]}, "prefixItems"),
        ("2020-12", {"items": [True]}, "items"),
        ("draft-07", {"$ref": "#/definitions/a", "title": "T", "definitions": {}}, "$ref defs"),
        ("2020-12", {"$ref": "#/$defs/a", "title": "T"}, "$ref title"),
        (
            "draft-06",
            {"dependencies": {"a": ["b"], "c": {"minProperties": 2}}},
            "dependentRequired dependentSchemas",
        ),
        ("draft-04", {"minimum": 3, "exclusiveMinimum": True}, "exclusiveMinimum"),
        ("draft-04", {"maximum": 3, "exclusiveMaximum": False}, "maximum"),
        ("draft-04", {"maximum": 3}, "maximum"),
    ],
)
def test_older_drafts_are_spelled_as_the_newest(
    draft: str, schema: dict[str, Any], expected: str
) -> None:
    year = draft.startswith("20")
    name = f"https://json-schema.org/{'draft/' if year else ''}{draft}/schema#"
    moved = moved_schema({"$schema": name, **schema}, ROOT)
    assert sorted(moved) == sorted(expected.replace("defs", "definitions").split())


def test_nested_objects_are_closed_too() -> None:
    inner = {"type": "object", "properties": A}
    schema = {"properties": {"list": {"type": "array", "items": inner}, "one": inner}}
    moved = moved_schema(schema, ROOT)
    assert moved["properties"]["one"]["additionalProperties"] is False
    assert moved["properties"]["list"]["items"]["additionalProperties"] is False
