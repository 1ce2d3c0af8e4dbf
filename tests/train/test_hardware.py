"""Are workers given what the machines have, and is what they lack said?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimir.train.hardware import Hardware, Node, Wanted, shared_out

TWO, BIG, HEAD, GPU = (2, 0), (16, 0), (0, 0), (8, 1)


@pytest.mark.parametrize(
    ("nodes", "wanted", "expected"),
    [
        ([TWO], Wanted(), (2, 1, 0)),
        ([(1, 0)], Wanted(), (1, 1, 0)),
        ([BIG], Wanted(workers=3), (3, 5, 0)),
        ([(16, 1)], Wanted(), (1, 16, 1)),
        ([(16, 8)], Wanted(workers=3), (3, 5, 1)),
        ([(3, 0), (3, 0)], Wanted(workers=3), (3, 1, 0)),  # two CPUs each would fit twice only
        ([HEAD, BIG, GPU], Wanted(), (1, 8, 1)),  # the CPUs of the other machine are no use to it
        ([HEAD, BIG, GPU], Wanted(workers=2, gpus=0), (2, 8, 0)),
        ([HEAD, GPU, GPU, GPU], Wanted(), (3, 8, 1)),
        ([HEAD], Wanted(workers=3, cpus=8, gpus=1), (3, 8, 1)),  # the autoscaler starts them
        ([HEAD], Wanted(cpus=4), (1, 4, 0)),
        ([TWO], Wanted(cpus=2), (1, 2, 0)),
        ([TWO], Wanted(cpus=2, grows=False), (1, 2, 0)),
        ([(16, 8)], Wanted(cpus=4), (4, 4, 1)),
        ([HEAD, BIG], Wanted(workers=2, cpus=8, gpus=1), (2, 8, 1)),
    ],
)
def test_workers_follow_the_machines_unless_asked_for(
    nodes: list[Node], wanted: Wanted, expected: tuple[int, int, int]
) -> None:
    found = shared_out(nodes, wanted)
    assert (found.workers, found.cpus, found.gpus) == expected


@pytest.mark.parametrize(
    ("nodes", "wanted", "message"),
    [
        ([TWO], {"workers": 9}, "--workers 9; this cluster has 2 CPUs and 0 GPUs, and each worker needs a CPU of one"),
        ([TWO], {"workers": 9, "grows": False}, "--workers 9; .* needs a CPU of one machine$"),
        ([TWO], {"cpus": 3, "grows": False}, "--workers 1; .* 2 CPUs .* each worker needs 3 CPUs of one machine$"),
        ([(16, 1)], {"workers": 2, "cpus": 4, "gpus": 1, "grows": False}, "needs 4 CPUs and a GPU of one machine$"),
        (
            [(16, 1)],
            {"workers": 2},
            "--workers 2; this cluster has 16 CPUs and 1 GPUs.* a CPU and a GPU of one",
        ),
        ([HEAD], {}, "--workers 1; this cluster has 0 CPUs and 0 GPUs.*say how many CPUs of each with --cpus"),
        ([HEAD, BIG], {"gpus": 1}, "--workers 1; this cluster has 16 CPUs and 0 GPUs"),
        ([TWO], {"workers": 0}, "--workers 0; at least 1"),
        ([TWO], {"cpus": 0}, "--cpus 0; each worker needs one"),
        ([TWO], {"gpus": 2}, "--gpus 2; a worker computes on one GPU, or on none"),
    ],
)
def test_too_little_is_a_clear_error(nodes: list[Node], wanted: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shared_out(nodes, Wanted(**wanted))


NODES = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 4)), min_size=1, max_size=4)


@given(NODES, st.none() | st.integers(1, 12), st.none() | st.integers(0, 1))
def test_what_is_shared_out_fits_and_no_cpu_more_would(
    nodes: list[Node], workers: int | None, gpus: int | None
) -> None:
    try:
        found = shared_out(nodes, Wanted(workers=workers, gpus=gpus))
    except ValueError:
        each = int(any(of_node for _, of_node in nodes)) if gpus is None else gpus
        assert not fits(nodes, Hardware(workers=workers or 1, cpus=1, gpus=each))
        return
    assert found.workers == (workers or found.workers) and fits(nodes, found)
    assert not fits(nodes, Hardware(workers=found.workers, cpus=found.cpus + 1, gpus=found.gpus))


def fits(nodes: list[Node], hardware: Hardware) -> bool:
    """By placing one worker after the other."""
    left, placed = [list(node) for node in nodes], 0
    for node in left:
        while node[0] >= hardware.cpus and node[1] >= hardware.gpus:
            node[0] -= hardware.cpus
            node[1] -= hardware.gpus
            placed += 1
    return placed >= hardware.workers
