"""What every job does alike: connect to Ray, answer a user's mistake with one line, end with one JSON object.

Knows no work of any job.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

_NOISE = "Failed to query Ray Train Controller actor state"
"""Told every second by a guard of Ray Train that asks the dashboard, which a local cluster does without."""


def run(work: Callable[[], Mapping[str, Any]]) -> NoReturn:
    """Runs the job and exits: 0 with the result as the last line of standard output, 2 for a user's mistake, else 1."""
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", _NOISE)  # read when ray is imported
    try:
        result = work()
    except OSError as error:  # a disk that is full, a server that does not answer: nothing a traceback would explain
        sys.stderr.write(f"error: {_one_line(error)}\n")
        sys.exit(1)
    except Exception as error:
        mistake = user_error(error)
        if mistake is None:
            traceback.print_exc()
            sys.stderr.write(f"error: internal: {type(error).__name__}: {_one_line(error)}\n")
            sys.exit(1)
        sys.stderr.write(f"error: {_one_line(mistake)}\n")
        sys.exit(2)
    sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")
    sys.exit(0)


@contextmanager
def cluster() -> Iterator[None]:
    """Connects to the cluster that RAY_ADDRESS names (`ray job submit` sets it), else starts one on this machine."""
    import ray

    address = _address()
    options: dict[str, Any] = {}
    if address == "local":
        options["include_dashboard"] = False  # it lives as long as the job: nobody would see it
        # An actor that learns which machines are about to go: here is only one, and it would go too.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    ray.init(address=address, **options)
    try:
        yield
    finally:
        ray.shutdown()


def grows() -> bool:
    """Whether machines may still start: not where `cluster` starts one that is this machine alone."""
    return _address() != "local"


def workers(text: str) -> tuple[int, int]:
    """The numbers of MIN,MAX. ValueError if it is something else."""
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"--workers {text!r}; expected MIN,MAX such as 1,2")
    return int(parts[0]), int(parts[1])


def directory(path: str) -> Path:
    """Where artifacts lie. ValueError for a URI, of which a directory `s3:` on this machine would be made."""
    if "://" in path:
        raise ValueError(f"{path!r}; artifacts lie in directories that all machines see (checkpoints alone: --storage)")
    return Path(path)


def device() -> str:
    """Where a job's own process computes, after its workers have given back what they had."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def alone() -> bool:
    """Whether the cluster that `cluster` connected to is one machine that computes: then none other will."""
    import ray

    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return len(there) == 1 and there[0].get("CPU", 0) > 0


def check_gpus(wanted: float) -> None:
    """ValueError for more GPUs a worker than there are, where no machine may start: Ray would wait without end."""
    import ray

    there = ray.cluster_resources().get("GPU", 0)
    if wanted > there and not grows():
        raise ValueError(f"--gpus {wanted:g}; this machine has {there:g}")


def user_error(error: BaseException) -> ValueError | None:
    """The ValueError or missing file at the root of an error, also of one that Ray carried here from a worker."""
    seen: set[int] = set()
    pending: list[BaseException] = [error]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, ValueError):
            return current
        workers = getattr(current, "worker_failures", None)
        linked = [getattr(current, "cause", None), current.__cause__, *(workers.values() if workers else ())]
        pending += [link for link in linked if isinstance(link, BaseException)]
    return None


def _address() -> str:
    return os.environ.get("RAY_ADDRESS", "local")


def _one_line(error: BaseException) -> str:
    """A Ray error's text is the remote traceback; its last line is the message."""
    text = str(error).strip()
    if "Traceback (most recent call last)" in text:
        text = text.splitlines()[-1].removeprefix("ValueError: ")
    return " ".join(text.split())
