"""Fixtures shared by all rooms' tests: one Ray cluster for the whole session."""

import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    import ray
    import ray.data

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    with warnings.catch_warnings():  # Ray's own defaults warn of themselves, once
        warnings.simplefilter("ignore")
        ray.data.DataContext.get_current()
    yield
    ray.shutdown()
