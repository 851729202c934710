"""A pattern of a JSON schema (ECMA 262) in the spelling of the grammar compiler's regular expressions.

The two dialects share most of their signs but not all of their meanings: `.`, `\\s`, `[a&&b]` and `[[x]` differ.
So each character is written anew: a literal as its code point, a class by its members. What no regular
expression without memory can say (looking ahead or back, a backreference, a word boundary) is refused.

Knows nothing about schemas.
"""

from __future__ import annotations

import re

# The compiler unrolls counted repeats. 20,000 characters need 20 MB and some 20 ms; a million exhaust its fuel.
LIMIT = 20_000
CLASSES = {
    "d": r"0-9",
    "w": r"0-9A-Za-z_",
    "s": r"\x{9}-\x{D}\x{20}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}\x{FEFF}",
}
CONTROLS = {"t": 0x9, "n": 0xA, "v": 0xB, "f": 0xC, "r": 0xD, "0": 0x0}
DOT = r"[^\x{A}\x{D}\x{2028}\x{2029}]"
ANY = r"[\x{0}-\x{10FFFF}]"
NEVER = r"[^\x{0}-\x{10FFFF}]"

COUNT = re.compile(r"\{([0-9]+)(,?)([0-9]*)\}")
PROPERTY = re.compile(r"\{[A-Za-z_]+(=[A-Za-z_]+)?\}")
GROUP_NAME = re.compile(r"\?<[A-Za-z_$][A-Za-z0-9_$]*>")
HEX = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]{1,6})\}")


class NotRegular(ValueError):
    """The message says what in the pattern cannot be translated."""


def translated(pattern: str) -> str:
    """The same set of strings, in the compiler's dialect. Raises NotRegular."""
    return _Reader(pattern).whole()


def literal(code: int) -> str:
    if 0xD800 <= code <= 0xDFFF:
        raise NotRegular(f"U+{code:04X} is half a character")
    if code > 0x10FFFF:
        raise NotRegular(f"U+{code:X} is no character")
    return chr(code) if chr(code).isascii() and chr(code).isalnum() else f"\\x{{{code:X}}}"


class _Reader:
    """Reads from left to right. Each method returns its part translated, with its unrolled size."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def whole(self) -> str:
        text, _ = self.alternatives(0)
        if self.at < len(self.text):
            raise NotRegular('")" has no "("')
        return text

    def peek(self, count: int = 1) -> str:
        return self.text[self.at : self.at + count]

    def take(self, count: int = 1) -> str:
        taken = self.peek(count)
        self.at += count
        return taken

    def alternatives(self, depth: int) -> tuple[str, int]:
        if depth > 50:
            raise NotRegular("more than 50 groups stand inside each other")
        parts, size = [], 0
        while (sign := self.peek()) and sign != ")":
            text, cost = (self.take(), 0) if sign == "|" else self.repeated(depth)
            parts.append(text)
            size += cost
            if size > LIMIT:
                raise NotRegular(f"its repeats make it longer than {LIMIT:,} characters")
        return "".join(parts), size

    def repeated(self, depth: int) -> tuple[str, int]:
        anchor = self.peek() in ("^", "$")
        text, size = self.atom(depth)
        sign, times = self.quantifier()
        if sign and anchor:
            raise NotRegular(f'"{text}" is repeated')
        return text + sign, size * times

    def quantifier(self) -> tuple[str, int]:
        """How often, and how many copies the compiler makes of what is repeated."""
        sign, times = "", 1
        if self.peek() in ("*", "+", "?") and self.peek():
            sign = self.take()
        elif found := COUNT.match(self.text, self.at):
            self.at = found.end()
            low, comma, high = found.groups()
            sign, times = found.group(), int(high or low) + (comma != "" and not high)
            if times > LIMIT or (high and int(high) < int(low)):
                raise NotRegular(f"{sign} is no repeat between 0 and {LIMIT:,}")
        if sign and self.peek() == "?":  # lazy or not, the same strings match
            self.take()
        return sign, times

    def atom(self, depth: int) -> tuple[str, int]:
        sign = self.take()
        if sign in ("^", "$"):
            return sign, 0
        if sign == "(":
            return self.group(depth)
        if sign == "[":
            return self.char_class(), 1
        if sign == ".":
            return DOT, 1
        if sign == "\\":
            return self.escape(), 1
        if sign in ("*", "+", "?"):
            raise NotRegular(f'"{sign}" repeats nothing')
        return literal(ord(sign)), 1

    def group(self, depth: int) -> tuple[str, int]:
        if named := GROUP_NAME.match(self.text, self.at):
            self.at = named.end()
        elif self.peek(2) == "?:":
            self.take(2)
        elif self.peek() == "?":
            raise NotRegular(f'"({self.peek(2)}" is not supported')
        text, size = self.alternatives(depth + 1)
        if self.take() != ")":
            raise NotRegular('"(" is not closed')
        return f"(?:{text})", size

    def escape(self) -> str:
        """One escape outside a class."""
        sign = self.peek()
        if sign in ("b", "B"):
            raise NotRegular(f'"\\{sign}" is not supported')
        if "1" <= sign <= "9" or sign == "k":
            raise NotRegular(f'the backreference "\\{sign}" is not supported')
        text, code = self.member()
        return f"[{text}]" if code is None else literal(code)

    def member(self) -> tuple[str, int | None]:
        """What stands behind a backslash: the members of a class, or one code point."""
        sign = self.take()
        if not sign:
            raise NotRegular('a "\\" ends it')
        if sign.lower() in CLASSES:
            members = CLASSES[sign.lower()]
            return (members, None) if sign in CLASSES else (f"[^{members}]", None)
        if sign in ("p", "P"):
            return self.property(sign), None
        if sign in CONTROLS:
            return "", CONTROLS[sign]
        if sign == "c" and self.peek().isascii() and self.peek().isalpha():
            return "", ord(self.take()) % 32
        if sign in ("x", "u"):
            return "", self.code_point()
        return "", ord(sign)

    def property(self, sign: str) -> str:
        found = PROPERTY.match(self.text, self.at)
        if not found:
            raise NotRegular(f'"\\{sign}" names no property of characters')
        self.at = found.end()
        return f"\\{sign}{found.group()}"

    def code_point(self) -> int:
        self.at -= 1
        found = HEX.match(self.text, self.at)
        if not found:
            raise NotRegular(f'"\\{self.peek()}" has no hexadecimal digits')
        self.at = found.end()
        code = int(found.group(1) or found.group(2) or found.group(3), 16)
        low = HEX.match(self.text, self.at + 1) if self.peek() == "\\" else None
        if 0xD800 <= code <= 0xDBFF and low and low.group(2) and 0xDC00 <= int(low.group(2), 16) <= 0xDFFF:
            self.at = low.end()
            return 0x10000 + ((code - 0xD800) << 10) + (int(low.group(2), 16) - 0xDC00)
        return code

    def char_class(self) -> str:
        negated = self.peek() == "^" and bool(self.take())
        members = []
        while (sign := self.peek()) != "]":
            if not sign:
                raise NotRegular('"[" is not closed')
            members.append(self.range())
        self.take()
        if not members:
            return ANY if negated else NEVER
        return f"[{'^' if negated else ''}{''.join(members)}]"

    def range(self) -> str:
        """One member of a class, or two with all that stands between them."""
        text, low = self.class_member()
        if low is None or self.peek() != "-" or self.peek(2) in ("-", "-]"):
            return text if low is None else literal(low)
        self.take()
        text, high = self.class_member()
        if high is None:
            return literal(low) + literal(ord("-")) + text
        if high < low:
            raise NotRegular("a range in a class runs backwards")
        return f"{literal(low)}-{literal(high)}"

    def class_member(self) -> tuple[str, int | None]:
        sign = self.take()
        if sign != "\\":
            return "", ord(sign) if sign else None
        if self.peek() == "b":
            self.take()
            return "", 0x8
        return self.member()
