"""Bytes of a request to checked fields.

Bodies are parsed here and not by FastAPI, because Python's own parser lets through what no text or
number of ours can be: NaN and Infinity, half surrogate pairs, a key that stands twice. orjson
refuses the first two, invalid UTF-8 and any depth over 1,024; the standard parser then reads the
text once more for doubled keys and for whole numbers over 64 bits, which orjson would round.

400 says that a value is wrong, 422 that the shape is: a field missing, unknown or of another type.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError
from starlette.requests import Request

from mixtral.server.errors import ApiError
from mixtral.server.schemas import Fields
from mixtral.server.settings import ServerSettings

LARGE_BODY_BYTES = 65_536
"""Bodies over this are parsed in a thread: a megabyte takes some 20 ms."""

MAX_DETAILS = 20
"""Errors listed in ``detail``; a long list of wrong items has one each."""

MAX_SHOWN_CHARACTERS = 80
"""Longest piece of a wrong value that an error repeats."""

VALUE_ERROR_TYPES = (
    "enum",
    "finite_number",
    "greater_than",
    "less_than",
    "literal_error",
    "string_pattern_mismatch",
    "string_too",
    "too_long",
    "too_short",
    "value_error",
)
"""How the types of pydantic's errors begin that are about a value, not about the shape."""

Model = TypeVar("Model", bound=Fields)


async def read_body(request: Request, schema: type[Model], settings: ServerSettings) -> Model:
    """Read the body of a request as one object of ``schema``.

    Args:
        request: Its size is limited before it comes here.
        schema: The fields.
        settings: Say how deep JSON may nest.

    Raises:
        ApiError: 415 for another content type, 400 or 422 for the body.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise ApiError(
            415,
            f"content type is {content_type or 'missing'}; send JSON and the header "
            "Content-Type: application/json.",
        )
    raw = await request.body()
    max_depth = settings.max_json_depth
    if len(raw) > LARGE_BODY_BYTES:
        return await asyncio.to_thread(_parse_and_check, raw, schema, max_depth)
    return _parse_and_check(raw, schema, max_depth)


def parse_json(raw: bytes, *, max_depth: int) -> dict[str, Any]:
    """Return the JSON object that the bytes spell.

    Raises:
        ApiError: 400: not JSON, not an object, too deep, or a key stands twice in an object.
    """
    try:
        value = orjson.loads(raw)
        if raw.count(b"[") + raw.count(b"{") > max_depth:
            _check_depth(value, max_depth)
        value = json.loads(raw, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise _too_deep(max_depth) from None
    except ValueError as error:
        message = "depth limit" if "depth limit" in str(error) else str(error)
        if message == "depth limit":
            raise _too_deep(max_depth) from None
        raise ApiError(400, f"the body is not valid JSON: {message}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(
            422,
            f"the body is a JSON {_kind(value)}; it must be an object.",
            detail=[{"loc": ["body"], "msg": "must be an object", "type": "dict_type"}],
        )
    return value


def check_fields(schema: type[Model], body: Mapping[str, Any]) -> Model:
    """Return the fields of a parsed body.

    Raises:
        ApiError: 400 or 422 naming the first wrong field; 422 lists all in ``detail``.
    """
    try:
        return schema.model_validate(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False)
        raise _field_error(errors, body, schema.unsupported) from None


def _parse_and_check(raw: bytes, schema: type[Model], max_depth: int) -> Model:
    return check_fields(schema, parse_json(raw, max_depth=max_depth))


def _field_error(
    errors: Sequence[Mapping[str, Any]], body: Mapping[str, Any], unsupported: Mapping[str, str]
) -> ApiError:
    first = _meant(errors)
    field = str(first["loc"][0]) if first["loc"] else "body"
    reason = unsupported.get(field)
    if reason is not None and first["type"] != "missing":
        shown = _shown(body.get(field))
        return ApiError(
            400,
            f"{field} is {shown}, which is not supported: {reason} Leave it out.",
            param=field,
            code="unsupported",
        )
    message = _message(first, body)
    if _is_about_value(first):
        return ApiError(400, message, param=_path(first, body))
    detail = [
        {"loc": ["body", *error["loc"]], "msg": error["msg"], "type": error["type"]}
        for error in errors[:MAX_DETAILS]
    ]
    return ApiError(422, message, param=_path(first, body), detail=detail)


def _meant(errors: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the error to tell of: of a union, pydantic lists what every member misses.

    A member that fits but for a value was meant; otherwise the one that fitted deepest.
    """
    field = errors[0]["loc"][:1]
    return max(
        (error for error in errors if error["loc"][:1] == field),
        key=lambda error: (_is_about_value(error), len(error["loc"])),
    )


def _is_about_value(error: Mapping[str, Any]) -> bool:
    return str(error["type"]).startswith(VALUE_ERROR_TYPES)


def _message(error: Mapping[str, Any], body: Mapping[str, Any]) -> str:
    path = _path(error, body)
    if error["type"] == "extra_forbidden":
        return f"unknown field {path}; /docs lists the fields of this request."
    if error["type"] == "missing":
        return f"{path} is missing; this request needs it."
    if error["type"] == "value_error":
        return f"{path} is wrong: {error['msg'].removeprefix('Value error, ')}."
    what = error["msg"].replace("Input should be", "it must be")
    what = what[0].lower() + what[1:]
    return f"{path} is {_shown(error['input'])}; {what}."


def _path(error: Mapping[str, Any], body: Any) -> str:
    """Spell where an error is: pydantic's location without the names of a union's members."""
    path = ""
    value = body
    for position, part in enumerate(error["loc"]):
        is_last = position == len(error["loc"]) - 1
        if isinstance(value, Mapping) and (part in value or (is_last and path != "")):
            is_found = part in value
            if not is_found and error["type"] != "missing":
                continue
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        elif path != "":
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path or "body"


def _shown(value: Any) -> str:
    """Repeat a wrong value as JSON, cut where it is long."""
    if isinstance(value, dict | list):
        return f"a JSON {_kind(value)}"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[:MAX_SHOWN_CHARACTERS] + "..."


def _kind(value: object) -> str:
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the key {_shown(name)} stands twice in one object")
            seen.add(name)
    return result


def _check_depth(value: Any, max_depth: int) -> None:
    level = [value]
    for _ in range(max_depth + 1):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise _too_deep(max_depth)


def _too_deep(max_depth: int) -> ApiError:
    return ApiError(
        400, f"the body is nested more than {max_depth} levels deep.", code="invalid_json"
    )
