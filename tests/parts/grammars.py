"""What a matcher allows, as ids."""

from __future__ import annotations

from runner.grammar.matcher import Matcher


def allowed(matcher: Matcher) -> set[int]:
    """The tokens that may come next."""
    bits = matcher.allowed()
    return {token for token in range(8 * len(bits)) if bits[token // 8] >> token % 8 & 1}
