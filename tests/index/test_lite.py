"""Is there one server for all, does it come back when killed, and does it go when its owner goes?"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from unimir.index.lite import _listens, embedded

OWNER = """
import sys, time
from pathlib import Path
from unimir.index.lite import embedded
with embedded(Path(sys.argv[1])) as uri:
    print(uri, flush=True)
    time.sleep(600)
"""


def port_of(uri: str) -> int:
    return int(uri.rsplit(":", 1)[1])


def until(condition: object, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.1)
    return False


def children(of: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{of}/task/{of}/children").read_text().split()]


def test_a_second_user_finds_the_first_ones_server_and_leaves_it_running(tmp_path: Path) -> None:
    with embedded(tmp_path) as uri:
        with embedded(tmp_path) as again:
            assert again == uri
        assert _listens(port_of(uri))
    assert not _listens(port_of(uri))
    assert not (tmp_path / "endpoint.json").exists()


def test_a_killed_server_comes_back_at_the_same_address(tmp_path: Path) -> None:
    with embedded(tmp_path) as uri:
        time.sleep(2.1)  # one that dies at once is not started again
        port = str(port_of(uri)).encode()
        (server,) = [pid for pid in children(os.getpid()) if port in _command(pid).split(b"\0")]
        os.kill(server, signal.SIGKILL)
        assert until(lambda: not _listens(port_of(uri)), 5)
        assert until(lambda: _listens(port_of(uri)))


def test_a_killed_owner_takes_its_server_along_and_the_next_one_starts_anew(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    uri = owner.stdout.readline().strip()
    assert json.loads((tmp_path / "endpoint.json").read_text())["owner"] == owner.pid
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert until(lambda: not _listens(port_of(uri)))
    with embedded(tmp_path) as anew:
        assert _listens(port_of(anew))


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
