"""No socket but loopback, no hub, one thread: what a test does, it does on this machine and the same way twice."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples each time: a test that fails on one machine fails on all, and CI does not draw lots.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")

os.environ.update(
    HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false"
)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What a shell starts in its background ignores Ctrl-C, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

LOOPBACK = ("127.", "::1", "localhost")


class OutsideSocketError(AssertionError):
    """A test tried to reach something that is not on this machine."""


@pytest.fixture(autouse=True)
def _only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    connect, connect_ex, lookup = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def check(host: object) -> None:
        if isinstance(host, str) and not host.startswith(LOOPBACK):
            raise OutsideSocketError(f"a test reached for {host}")

    def guarded(real):
        def call(self, address):
            check(address[0] if isinstance(address, tuple) else "localhost")
            return real(self, address)

        return call

    def guarded_lookup(host, *rest, **named):
        check(host.decode() if isinstance(host, bytes) else host)
        return lookup(host, *rest, **named)

    monkeypatch.setattr(socket.socket, "connect", guarded(connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(connect_ex))
    monkeypatch.setattr(socket, "getaddrinfo", guarded_lookup)


@pytest.fixture
def shared_data() -> Path:
    """Real files of the field, where this checkout has them beside it."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the field's files are not beside this checkout")
    return folder


@pytest.fixture
def typed(monkeypatch, capsys, tmp_path):
    """Run the command line in an empty folder: (exit code, stdout, stderr)."""
    from discretion import cli

    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DISCRETION_")]:
        monkeypatch.delenv(name)
    keep = signal.getsignal(signal.SIGTERM)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["discretion", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        streams = capsys.readouterr()
        return stop.value.code or 0, streams.out, streams.err

    yield run
    signal.signal(signal.SIGTERM, keep)
