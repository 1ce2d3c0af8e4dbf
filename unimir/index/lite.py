"""The embedded Milvus: one `milvus-lite server` process for a directory, shared by every process of the machine.

Whoever comes first owns it: it starts the server on a free loopback port, starts it again if it dies, and stops it
at the end. Others find it by its endpoint file and only use it; when its owner goes, one of them owns it next, at the
same port. An owner that is killed takes its server along, because the server ends when the pipe from its owner does.
Knows no collection.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

START_S = 60.0
"""Longest wait for a server to listen; recovery of a large directory is the slow part."""
_POLL_S = 0.05
_AGAIN_S = 1.0
_LEAST_LIFE_S = 2.0  # a server that dies sooner than this after its start is not started again


@contextmanager
def embedded(directory: Path) -> Iterator[str]:
    """The URI of the directory's server, started if nobody owns it yet. ConnectionError if it does not come up."""
    directory.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + START_S
    with (directory / "owner.lock").open("a") as lock:
        while not _locked(lock.fileno()):
            uri = find(directory)
            if uri is not None:
                with _heir(directory, lock.fileno(), int(uri.rpartition(":")[2])):
                    yield uri
                return
            if time.monotonic() > deadline:
                raise ConnectionError(f"{directory}: another process owns this Milvus, but it did not come up")
            time.sleep(_POLL_S)
        server = _Server(directory, _free_port())
        try:
            yield server.uri
        finally:
            server.stop()


@contextmanager
def _heir(directory: Path, lock: int, port: int) -> Iterator[None]:
    """Waits beside the owner, and starts the server anew once the owner has let it go."""
    ended = threading.Event()
    servers: list[_Server] = []

    def wait() -> None:
        while not _locked(lock):
            if ended.wait(_POLL_S * 4):
                return
        while _listens(port) and not ended.wait(_POLL_S):  # that of an owner who was killed ends in a moment
            pass
        with suppress(ConnectionError):  # users of the server say that it is away
            servers.append(_Server(directory, port))

    waiting = threading.Thread(target=wait, name="milvus-lite-heir", daemon=True)
    waiting.start()
    try:
        yield
    finally:
        ended.set()
        waiting.join()
        for server in servers:
            server.stop()


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def find(directory: Path) -> str | None:
    """The URI that the owner wrote, if its server listens."""
    try:
        port = json.loads((directory / "endpoint.json").read_text(encoding="utf-8"))["port"]
    except FileNotFoundError:
        return None
    return _uri(port) if _listens(port) else None


class _Server:
    """The owner's side: a child process, and a thread that starts it again when it dies."""

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory
        self._stopping = False
        self._turn = threading.Lock()  # either the guard starts the server again, or we stop it
        self._port = port
        self._process = self._start()
        self._wait_until_it_listens()
        endpoint = directory / "endpoint.json.new"
        endpoint.write_text(json.dumps({"port": self._port, "owner": os.getpid()}), encoding="utf-8")
        endpoint.replace(directory / "endpoint.json")
        self._guard = threading.Thread(target=self._keep_alive, name="milvus-lite", daemon=True)
        self._guard.start()

    @property
    def uri(self) -> str:
        return _uri(self._port)

    def stop(self) -> None:
        """Ends the server cleanly, or by force if that takes too long."""
        (self._directory / "endpoint.json").unlink(missing_ok=True)
        with self._turn:
            self._stopping = True
            self._let_go()
        try:
            self._process.wait(timeout=START_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._guard.join()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "unimir.index.lite", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self._port), "--data-dir", str(self._directory / "data")]
        # A group of its own, so that Ctrl-C reaches the owner alone. Not a session: Linux shares processors out by
        # session (sched_autogroup), and beside busy ones that of a server that mostly waits was starved for seconds.
        with (self._directory / "server.log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, process_group=0)

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + START_S
        while not _listens(self._port):
            if time.monotonic() > deadline:
                self._process.kill()
                raise ConnectionError(f"Milvus Lite did not come up; see {self._directory / 'server.log'}")
            if self._process.poll() is not None:
                # The server of an owner that was killed may still hold the directory for a moment.
                self._let_go()
                time.sleep(_AGAIN_S)
                self._process = self._start()
            time.sleep(_POLL_S)

    def _keep_alive(self) -> None:
        while True:
            started = time.monotonic()
            self._process.wait()
            with self._turn:
                if self._stopping or time.monotonic() - started < _LEAST_LIFE_S:
                    return
                self._let_go()
                self._process = self._start()

    def _let_go(self) -> None:
        """Closes our end of the server's standard input, at whose end it stops."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()


def _uri(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _end_with_the_owner() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    from milvus_lite.cmdline import main

    threading.Thread(target=_end_with_the_owner, daemon=True).start()
    sys.exit(main())
