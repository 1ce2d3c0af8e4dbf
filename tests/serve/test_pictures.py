"""Is a picture's URL fetched from the hosts that are allowed, and never from a network of one's own?

The hosts are real: this file runs itself in a network namespace where a public address is this machine's, with a table
of host names of its own.
"""

import asyncio
import base64
import json
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from unimir.serve.pictures import PictureReader
from unimir.serve.settings import Settings

PUBLIC, MOST = "8.8.8.8", 100_000
HOSTS = f"{PUBLIC} pictures.example moved.example\n127.0.0.1 hidden.example\n169.254.169.254 metadata.example\n"
ALLOWED = ("pictures.example", "hidden.example", "metadata.example", "nowhere.example")
MOVES = {
    "/moved": "http://pictures.example/good",
    "/loop": "http://pictures.example/loop",
    "/to-loopback": "http://127.0.0.1/good",
    "/to-number": "http://2130706433/good",
    "/to-metadata": "http://169.254.169.254/latest/meta-data/",
    "/to-hidden": "http://hidden.example/good",
    "/to-other": "http://moved.example/good",
    "/to-file": "file:///etc/passwd",
}
FETCHED = ["http://pictures.example/good", "http://pictures.example/moved", "HTTP://PICTURES.example/good"]
REFUSED = [
    *(f"http://pictures.example{path}" for path in [*MOVES, "/large", "/missing", "/slow"] if path != "/moved"),
    f"http://{PUBLIC}/good",
    "http://moved.example/good",
    "http://hidden.example/good",
    "http://metadata.example/latest/meta-data/",
    "http://nowhere.example/",
    "http://127.0.0.1/good",
    "http://[::1]/good",
    "http://pictures.example:8080/good",
    "http://user:password@pictures.example/good",
    "http://",
    "https://pictures.example/good",  # nobody listens there
]


class Answers(BaseHTTPRequestHandler):
    seen: list[tuple[str, str]] = []

    def do_GET(self) -> None:
        self.seen.append((str(self.connection.getsockname()[0]), self.path))
        if self.path == "/slow":
            time.sleep(3)
        if self.path in MOVES:
            self.send_response(302)
            self.send_header("location", MOVES[self.path])
            self.end_headers()
            return
        self.send_response(200 if self.path in ("/good", "/large") else 404)
        self.end_headers()
        self.wfile.write(b"x" * (MOST + 1) if self.path == "/large" else b"a picture")

    def log_message(self, *_: Any) -> None:
        pass


def scenario(directory: Path) -> dict[str, Any]:
    """What every URL gave, and which addresses were connected to."""
    (directory / "hosts").write_text(HOSTS)
    for command in ("ip link set lo up", f"ip addr add {PUBLIC} dev lo", "ip addr add 169.254.169.254 dev lo"):
        subprocess.run(command.split(), check=True)
    subprocess.run(["mount", "--bind", str(directory / "hosts"), "/etc/hosts"], check=True)
    server = ThreadingHTTPServer(("0.0.0.0", 80), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    read = PictureReader(ALLOWED, MOST, deadline_s=1)
    found = {}
    for url in FETCHED + REFUSED:
        try:
            found[url] = asyncio.run(read(url)).decode()
        except ValueError as error:
            found[url] = f"refused: {error}"
    return {"found": found, "seen": Answers.seen}


def test_only_public_addresses_of_allowed_hosts_are_asked(tmp_path: Path) -> None:
    namespaces = ["unshare", "--net", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*namespaces, "ip", "link", "set", "lo", "up"]).returncode:
        pytest.skip("needs the right to make namespaces (unshare --net --mount)")
    command = [*namespaces, sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {url: told["found"][url] for url in FETCHED} == dict.fromkeys(FETCHED, "a picture")
    assert [url for url in REFUSED if not told["found"][url].startswith("refused: image")] == []
    assert {address for address, _ in told["seen"]} == {PUBLIC}
    assert ("8.8.8.8", "/good") in [tuple(one) for one in told["seen"]]


def test_without_hosts_nobody_is_asked() -> None:
    read = PictureReader((), MOST, deadline_s=1)
    with pytest.raises(ValueError, match="not fetched from there"):
        asyncio.run(read("http://pictures.example/good"))
    assert asyncio.run(read(base64.b64encode(b"a picture").decode())) == b"a picture"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "http://a.example", "[::1]", "0x7f.1"])
def test_hosts_are_names(host: str) -> None:
    with pytest.raises(ValueError, match="pictures_from"):
        Settings(pictures_from=(host,))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(scenario(Path(sys.argv[1]))))
