"""Processes that somebody else started, on several machines perhaps, as `mlx.launch` does: the same command
everywhere, and in the environment what mx.distributed needs to find the others.

When they have become a group, rank 0 tells the others through it where its socket is, and a secret that they show
there. Addresses and the group's own sockets are those of whoever launched: what is said there is not encrypted.
"""

from __future__ import annotations

import hmac
import json
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx

from runner.errors import LoadError
from runner.ranks.channel import Channel
from runner.ranks.leader import Leader
from runner.sharding.group import Group

SECRET = 32  # bytes
PATIENCE_S = 30.0  # for all to come, who are a group by then
KEPT_ALIVE = {
    "TCP_KEEPIDLE": 2,
    "TCP_KEEPALIVE": 2,
    "TCP_KEEPINTVL": 1,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 4000,
}
"""A machine that lost its power says nothing; three seconds without an answer are its end."""


class Launched(NamedTuple):
    """What the environment says: our rank of so many, and where rank 0 is."""

    rank: int
    size: int
    backend: str
    host: str
    one_machine: bool


def launched(environ: Mapping[str, str] = os.environ) -> Launched:
    """What a launcher said. Raises LoadError for what is no such environment."""
    try:
        rank = int(environ["MLX_RANK"])
        if "MLX_HOSTFILE" in environ:
            hosts = [
                one[0].rpartition(":")[0] for one in json.loads(Path(environ["MLX_HOSTFILE"]).read_text())
            ]
            if not all(hosts):
                raise ValueError("a host without an address and a port")
            return Launched(rank, len(hosts), "ring", hosts[0], len(set(hosts)) == 1)
        if "NCCL_HOST_IP" in environ:
            return Launched(rank, int(environ["MLX_WORLD_SIZE"]), "nccl", environ["NCCL_HOST_IP"], False)
    except (KeyError, ValueError, IndexError, AttributeError, TypeError, OSError) as error:
        raise LoadError(
            f"MLX_RANK is set, but not all that goes with it: {type(error).__name__}: {error}"
        ) from None
    raise LoadError("MLX_RANK is set, but neither MLX_HOSTFILE (for a ring) nor NCCL_HOST_IP (for CUDA)")


class MeetingLeader(Leader):
    """Its followers come when the group is there."""

    def __init__(
        self, found: Launched, join: Callable[[], Group], on_lost: Callable[[int, str], None]
    ) -> None:
        super().__init__(found.size, join, on_lost, one_machine=found.one_machine)
        self._found = found

    def join(self, memory_budget: int | None) -> None:
        group = self._join()
        self.start(called(group, self._found.host))
        self._join = lambda: group
        super().join(memory_budget)


def called(group: Group, host: str) -> Sequence[Channel]:
    """Called by rank 0: wait for all others. Channels to ranks 1, 2 and so on. Raises LoadError if not all come."""
    secret, deadline = os.urandom(SECRET), time.monotonic() + PATIENCE_S
    came: dict[int, Channel] = {}
    with socket.socket() as listener:
        listener.bind((host, 0))
        listener.listen(group.size)
        _said(group, [listener.getsockname()[1], *secret])
        while len(came) < group.size - 1:
            listener.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                connection, _ = listener.accept()
                if (rank := shown(connection, secret)) is not None:
                    came[rank] = _kept(connection)
            except OSError as error:
                if time.monotonic() > deadline:
                    missing = [rank for rank in range(1, group.size) if rank not in came]
                    raise LoadError(f"ranks {missing} did not come to {host}: {error}") from None
    return [came[rank] for rank in range(1, group.size)]


def answered(group: Group, host: str) -> Channel:
    """Called by every other rank: go to rank 0, and the channel to it. Raises OSError."""
    port, *secret = _said(group, [0] * (SECRET + 1))
    connection = socket.socket()
    connection.settimeout(PATIENCE_S)
    connection.connect((host, port))
    connection.sendall(bytes(secret) + bytes([group.rank]))
    return _kept(connection)


def _said(group: Group, numbers: Sequence[int]) -> list[int]:
    """Called by all, by those other than rank 0 with zeros: the numbers of rank 0."""
    found: list[int] = group.sum(mx.array([*numbers], mx.int32)).tolist()  # type: ignore[assignment]  # typed as object
    return found


def shown(connection: socket.socket, secret: bytes) -> int | None:
    """The rank that the other end shows behind the secret; None if it does not know the secret, and then the
    connection is closed.
    """
    connection.settimeout(1.0)
    said = b""
    with suppress(OSError):
        while len(said) <= SECRET and (more := connection.recv(SECRET + 1 - len(said))):
            said += more
    if len(said) == SECRET + 1 and hmac.compare_digest(said[:SECRET], secret):
        return said[SECRET]
    connection.close()
    return None


def _kept(connection: socket.socket) -> Channel:
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEPT_ALIVE.items():
        if hasattr(socket, name):  # systems differ
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return Channel(connection)
