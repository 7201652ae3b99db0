"""The shards of an index as actors of a Ray cluster: placed, asked, and put elsewhere when their machine is gone.

Ray restarts an actor whose process died, on the same machine. An actor whose machine died is made anew on another one,
here, so that two replicas of a shard never share a machine while there is another choice. What is down is not asked
again until it answers a probe: a search does not wait for it.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from runtime.errors import (
    DamagedError,
    DependencyError,
    HowlError,
    MissingError,
    ServiceError,
    StorageError,
    UsageError,
)
from runtime.index.shards import Shards
from runtime.sharded.shard import Shard

CONNECT_SECONDS = 5.0
START_SECONDS = 300.0  # until all shards have been opened
PROBE_SECONDS = 0.5  # from one probe of what is down to the next
THREADS = 8  # of an actor
GONE, LATE = "its process or its machine is gone", "it did not answer in time"
BROKEN = DamagedError, StorageError, MissingError  # what a shard says where its own machine or disk is at fault

logger = logging.getLogger("howl.shards")


def load_ray() -> Any:
    """The package ``ray``. Raises DependencyError if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or it tells its makers
    try:
        import ray
    except ModuleNotFoundError:
        raise DependencyError("ray is not installed: in howl's folder, pip install '.[ray]'") from None
    return ray


def connect(address: str | None = None) -> None:
    """Connects this process to a Ray cluster, if it is not connected to one yet.

    Args:
        address: of its head, ``host:port``; None for RAY_ADDRESS or the cluster of this machine, or a new one on it.

    Raises:
        ServiceError: there is none.
    """
    ray = load_ray()
    if ray.is_initialized():
        return
    if address:
        check_reachable(address)
    try:
        ray.init(address=address or None, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        line = str(error).partition("\n")[0]
        raise ServiceError(
            f"--ray {address or ''}: no Ray cluster can be reached: {line}; where it asks for a token, "
            "RAY_AUTH_MODE=token and its head's ~/.ray/auth_token are needed"
        ) from None


def check_reachable(address: str) -> None:
    """Raises ServiceError if nothing listens there, which Ray would find out in a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ServiceError(
            f"--ray {address}: no Ray cluster can be reached: {error}; its head's host:port is needed"
        ) from None


def alive_nodes() -> list[str]:
    """The ids of the cluster's machines."""
    return sorted(node["NodeID"] for node in load_ray().nodes() if node["Alive"])


def result(call: Any) -> Any:
    """What a call of an actor gave. Raises HowlError where the actor did, and Ray's RayError where none answered."""
    ray = load_ray()
    try:
        return ray.get(call)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, HowlError):
            raise error.cause from None
        raise


@dataclass(eq=False)
class Replica:
    """A shard's actor.

    Attributes:
        shard: its number.
        node: where it is.
        actor: Ray's handle.
        is_up: whether it answered when it was last asked.
        probe: a call that asks whether it is up again, if one is under way.
    """

    shard: int
    node: str
    actor: Any
    is_up: bool = True
    probe: Any = None


@dataclass(frozen=True)
class Replies:
    """What shards answered.

    Attributes:
        answers: by shard.
        missing: by shard, why there is no answer.
    """

    answers: dict[int, Any] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)


class Cluster:
    """The actors of an index's shards. Any thread may ask."""

    def __init__(self, shards: Shards, *, replicas: int = 1, timeout: float, wait: float) -> None:
        """Makes the actors; none has opened its shard yet.

        Args:
            shards: of the index, on a disk that all machines see at the same path.
            replicas: actors of each shard, on different machines.
            timeout: seconds that an answer may take.
            wait: seconds that a shard waits for another process that is writing.

        Raises:
            UsageError: there are fewer machines than replicas.
        """
        self.shards, self.timeout, self._wait = shards, timeout, wait
        self._ray = load_ray()
        nodes = alive_nodes()
        if replicas > len(nodes):
            raise UsageError(
                f"--replicas {replicas}: the cluster has {len(nodes)} machines, and replicas of a shard are on "
                "different ones"
            )
        self._replicas = [
            [self._placed(shard, nodes[(shard + number) % len(nodes)]) for number in range(replicas)]
            for shard in range(shards.count)
        ]
        self._turns = count()
        self._lock = threading.Lock()  # of which replicas take part in writes
        self._closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="howl-shards", daemon=True)
        self._keeper.start()

    def close(self) -> None:
        """Ends the actors."""
        self._closing.set()
        self._keeper.join()
        for replica in self._all() if self._ray.is_initialized() else ():
            self._ray.kill(replica.actor)

    def ask(self, method: str, arguments: Mapping[int, Sequence[Any]], *, timeout: float | None = None) -> Replies:
        """Asks some shards, one replica of each, in turn; where one does not answer, the next.

        Args:
            method: of ``Shard``, that only reads, or may be called twice.
            arguments: by shard.
            timeout: seconds; None for the usual.

        Raises:
            HowlError: what a shard says of the call.
        """
        replies = Replies()
        untried = {shard: self._in_turn(shard) for shard in arguments}
        pending: dict[Any, Replica] = {}

        def ask_next(shard: int) -> None:
            if untried[shard]:
                replica = untried[shard].pop(0)
                pending[getattr(replica.actor, method).remote(*arguments[shard])] = replica
            else:
                replies.missing.setdefault(shard, GONE)

        for shard in arguments:
            ask_next(shard)
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while pending:
            ready, _ = self._ray.wait(list(pending), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                for replica in pending.values():
                    self._lose(replica, LATE)
                    replies.missing[replica.shard] = LATE
                break
            for call in ready:
                replica = pending.pop(call)
                try:
                    replies.answers[replica.shard] = result(call)
                    replies.missing.pop(replica.shard, None)
                except BROKEN as error:
                    self._lose(replica, str(error))
                    replies.missing[replica.shard] = "it cannot be read there, as howl's log says"
                    ask_next(replica.shard)
                except self._ray.exceptions.RayError:
                    self._lose(replica, GONE)
                    ask_next(replica.shard)
        return replies

    def need(self, method: str, arguments: Mapping[int, Sequence[Any]], *, timeout: float | None = None) -> dict:
        """``ask``, where every shard must answer. Raises ServiceError if one does not, and HowlError as ``ask``."""
        replies = self.ask(method, arguments, timeout=timeout)
        if replies.missing:
            raise self.unavailable(replies.missing)
        return replies.answers

    def order(self, method: str, arguments: Mapping[int, Sequence[Any]], *, timeout: float | None = None) -> Replies:
        """``ask`` for what writes: it is asked of one replica of each shard, and once. The others take it up.

        Raises:
            HowlError: what a shard says of the call; other shards may have done what they were told.
        """
        calls = {}
        replies = Replies()
        for shard, own in arguments.items():
            replicas = self._in_turn(shard, is_fixed=True)
            if replicas:
                calls[getattr(replicas[0].actor, method).remote(*own)] = replicas[0]
            else:
                replies.missing[shard] = GONE
        done, late = self._ray.wait(list(calls), num_returns=len(calls), timeout=timeout) if calls else ([], [])
        for call in late:
            replies.missing[calls[call].shard] = LATE
        refusals: list[HowlError] = []
        for call in done:
            replica = calls[call]
            try:
                replies.answers[replica.shard] = result(call)
            except HowlError as error:
                refusals.append(error)
            except self._ray.exceptions.RayError:
                self._lose(replica, GONE)
                replies.missing[replica.shard] = GONE
        with self._lock:
            others = [replica for replica in self._all() if replica.shard in arguments and replica.is_up]
        _, behind = self._refreshed([replica for replica in others if replica not in set(calls.values())])
        for replica, refusal in behind:  # it would give answers of before
            self._lose(replica, str(refusal))
        if refusals:
            raise refusals[0]
        return replies

    def refresh(self) -> Replies:
        """Has all replicas take up what was committed, and gives the state of each shard that has one.

        Raises:
            HowlError: why one cannot; searches go on in what it opened.
        """
        states, refusals = self._refreshed([replica for replica in self._all() if replica.is_up])
        if refusals:
            raise refusals[0][1]
        missing = {shard: GONE for shard in range(self.shards.count) if shard not in states}
        return Replies(states, missing)

    def _refreshed(self, replicas: Sequence[Replica]) -> tuple[dict[int, Any], list[tuple[Replica, HowlError]]]:
        """The states of what took up the last commit, by shard, and why others could not."""
        calls = {replica.actor.refresh.remote(): replica for replica in replicas}
        states: dict[int, Any] = {}
        refusals: list[tuple[Replica, HowlError]] = []
        done, late = self._ray.wait(list(calls), num_returns=len(calls), timeout=self.timeout) if calls else ([], [])
        for call in late:
            self._lose(calls[call], LATE)
        for call in done:
            try:
                states[calls[call].shard] = result(call)
            except HowlError as error:
                refusals.append((calls[call], error))
            except self._ray.exceptions.RayError:
                self._lose(calls[call], GONE)
        return states, refusals

    def open(self) -> dict[int, Any]:
        """The states of all shards, when they have been opened.

        Raises:
            HowlError: why one of them cannot be.
        """
        calls = {replica.actor.refresh.remote(): replica for replica in self._all()}
        done, late = self._ray.wait(list(calls), num_returns=len(calls), timeout=START_SECONDS)
        states = {calls[call].shard: self._result_or_unavailable(calls[call], call) for call in done}
        if late:
            raise self.unavailable({calls[call].shard: "it was not opened in time" for call in late})
        return states

    def places(self) -> dict[int, list[str]]:
        """The machines that have replicas, by shard."""
        return {shard: [replica.node for replica in own] for shard, own in enumerate(self._replicas)}

    def unavailable(self, missing: Mapping[int, str]) -> ServiceError:
        """The error that shards do not answer."""
        names = ", ".join(self.shards.name(shard) for shard in sorted(missing))
        line = missing[min(missing)]
        return ServiceError(f"{self.shards.path}: {names} of {self.shards.count} shards: {line}; try again later")

    def _result_or_unavailable(self, replica: Replica, call: Any) -> Any:
        try:
            return result(call)
        except self._ray.exceptions.RayError as error:
            raise self.unavailable({replica.shard: str(error).partition("\n")[0]}) from None

    def _all(self) -> list[Replica]:
        return [replica for own in self._replicas for replica in own]

    def _in_turn(self, shard: int, *, is_fixed: bool = False) -> list[Replica]:
        """The replicas that are up; each time another one first, unless the order is to be fixed."""
        up = [replica for replica in self._replicas[shard] if replica.is_up]
        first = 0 if is_fixed or not up else next(self._turns) % len(up)
        return [*up[first:], *up[:first]]

    def _lose(self, replica: Replica, why: str) -> None:
        """Notes that a replica does not answer; it is probed from now on."""
        if replica.is_up:
            logger.warning("%s on node %s: %s", self.shards.name(replica.shard), replica.node[:8], why)
        replica.is_up = False

    def _placed(self, shard: int, node: str) -> Replica:
        """A new actor on a machine. It takes no CPU of Ray's count: what searches it is what waits for it."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options = dict(num_cpus=0, max_restarts=-1, max_task_retries=0, max_concurrency=THREADS)
        made = self._ray.remote(**options)(Shard).options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        )
        return Replica(shard, node, made.remote(self.shards.place(shard).absolute(), self._wait))

    def _keep(self) -> None:
        """Probes what is down, for ever, and makes anew what is gone for good."""
        while not self._closing.wait(PROBE_SECONDS) and self._ray.is_initialized():
            for replica in self._all():
                if not replica.is_up:
                    try:
                        self._revive(replica)
                    except Exception as error:  # the head may be gone for a while, and nobody waits for this thread
                        logger.warning("%s: %s", self.shards.name(replica.shard), str(error).partition("\n")[0])

    def _revive(self, replica: Replica) -> None:
        """Takes one step towards a replica that is up again."""
        exceptions = self._ray.exceptions
        if replica.probe is None:
            replica.probe = replica.actor.refresh.remote()
            return
        if not self._ray.wait([replica.probe], timeout=0)[0]:
            return
        call, replica.probe = replica.probe, None
        try:
            result(call)
            with self._lock:  # a write that ends meanwhile waits, and then has this replica take it up like the others
                ready, _ = self._ray.wait([latest := replica.actor.refresh.remote()], timeout=self.timeout)
                if ready:
                    result(latest)
                    replica.is_up = True
            if replica.is_up:
                logger.warning("%s on node %s answers again", self.shards.name(replica.shard), replica.node[:8])
        except (exceptions.ActorDiedError, exceptions.ActorUnschedulableError):
            self._move(replica)
        except (HowlError, exceptions.RayError):
            pass  # the next probe may find it

    def _move(self, replica: Replica) -> None:
        """Makes a replica anew, on the machine that has the fewest shards, and not this one if there is another."""
        nodes = alive_nodes()
        if not nodes:
            return
        taken = [other.node for other in self._all() if other is not replica]
        own = [other.node for other in self._replicas[replica.shard] if other is not replica]
        node = min(nodes, key=lambda each: (each in own, taken.count(each)))
        made = self._placed(replica.shard, node)
        replica.node, replica.actor = made.node, made.actor
