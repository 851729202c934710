"""Where processes of one machine meet: nobody else comes there."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from runner.errors import UnsupportedModel
from runner.ranks import places as module
from runner.ranks.places import places
from tests.parts.processes import linux_only


def test_a_ring_is_one_of_loopback_addresses_in_a_private_file_that_is_forgotten() -> None:
    found = places(3)
    file = Path(found.hostfile)
    assert file.stat().st_mode & 0o777 == 0o600
    hosts = [host for [host] in json.loads(file.read_text())]
    assert len(set(hosts)) == 3
    assert all(host.startswith("127.0.0.1:") for host in hosts)
    assert [one["MLX_RANK"] for one in found.environments] == ["0", "1", "2"]
    found.forget()
    assert not file.exists()


@linux_only
def test_its_ports_are_kept_until_the_group_is_there() -> None:
    found = places(2)
    ports = [int(host.rpartition(":")[2]) for [host] in json.loads(Path(found.hostfile).read_text())]
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", ports[0]))
    with socket.socket() as ours:  # says that it reuses addresses, as the ring's do
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ours.bind(("127.0.0.1", ports[0]))
    found.forget()


def test_each_process_has_a_gpu_of_its_own_of_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5,7")
    found = module._nccl(2, gpus=3)
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found.environments] == ["3", "5"]
    assert {one["NCCL_HOST_IP"] for one in found.environments} == {"127.0.0.1"}
    found.forget()
    with pytest.raises(UnsupportedModel, match="each process needs a GPU of its own, and 1 can be seen"):
        module._nccl(2, gpus=1)
