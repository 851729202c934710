"""How the processes of a group on one machine find each other: what mx.distributed reads in the environment.

With CUDA they meet through NCCL, each with a GPU of its own; elsewhere in a ring of sockets. Addresses are
loopback's, so no other machine reaches them; but MLX's side of NCCL listens to everybody until all are there.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

from runner.errors import UnsupportedModel
from runner.machine import device

HOST = "127.0.0.1"
# Unless the user said otherwise. MLX calls NCCL for graphs only; ready for calls beside them, too, a sum of one
# position takes 41 us on two H200, and 35 without.
OF_NCCL = {"NCCL_SOCKET_IFNAME": "lo", "NCCL_GRAPH_MIXING_SUPPORT": "0"}


class Places(NamedTuple):
    """environments: what each rank needs beside what we have. kept: sockets that keep others from our ports."""

    backend: str
    environments: Sequence[dict[str, str]]
    kept: Sequence[socket.socket]
    hostfile: str

    def forget(self) -> None:
        """The group is there."""
        for one in self.kept:
            one.close()
        if self.hostfile:
            with contextlib.suppress(OSError):
                os.unlink(self.hostfile)


def places(size: int) -> Places:
    """Raises UnsupportedModel where there are fewer GPUs than processes."""
    return _nccl(size, mx.device_count(mx.gpu)) if device.kind() == "cuda" else _ring(size)


def _ring(size: int) -> Places:
    kept, ports = _ports(size)
    file, path = tempfile.mkstemp(prefix="mlx-runner-", suffix=".json")
    with open(file, "w") as hosts:
        json.dump([[f"{HOST}:{port}"] for port in ports], hosts)
    common = {"MLX_HOSTFILE": path}
    return Places("ring", [common | {"MLX_RANK": str(rank)} for rank in range(size)], kept, path)


def _nccl(size: int, gpus: int) -> Places:
    """gpus: how many this process sees."""
    if gpus < size:
        raise UnsupportedModel(
            f"--tensor-parallel {size}: each process needs a GPU of its own, and {gpus} can be seen"
        )
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in named.split(",")] if named else [str(number) for number in range(gpus)]
    kept, ports = _ports(1)
    common = {"NCCL_HOST_IP": HOST, "NCCL_PORT": str(ports[0]), "MLX_WORLD_SIZE": str(size)}
    common |= {name: os.environ.get(name, ours) for name, ours in OF_NCCL.items()}
    own = [{"MLX_RANK": str(rank), "CUDA_VISIBLE_DEVICES": names[rank]} for rank in range(size)]
    return Places("nccl", [common | one for one in own], kept, "")


def _ports(count: int) -> tuple[list[socket.socket], list[int]]:
    """Free ports. On Linux nobody else gets them before the group has them: a socket that is bound and does not
    listen is in the way of everybody but those who say, as the ring does, that they reuse addresses.
    """
    kept = []
    for _ in range(count):
        kept.append(one := socket.socket())
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((HOST, 0))
    ports = [one.getsockname()[1] for one in kept]
    if sys.platform != "linux":
        for one in kept:
            one.close()
        kept = []
    return kept, ports
