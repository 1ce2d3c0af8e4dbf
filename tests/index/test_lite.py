"""Is there one server for all, does it come back when killed, and does it go when its owner goes?"""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from unimir.index.connection import IndexUnavailable
from unimir.index.lite import _listens, embedded
from unimir.index.store import Store

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
    before = set(children(os.getpid()))
    with embedded(tmp_path) as uri:
        (server,) = set(children(os.getpid())) - before
        # Ctrl-C reaches the owner alone; the scheduler, which goes by session, treats them alike.
        assert os.getpgid(server) != os.getpgid(0) and os.getsid(server) == os.getsid(0)
        with embedded(tmp_path) as again:
            assert again == uri
        assert _listens(port_of(uri))
    assert not _listens(port_of(uri))
    assert not (tmp_path / "endpoint.json").exists()


def test_a_killed_server_comes_back_at_the_same_address_with_what_it_held(tmp_path: Path) -> None:
    """Nothing is loaded after a restart: the store sees to it, in the search that first meets it."""
    fixed = dict.fromkeys(("tenant", "lang", "title", "text", "place", "content_hash", "keywords"), "")
    fixed |= {"modality": "text", "captured_at": 0, "price": 0.0, "tags": [], "extra": {}}
    with embedded(tmp_path) as uri:
        started = time.monotonic()
        store = Store(uri)
        store.create("held", 4)
        store.upsert("held", [{**fixed, "id": str(number)} for number in range(4)], np.eye(4, dtype=np.float32))
        time.sleep(max(0.0, started + 2.1 - time.monotonic()))  # one that dies at once is not started again
        port = str(port_of(uri)).encode()
        (server,) = [pid for pid in children(os.getpid()) if port in _command(pid).split(b"\0")]
        os.kill(server, signal.SIGKILL)
        assert until(lambda: not _listens(port_of(uri)), 5)
        assert until(lambda: _listens(port_of(uri)))
        assert until(functools.partial(_finds, store, "2"))


def _finds(store: Store, expected: str) -> bool:
    try:
        (hits,) = store.search("held", np.eye(4, dtype=np.float32)[2:3], tenant="", limit=1)
    except IndexUnavailable:  # its client needs a moment to connect again
        return False
    assert [(hit.fields["id"], hit.score) for hit in hits] == [(expected, 1.0)]
    return True


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


def test_who_still_needs_the_server_owns_it_when_the_owner_has_gone(tmp_path: Path) -> None:
    owner, user = embedded(tmp_path), embedded(tmp_path)
    uri = owner.__enter__()
    assert user.__enter__() == uri
    fixed = dict.fromkeys(("tenant", "lang", "title", "text", "place", "content_hash", "keywords"), "")
    fixed |= {"modality": "text", "captured_at": 0, "price": 0.0, "tags": [], "extra": {}}
    store = Store(uri)
    store.create("held", 4)
    store.upsert("held", [{**fixed, "id": str(number)} for number in range(4)], np.eye(4, dtype=np.float32))
    owner.__exit__(None, None, None)
    assert until(functools.partial(_finds, store, "2"))
    with embedded(tmp_path) as third:
        assert third == uri
    user.__exit__(None, None, None)
    assert not _listens(port_of(uri)) and not (tmp_path / "endpoint.json").exists()


def test_who_still_needs_the_server_starts_it_anew_when_the_owner_is_killed(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    uri = owner.stdout.readline().strip()
    with embedded(tmp_path) as again:
        assert again == uri
        owner.kill()
        owner.wait()
        owner.stdout.close()
        assert until(lambda: _owner(tmp_path) == os.getpid()) and _listens(port_of(uri))
    assert not _listens(port_of(uri))


def _owner(directory: Path) -> int:
    found: int = json.loads((directory / "endpoint.json").read_text())["owner"]
    return found


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
