"""How many workers train and what each of them gets: shared out of what a cluster has, or asked of its autoscaler.

Knows numbers of CPUs and GPUs; knows no Ray and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Node = tuple[int, int]
"""CPUs and GPUs of a machine."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """So many workers, each with so many CPUs and GPUs of one machine."""

    workers: int
    cpus: int
    gpus: int


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a user asks for; None: what the cluster has. With `cpus`, on machines still to start, too."""

    workers: int | None = None
    cpus: int | None = None  # of each worker
    gpus: int | None = None  # of each worker, 0 or 1
    grows: bool = True  # whether machines may still start: else what is not there is a mistake

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"--workers {self.workers}; at least 1")
        if self.cpus is not None and self.cpus < 1:
            raise ValueError(f"--cpus {self.cpus}; each worker needs one")
        if self.gpus not in (None, 0, 1):
            raise ValueError(f"--gpus {self.gpus}; a worker computes on one GPU, or on none")


ANY = Wanted()
"""Whatever the cluster has."""


def shared_out(nodes: Sequence[Node], wanted: Wanted) -> Hardware:
    """Unless asked for otherwise: a worker for each GPU, or without GPUs two, and as many CPUs for each as fit.

    ValueError if the cluster has too little, and no autoscaler is told how much to start.
    """
    gpus = int(any(of_node for _, of_node in nodes)) if wanted.gpus is None else wanted.gpus
    places = _places(nodes, wanted.cpus or 1, gpus)
    workers = wanted.workers or max(1, places if gpus else min(2, places))
    if wanted.cpus is not None and (wanted.grows or workers <= places):
        return Hardware(workers=workers, cpus=wanted.cpus, gpus=gpus)
    if workers > places:
        has = f"{sum(cpus for cpus, _ in nodes)} CPUs and {sum(gpus for _, gpus in nodes)} GPUs"
        needs = "a CPU" if wanted.cpus in (None, 1) else f"{wanted.cpus} CPUs"
        advice = " (where machines start when asked for, say how many CPUs of each with --cpus)" if wanted.grows else ""
        raise ValueError(
            f"--workers {workers}; this cluster has {has}, and each worker needs {needs}"
            f"{' and a GPU' if gpus else ''} of one machine{advice}"
        )
    cpus = max(cpus for cpus, _ in nodes)
    while _places(nodes, cpus, gpus) < workers:
        cpus -= 1
    return Hardware(workers=workers, cpus=cpus, gpus=gpus)


def _places(nodes: Sequence[Node], cpus: int, gpus: int) -> int:
    """Workers of so many CPUs and GPUs that fit on these machines."""
    return sum(min(of_node // cpus, of_gpus // gpus if gpus else of_node) for of_node, of_gpus in nodes)
