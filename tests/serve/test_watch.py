"""Is the service seen from outside, and nothing of what its callers say?"""

import json
import re
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path

import psutil
from serve.conftest import ROOT, Ask, running

DASHBOARD = ROOT / "serve_configs" / "grafana.json"


def exposition(application: running) -> str:
    """What Ray's Prometheus endpoint tells of the service; "" while it tells nothing yet."""
    for process in psutil.Process(application.process.pid).children(recursive=True):
        ports = [one.laddr.port for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
        for port in ports if "Agent" in " ".join(process.cmdline()) else []:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    text = answer.read().decode()
            except (OSError, HTTPException, ValueError):  # another of its ports
                continue
            if "ray_unimir_" in text:
                return text
    return ""


def test_every_metric_of_the_dashboard_is_there(ask: Ask, application: running) -> None:
    assert ask("POST", "/v1/search", {"query": "two red cats", "lang": "en"})[0] == 200
    panels = json.loads(DASHBOARD.read_text())["panels"]
    wanted = {name for panel in panels for t in panel["targets"] for name in re.findall(r"ray_\w+", t["expr"])}
    assert len(wanted) >= 6
    deadline = time.monotonic() + 60  # Ray reports every ten seconds
    while missing := {name for name in wanted if f"\n{name}{{" not in exposition(application)}:
        assert time.monotonic() < deadline, missing
        time.sleep(1)
    text = exposition(application)
    assert re.search(r'ray_unimir_requests_total\{[^}]*route="/v1/search"[^}]*status="200"', text) or re.search(
        r'ray_unimir_requests_total\{[^}]*status="200"[^}]*route="/v1/search"', text
    )
    assert {f'stage="{stage}"' in text for stage in ("request", "understand", "resolve", "retrieve")} == {True}


def test_a_request_is_one_line_with_its_id(ask: Ask) -> None:
    _, headers, _ = ask("POST", "/v1/search", {"query": "a line of its own"})
    deadline = time.monotonic() + 10
    while not (lines := [one for one in logged() if headers["x-request-id"] in one]):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    (line,) = lines
    told = json.loads(line)
    assert (told["message"], told["request_id"]) == ("request", headers["x-request-id"])
    assert (told["path"], told["status"]) == ("/v1/search", 200)
    assert "query" not in told
    assert told["ms"] > 0
    assert {"asctime", "replica", "tenant", "intent", "modality", "hits", "understand", "retrieve"} <= set(told)


def logged() -> list[str]:
    """Lines of the Gateway that wrote last."""
    logs = Path("/tmp/ray").glob("session_*/logs/serve/replica_search_Gateway_*.log")
    return max(logs, key=lambda path: path.stat().st_mtime).read_text(errors="replace").splitlines()
