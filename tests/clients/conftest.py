"""What every client's checks share: where the server is, and its key."""

import os
from dataclasses import dataclass

import pytest


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    url: str
    api_key: str


@pytest.fixture(scope="session")
def server() -> Server:
    """The server that run.py started, or the one that MIXTRAL_URL names."""
    return Server(url=os.environ["MIXTRAL_URL"], api_key=os.environ["MISTRAL_API_KEY"])
