"""A Ray cluster of three nodes on this machine, of which tests may kill and add some. Needs the extra `ray`."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Before ray is imported; processes that tests start inherit it. A token that lies about would be asked for.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}

import ray
from ray.cluster_utils import Cluster

PATIENCE = 300.0  # seconds: a busy machine starts processes slowly
NODE = dict(num_cpus=1, object_store_memory=80_000_000)
SOON = {  # a dead node is found out within seconds
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 4,
}


class Nodes:
    """The nodes of a running cluster.

    Attributes:
        address: of the head.
    """

    def __init__(self) -> None:
        head = dict(NODE, include_dashboard=False, _system_config=SOON)
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address: str = self._cluster.address
        self._others: list[Any] = []

    def fill(self) -> None:
        """Adds nodes until there are three."""
        while len(self._others) < 2:
            self._others.append(self._cluster.add_node(**NODE))
        until(lambda: len(self.alive()) == 3)

    def alive(self) -> list[str]:
        """The ids of the nodes that live, as the head sees it."""
        return [node["NodeID"] for node in ray.nodes() if node["Alive"]]

    def kill(self, node_id: str | None = None) -> str:
        """Kills a node, as a power cut would, but never the head; gives its id."""
        node = next(node for node in self._others if node_id in (None, node.node_id))
        self._others.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)
        return node.node_id

    @property
    def others(self) -> list[str]:
        """The ids of the nodes that can be killed."""
        return [node.node_id for node in self._others]

    def close(self) -> None:
        """Ends all of it."""
        self._cluster.shutdown()


@contextmanager
def three_nodes() -> Iterator[Nodes]:
    """A cluster to which this process is connected."""
    nodes = Nodes()
    try:
        ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
        nodes.fill()
        yield nodes
    finally:
        ray.shutdown()
        nodes.close()


def until(is_so: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Waits until something is so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.05)
