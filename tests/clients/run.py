"""Run every real client, and the guides' examples, against one server of this project.

Each environment is a virtual one under .venv-clients/, made from a file of requirements/ that pins
everything, and made anew only when that file changes. The checks of a client are client_*.py, run
by the pytest of its environment; an example passes when it ends well and printed something.

    make test-clients
    .venv/bin/python tests/clients/run.py mistralai-0.0.12 current
    .venv/bin/python tests/clients/run.py --url http://127.0.0.1:8000 --api-key KEY
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

from environments import prepare
from local_server import Endpoint, started_server
from model_folder import write_model_folder
from suites import SUITES, Outcome, Suite

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GUIDES = ROOT / "examples" / "guides"
ENVIRONMENTS = ROOT / ".venv-clients"
CLIENT_LIMIT_S = 180
EXAMPLE_LIMIT_S = 120


def main() -> int:
    arguments = parse_arguments()
    chosen = [suite for suite in SUITES if suite.environment in arguments.environments]
    begin = time.perf_counter()
    with ThreadPoolExecutor(max_workers=2) as pool:
        for line in pool.map(lambda suite: prepare(suite, ENVIRONMENTS), chosen):
            print(line, flush=True)
        if any(suite.borrows_torch for suite in chosen):
            print(write_model_folder(ENVIRONMENTS / "nano-hf"), flush=True)
        with server(arguments) as endpoint:
            outcomes: list[Outcome] = []
            for found in pool.map(lambda suite: list(run_suite(suite, endpoint)), chosen):
                print(*found, sep="\n", flush=True)
                outcomes += found
    failed = sum(outcome.result == "FAILED" for outcome in outcomes)
    skipped = sum(outcome.result == "skipped" for outcome in outcomes)
    passed = len(outcomes) - failed - skipped
    print(f"{skipped} skipped, {time.perf_counter() - begin:.0f} s")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


def parse_arguments() -> argparse.Namespace:
    names = [suite.environment for suite in SUITES]
    parser = argparse.ArgumentParser(description="Run real clients against a server of ours.")
    parser.add_argument("environments", nargs="*", metavar="ENVIRONMENT", help=", ".join(names))
    parser.add_argument("--url", help="a server that runs already, without /v1")
    parser.add_argument("--api-key", default="none", help="its key")
    arguments = parser.parse_args()
    if unknown := set(arguments.environments) - set(names):
        parser.error(f"no environment {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    arguments.environments = arguments.environments or names
    return arguments


def server(arguments: argparse.Namespace) -> contextlib.AbstractContextManager[Endpoint]:
    if arguments.url:
        return contextlib.nullcontext(Endpoint(url=arguments.url, api_key=arguments.api_key))
    return started_server(log=ENVIRONMENTS / "server.log")


def run_suite(suite: Suite, endpoint: Endpoint) -> Iterator[Outcome]:
    python = ENVIRONMENTS / suite.environment / "bin" / "python"
    # The keys and addresses of the person who runs this are not for these clients.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MISTRAL", "OPENAI"))}
    environment = kept | {
        "MIXTRAL_URL": endpoint.url,
        "MISTRAL_ENDPOINT": endpoint.url,
        "MISTRAL_API_KEY": endpoint.api_key,
        "MODEL_ID": str(ENVIRONMENTS / "nano-hf"),
        "HF_HUB_OFFLINE": "1",
    }
    for checks in suite.checks:
        yield from run_checks(suite, python, checks, environment)
    for example in suite.examples:
        yield run_example(suite, python, example, environment)


def run_checks(
    suite: Suite, python: Path, checks: str, environment: dict[str, str]
) -> Iterator[Outcome]:
    report = ENVIRONMENTS / f"{suite.environment}-{Path(checks).stem}.xml"
    report.unlink(missing_ok=True)
    options = ["-c", str(HERE / "pytest.ini"), "--rootdir", str(HERE), "--tb=short", "-q"]
    command = [python, "-m", "pytest", *options, f"--junitxml={report}", str(HERE / checks)]
    ended, output = run_limited(command, environment, CLIENT_LIMIT_S)
    cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    for case in cases:
        # A failure and an error of its clean-up are two elements of one case.
        marks = {mark.tag for mark in case}
        skipped = "skipped" if "skipped" in marks else "passed"
        result = "FAILED" if marks & {"failure", "error"} else skipped
        claim = case.attrib["name"].removeprefix("test_").replace("_", " ")
        yield Outcome(
            result=result,
            where=f"{suite.environment} {checks.removesuffix('.py')}",
            what=f"{claim} ({float(case.attrib['time']):.2f} s)",
            detail="".join(mark.text or "" for mark in case) if result == "FAILED" else "",
        )
    if ended != 0 and not any(mark.tag in ("failure", "error") for c in cases for mark in c):
        yield Outcome(result="FAILED", where=suite.environment, what=checks, detail=output)


def run_example(suite: Suite, python: Path, example: str, environment: dict[str, str]) -> Outcome:
    begin = time.perf_counter()
    ended, output = run_limited([python, str(GUIDES / example)], environment, EXAMPLE_LIMIT_S)
    is_good = ended == 0 and bool(output.strip()) and "Traceback" not in output
    return Outcome(
        result="passed" if is_good else "FAILED",
        where=f"{suite.environment} examples/guides",
        what=f"{example} ({time.perf_counter() - begin:.2f} s)",
        detail="" if is_good else f"exit status {ended}\n{output}",
    )


def run_limited(
    command: Sequence[str | Path], environment: dict[str, str], limit_s: float
) -> tuple[int, str]:
    """Run a command; return its exit status, -1 past the limit, and all that it wrote."""
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as stopped:
        output = (stopped.stdout or b"").decode("utf-8", "replace")
        return -1, f"{output}\nstopped after {limit_s} s"
    return done.returncode, done.stdout.decode("utf-8", "replace")


if __name__ == "__main__":
    sys.exit(main())
