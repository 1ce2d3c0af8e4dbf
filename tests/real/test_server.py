"""Do the tests of the index pass on a real Milvus server as they do on the embedded one?"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = "tests/index/test_store.py tests/index/test_embed.py"
BACKEND = (
    "not poison and not waits and not vanish and not start and not nobody and not stored and not pool and not disk"
)
"""What concerns a worker or Ray alone is left to the embedded default."""
ROOT = Path(__file__).parent.parent.parent


def _namespace() -> list[str] | None:
    """A command prefix for a network of its own: that server has known holes and listens on fixed ports everywhere."""
    for flags in (["-n"], ["-rn"]):
        command = ["unshare", *flags]
        if shutil.which("unshare") and not subprocess.run([*command, "ip", "link", "set", "lo", "up"]).returncode:
            return command
    return None


@pytest.mark.slow
def test_the_tests_of_the_index_pass_on_a_server(tiny_bundle: Path) -> None:
    prefix = _namespace()
    if prefix is None:
        pytest.skip("needs the right to make a network namespace (unshare -n, ip link)")
    options = f"{TESTS} -x -q -n0 -p no:cacheprovider -k '{BACKEND}'"
    inside = f'ip link set lo up && exec "{sys.executable}" -m pytest {options}'
    environment = {**os.environ, "UNIMIR_TEST_MILVUS": "server", "UNIMIR_TEST_BUNDLE": str(tiny_bundle)}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [*prefix, "sh", "-c", inside], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
