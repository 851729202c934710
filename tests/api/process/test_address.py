"""What kind of address it is."""

from __future__ import annotations

import pytest

from api.process.address import is_address, is_loopback


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.9.10", "::1", "0:0:0:0:0:0:0:1", "localhost", "LocalHost"]
)
def test_only_this_machine_reaches_a_loopback_address(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "", "0", "192.168.1.5", "::ffff:127.0.0.1", "localhost.example", "127.0.0.1.x", "\0"],
)
def test_of_all_others_nobody_knows_who_reaches_them(host: str) -> None:
    assert not is_loopback(host)


def test_an_address_is_no_name() -> None:
    assert is_address("192.168.1.5")
    assert is_address("fd00::5")
    assert not is_address("runner")
    assert not is_address("192.168.1")
