"""Ray Train's list of a run's checkpoints, which it rewrites in place after every one: kept whole over kills.

Without it a run does not go on from checkpoints that are there. Knows where Ray Train writes it; not what it says.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from pyarrow import fs
from ray.train import Checkpoint, UserCallback

SNAPSHOT = "checkpoint_manager_snapshot.json"
COPY = f"{SNAPSHOT}.whole"


class KeepWhole(UserCallback):  # type: ignore[misc]
    """Copies the list when it has been written and what it no longer names is deleted, before the next checkpoint."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        """Called by Ray Train's controller, which writes the list, in the process that does."""
        config = run_context.run_config
        storage, path = _placed(config.storage_path, config.name)
        # A storage that takes no copy takes no list either, and Ray Train says so.
        with contextlib.suppress(OSError):
            storage.copy_file(f"{path}/{SNAPSHOT}", f"{path}/{COPY}.part")
            storage.move(f"{path}/{COPY}.part", f"{path}/{COPY}")


def mend(storage_path: str, run: str) -> None:
    """Puts the copy, or nothing before the second checkpoint, in the place of a list cut off by a kill.

    Of no run yet: does nothing.
    """
    storage, path = _placed(storage_path, run)
    if storage.get_file_info(f"{path}/{SNAPSHOT}").type == fs.FileType.NotFound:
        return
    try:
        with storage.open_input_stream(f"{path}/{SNAPSHOT}") as stream:
            json.loads(stream.read())
    except ValueError:
        storage.delete_file(f"{path}/{SNAPSHOT}")
        if storage.get_file_info(f"{path}/{COPY}").type == fs.FileType.File:
            storage.copy_file(f"{path}/{COPY}", f"{path}/{SNAPSHOT}")


def _placed(storage_path: str, run: str) -> tuple[fs.FileSystem, str]:
    storage, path = fs.FileSystem.from_uri(storage_path)
    return storage, f"{path.rstrip('/')}/{run}"
