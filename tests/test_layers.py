"""The rules of the house, kept by reading the source: who may import whom, sizes, what the README promises."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "unimir").rglob("*.py")) + sorted((ROOT / "jobs").glob("*.py"))
LAYERS = [
    {"schema", "plain", "config", "metrics", "artifacts", "bio"},
    {"recipes", "recipes_pretrained", "data", "model", "lexical", "bundle_files"},
    {"export", "values"},
    {"bundle"},
    {"onnx_text"},
    {"infer", "train"},
    {"index", "mine"},
    {"evaluate", "evaluate_checks", "evaluate_nlu", "report", "job", "serve"},
    {"jobs"},
]
PEERS = {
    ("config", "schema"),
    ("evaluate", "evaluate_checks"),
    ("evaluate", "evaluate_nlu"),
    ("recipes", "recipes_pretrained"),
}
OWNERS = {
    "deepspeed": {"unimir/train/engine.py"},
    "ray.train": {"unimir/train/worker.py", "unimir/train/driver.py", "unimir/train/snapshot.py"},
    "ray.data": {"unimir/data/passes.py"},
    "transformers": {"unimir/model/text_encoder.py", "unimir/export.py"},
    "timm": {"unimir/model/image_encoder.py"},
    "onnxruntime": {"unimir/onnx_text.py"},
    "pymilvus": {f"unimir/index/{name}.py" for name in ("store", "async_store", "connection", "requests")},
    "ray.serve": {"unimir/serve/app.py"},
    "fastapi": {"unimir/serve/api.py", "unimir/serve/app.py", "unimir/serve/problems.py"},
    "aiohttp": {"unimir/serve/pictures.py"},
    "ray.util": {"unimir/serve/watch.py"},
    "babel": {"unimir/values/time_words.py", "unimir/values/amounts.py", "unimir/values/names.py"},
    "rapidfuzz": {"unimir/values/names.py"},
    "matplotlib": {"unimir/report.py"},
    "sklearn": {"unimir/lexical.py"},
    "argparse": {path.relative_to(ROOT).as_posix() for path in SOURCES if path.parent.name == "jobs"},
}
HEAVY = ("torch", "ray", "deepspeed", "transformers", "timm", "sklearn", "matplotlib", "pyarrow", "pymilvus")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(name: str) -> str:
    return name.split(".")[1] if name.startswith("unimir.") else ""


def layer(name: str) -> int:
    (found,) = [number for number, rooms in enumerate(LAYERS) if name in rooms]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(ROOT).with_suffix("").parts
    own_room = "jobs" if own[0] == "jobs" else own[1]
    if own_room == "__init__":
        assert not list(imports(path))
        return
    for name in imports(path):
        other = room(name)
        if other and other != own_room:
            below = layer(other) < layer(own_room)
            peers = (own_room, other) in PEERS
            assert below or peers or own_room == "jobs", f"{own_room} imports {name}"


def test_model_knows_config_and_schema_only() -> None:
    for path in (ROOT / "unimir" / "model").glob("*.py"):
        assert {room(name) for name in imports(path)} <= {"", "config", "schema", "model"}


@pytest.mark.parametrize("library", OWNERS)
def test_each_heavy_library_has_one_owner(library: str) -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if any(name == library or name.startswith(f"{library}.") for name in imports(path))
    }
    assert users <= OWNERS[library]
    assert users, f"{library} has an owner but no user"


def test_importing_unimir_imports_no_heavy_library() -> None:
    code = f"import sys, unimir; print([name for name in {HEAVY!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "[]"


def test_service_starts_without_the_towers_libraries() -> None:
    """Replicas that hold no tower start while others answer: seconds of imports there are requests that wait here."""
    towers = ("torch", "transformers", "timm", "onnxruntime")
    code = f"import sys, unimir.serve.app; print([name for name in {towers!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_sizes(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 300
    tree = ast.parse(source)
    assert ast.get_docstring(tree), "every module says its duty"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, f"{node.name} is over 60 lines"
    assert path.stem not in {"utils", "util", "common", "helpers", "helper", "base", "misc"}


def test_groups_of_tests_are_kept_apart(request: pytest.FixtureRequest) -> None:
    """Otherwise the longest tests of both groups meet on the same cores; see tests/conftest.py."""
    assert "PYTEST_XDIST_WORKER" not in os.environ or request.node.nodeid.endswith("@rooms")


def test_readme_layout_table_is_true() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `((?:unimir|jobs)/[\w/]+\.(?:py|yaml))` \|", readme, re.MULTILINE))
    package = [p for p in (ROOT / "unimir").rglob("*") if p.suffix in (".py", ".yaml")]
    files = {p.relative_to(ROOT).as_posix() for p in package + list((ROOT / "jobs").glob("*.py"))}
    trivial = {p.relative_to(ROOT).as_posix() for p in package if p.name == "__init__.py"}
    assert listed == files - trivial


def test_ruff_is_clean() -> None:
    for command in (["check", "."], ["format", "--check", "."]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_is_clean() -> None:
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
