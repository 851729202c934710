"""Processes that a launcher started find each other, and nobody else."""

from __future__ import annotations

import contextlib
import json
import socket
from contextlib import closing
from pathlib import Path

import pytest

from runner.errors import LoadError
from runner.ranks.meeting import SECRET, Launched, answered, called, launched, shown
from runner.sharding.group import Group
from tests.parts.ranks import together

HOST = "127.0.0.1"


def test_all_come_to_rank_0_whoever_else_does() -> None:
    def meet(group: Group) -> list[object]:
        if group.rank:
            with closing(answered(group, HOST)) as channel:
                channel.send("here", group.rank)
                return [channel.receive()]
        with contextlib.ExitStack() as stack:
            channels = [stack.enter_context(closing(channel)) for channel in called(group, HOST)]
            for channel in channels:
                channel.send("welcome")
            return [channel.receive() for channel in channels]

    found = together(3, meet)
    assert found == [[["here", 1], ["here", 2]], [["welcome"]], [["welcome"]]]


def test_who_does_not_know_the_secret_is_sent_away() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(bytes(SECRET) + bytes([1]))
        assert shown(ours, b"s" * SECRET) is None
        assert theirs.recv(1) == b""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"s" * SECRET + bytes([1]))
        assert shown(ours, b"s" * SECRET) == 1


def environment(tmp_path: Path, hosts: object, **others: str) -> dict[str, str]:
    file = tmp_path / "hosts.json"
    file.write_text(json.dumps(hosts))
    return {"MLX_RANK": "1", "MLX_HOSTFILE": str(file), **others}


def test_the_environment_of_a_ring(tmp_path: Path) -> None:
    hosts = [["10.0.0.1:5000", "10.0.1.1:5000"], ["10.0.0.2:5000"]]
    assert launched(environment(tmp_path, hosts)) == Launched(1, 2, "ring", "10.0.0.1", one_machine=False)
    alike = [["127.0.0.1:1"], ["127.0.0.1:2"]]
    assert launched(environment(tmp_path, alike)) == Launched(1, 2, "ring", HOST, one_machine=True)


def test_the_environment_of_gpus() -> None:
    said = {"MLX_RANK": "1", "MLX_WORLD_SIZE": "4", "NCCL_HOST_IP": "10.0.0.1", "NCCL_PORT": "1"}
    assert launched(said) == Launched(1, 4, "nccl", "10.0.0.1", one_machine=False)


@pytest.mark.parametrize(
    "said",
    [{"MLX_RANK": "1"}, {"MLX_RANK": "x", "NCCL_HOST_IP": "h"}, {"MLX_RANK": "0", "MLX_HOSTFILE": "/none"}],
)
def test_half_an_environment_is_refused(said: dict[str, str]) -> None:
    with pytest.raises(LoadError, match="MLX_RANK is set, but"):
        launched(said)


@pytest.mark.parametrize("hosts", [{}, [[]], [1], "x"])
def test_a_hostfile_that_is_none_is_refused(tmp_path: Path, hosts: object) -> None:
    with pytest.raises(LoadError, match="MLX_RANK is set, but"):
        launched(environment(tmp_path, hosts))
