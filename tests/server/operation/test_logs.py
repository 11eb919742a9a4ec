"""Log lines: one line each, nothing in them can pose as a line or field of its own."""

import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest

from mixtral.server.logs import (
    ACCESS_LOGGER,
    CURRENT_REQUEST_ID,
    RequestRecord,
    configure_logging,
    log_request,
    record_of,
)


@pytest.fixture(autouse=True)
def _restore_loggers() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("mixtral", "uvicorn")]
    before = [(lg.handlers, lg.propagate, lg.level) for lg in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def record(**changes: object) -> RequestRecord:
    values = {"request_id": "r1", "method": "POST", "path": "/v1/x", "started_s": 1.0}
    result = RequestRecord(**{**values, **changes})  # type: ignore[arg-type]
    result.ended_s = 1.5
    result.status = 200
    result.is_complete = True
    return result


def lines(
    log_format: Literal["text", "json"], capsys: pytest.CaptureFixture[str], level: str = "info"
) -> list[str]:
    configure_logging(log_format, level)
    log_request(record(path='/v1/x y"\nfake status=200', first_token_s=1.25))
    log_request(record(path="/health"))
    token = CURRENT_REQUEST_ID.set("r2")
    logging.getLogger("mixtral.server.x").warning("two\nlines")
    CURRENT_REQUEST_ID.reset(token)
    logging.getLogger("uvicorn.error").info("chatter")
    return capsys.readouterr().err.splitlines()


def test_json_lines_hold_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    access, other = map(json.loads, lines("json", capsys))
    assert access["time"].endswith("Z")
    assert (access["level"], access["logger"]) == ("info", ACCESS_LOGGER)
    assert (access["request_id"], access["status"]) == ("r1", 200)
    assert (access["duration_ms"], access["ttft_ms"]) == (500.0, 250.0)
    assert access["path"] == '/v1/x y"\nfake status=200'
    assert (other["message"], other["request_id"]) == ("two\nlines", "r2")


def test_text_lines_stay_lines(capsys: pytest.CaptureFixture[str]) -> None:
    access, other = lines("text", capsys)
    assert " info request request_id=r1 key=- method=POST path=" in access
    assert r'path="/v1/x y\"\nfake status=200" status=200' in access
    assert r" warning two\nlines request_id=r2" in other


def test_probes_are_logged_for_debugging_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert not any("/health" in line for line in lines("json", capsys))
    assert any("/health" in line for line in lines("json", capsys, "debug"))


def test_exception_is_part_of_its_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info")
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("mixtral.x").exception("failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: broken" in json.loads(line)["exception"]


def test_lost_standard_error_ends_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, text: str) -> int:
            raise BrokenPipeError

    configure_logging("text", "info")
    monkeypatch.setattr("sys.stderr", Closed())
    log_request(record())


def test_application_without_middlewares_has_a_record_that_nobody_reads() -> None:
    scope = {"type": "http", "path": "/v1/x"}
    record_of(scope).num_prompt_tokens += 3
    assert record_of(scope).num_prompt_tokens == 3
