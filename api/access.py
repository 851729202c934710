"""Who may ask: what the name that a request was sent to says about its sender, and the token.

A web page in the user's browser reaches this machine's addresses, and its owner's DNS can give them the page's own
name. So without a token a request must name the runner as no stranger's DNS can: as localhost or as an address, or,
where the runner is open to the network, by a name without a dot. Who knows the token is no stranger, whatever name
the request was sent to.

Knows nothing about routes.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from api.process.address import is_address, is_loopback

HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^:@\[\]]+)(:[0-9]*)?")
OPEN_PATH = "/health"
"""Whoever asks whether a service lives has no secrets. Without the token it says that, and how far a load is."""


@dataclass(frozen=True, slots=True)
class Access:
    """host: the address that the runner was told to listen on. token: what requests must show; None: nothing."""

    host: str = "127.0.0.1"
    token: bytes | None = field(default=None, repr=False)

    def admits_name(self, header: bytes) -> bool:
        """Whether a Host header may come from somebody else than a page under a strange name."""
        if self.token is not None:
            return True
        name = _name(header)
        if is_loopback(name):
            return True
        if not name or is_loopback(self.host):
            return False
        return is_address(name) or "." not in name or name == self.host.lower()

    def is_known(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request shows the token, if it must. How long that takes tells no more than the length."""
        if self.token is None:
            return True
        shown = [value for name, value in headers if name == b"authorization"]
        if len(shown) != 1:
            return False
        scheme, _, token = shown[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(b" "), self.token)


def _name(host: bytes) -> str:
    """The name in a Host header; "" for what is not a name with perhaps a port."""
    match = HOST.fullmatch(host.decode("latin-1").lower())
    return match["name"].strip("[]") if match else ""
