"""A node provider for tests: every node is a `ray start` in a network namespace of its own, on one bridge.

Ray's fake nodes share one address, so its autoscaler never sees one of them idle; these have addresses of their own.
The caller is in a network namespace where it may do anything, and has made the bridge `rays` with 10.77.0.1/24.
"""

import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

HEAD = "10.77.0.1"


class NamespaceProvider(NodeProvider):
    """Nodes are known by their address; the head, started by the test, is one of them."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._lock = threading.RLock()
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._started = 1
        self._tags = {
            HEAD: {
                TAG_RAY_NODE_KIND: NODE_KIND_HEAD,
                TAG_RAY_NODE_NAME: "head",
                TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
                TAG_RAY_USER_NODE_TYPE: "head",
            }
        }

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        with self._lock:
            return [node for node, tags in self._tags.items() if tag_filters.items() <= tags.items()]

    def is_running(self, node_id: str) -> bool:
        return node_id in self._tags

    def is_terminated(self, node_id: str) -> bool:
        return node_id not in self._tags

    def node_tags(self, node_id: str) -> dict[str, str]:
        with self._lock:
            return dict(self._tags.get(node_id, {}))

    def internal_ip(self, node_id: str) -> str:
        return node_id

    external_ip = internal_ip

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        with self._lock:
            self._tags[node_id].update(tags)

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> None:
        with self._lock:
            for _ in range(count):
                self._started += 1
                address = f"10.77.0.{self._started}"
                self._nodes[address] = _start(address, self._started)
                self._tags[address] = {**tags, TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE}
                Path(self.provider_config["state"], address).write_text(str(self._nodes[address].pid))

    def terminate_node(self, node_id: str) -> None:
        with self._lock:
            process = self._nodes.pop(node_id)
            self._tags.pop(node_id)
            process.kill()
            process.wait()
            Path(self.provider_config["state"], node_id).unlink()


def _start(address: str, number: int) -> subprocess.Popen[bytes]:
    ray = f"ray start --address={HEAD}:6379 --node-ip-address={address} --num-cpus=1 --block"
    wait = f"until ip link show n{number} > /dev/null 2>&1; do sleep 0.05; done"
    network = f"ip link set lo up; {wait}; ip addr add {address}/24 dev n{number}; ip link set n{number} up"
    # With its first process every other of the node's PID namespace ends.
    node = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", f"{network}; {ray}"]
    process = subprocess.Popen(node, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while Path(f"/proc/{process.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
        time.sleep(0.01)
    for command in (
        f"ip link add v{number} type veth peer name n{number}",
        f"ip link set v{number} master rays up",
        f"ip link set n{number} netns {process.pid}",
    ):
        subprocess.run(command.split(), check=True)
    return process
