"""Servers for a test, which end cleanly with it."""

import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from fake_server import FakeServer  # noqa: E402


@pytest.fixture(name='server')
def fixture_server():
    server = FakeServer()
    yield server
    server.stop()


@pytest.fixture(name='started')
def fixture_started():
    """A function that starts servers with options and stops them at the end."""
    servers = []

    def begin(**options):
        servers.append(FakeServer(**options))
        return servers[-1]

    yield begin
    for server in servers:
        server.stop()
