"""The formats of strings that are held to, and the pattern of each.

Each pattern is no wider than its format. Where a format cannot be told by a pattern exactly (the length of a host
name, leap seconds), the pattern is narrower.
"""

from __future__ import annotations

_NOT_CENTURY = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = (
    "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_NOT_CENTURY}-02-29)"
)
_TIME = (
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9]|-[A-Za-z0-9]){0,30}"

# Written here where the compiler's own pattern is wider than the format.
PATTERNS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}[tT]{_TIME}$",
    "hostname": rf"^{_LABEL}(?:\.{_LABEL}){{0,2}}$",
    "ipv4": rf"^{_OCTET}(?:\.{_OCTET}){{3}}$",
    "json-pointer": "^(?:/(?:[^~/]|~[01])*)*$",
}

# The compiler's own.
COMPILED = frozenset({"duration", "email", "ipv6", "uri", "uuid"})

# Defined by a draft, and told by no pattern of ours. Any other name is nobody's: the drafts say to pass over it.
REFUSED = frozenset(
    {"idn-email", "idn-hostname", "iri", "iri-reference", "regex", "relative-json-pointer"}
    | {"uri-reference", "uri-template"}
)
