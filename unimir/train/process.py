"""What a training process is given and sets for itself: threads, tiny numbers, memory. Knows no model and no step."""

from __future__ import annotations

import ctypes

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_NEVER = 2**31 - 1


def environment(gpu: bool) -> dict[str, str]:
    """Of the process, before it starts."""
    # Ray runs the training function in a thread, and glibc gives each thread heaps of its own, of 64 MB, which return
    # memory whatever `set_up_process` says: all threads shall share the first heap.
    shared = {"MALLOC_ARENA_MAX": "1"}
    # Ray leaves a machine's GPUs visible to those who have asked for none, and DeepSpeed takes what it sees.
    return shared if gpu else {**shared, "CUDA_VISIBLE_DEVICES": ""}


def set_up_process(threads: int) -> None:
    """For the whole process, once, before its first step."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # Adam's moments of rare tokens decay into denormals, which are slow on a CPU
    # Every step frees hundreds of MB (gradients, DeepSpeed's flat copies of them), which glibc would give back to the
    # system and ask for again, page by page: a tenth of a step on a CPU. Other C libraries have no such function.
    allocator = getattr(ctypes.CDLL(None), "mallopt", None)
    if allocator is not None:
        allocator(_MMAP_THRESHOLD, _NEVER)
        allocator(_TRIM_THRESHOLD, _NEVER)
