"""mlx-runner, and what reaches it: the bytes that a host sends are also written to a file.

A thread listens where the host wants its runner, and passes everything on to the real one, which listens at another
port of the same process.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from pathlib import Path
from threading import Thread
from typing import Any, NoReturn

from api.__main__ import main as serve

REPOSITORY = Path(__file__).parent.parent.parent
COMPLETION = b"POST /completion HTTP/1.1\r\n"


def tapped(folder: Path) -> tuple[Path, Path]:
    """A program for a host to start in our place, and the file that it writes."""
    program, file = folder / "tapped", folder / "sent"
    file.touch()
    program.write_text(
        f'#!/bin/sh\nexec env PYTHONPATH="{REPOSITORY}" "{sys.executable}" -m {__name__} "{file}" "$@"\n'
    )
    program.chmod(0o755)
    return program, file


def completions(file: Path) -> list[dict[str, Any]]:
    """The bodies of the completions asked for so far, one at a time."""
    asked = file.read_bytes().split(COMPLETION)[1:]
    return [json.JSONDecoder().raw_decode(text.partition(b"\r\n\r\n")[2].decode())[0] for text in asked]


def main() -> NoReturn:
    file, *arguments = sys.argv[1:]
    place = arguments.index("--port") + 1
    listener = socket.create_server(("127.0.0.1", int(arguments[place])))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        inner: int = probe.getsockname()[1]
    arguments[place] = str(inner)
    copy = os.open(file, os.O_WRONLY | os.O_APPEND)
    Thread(target=_listen, args=(listener, inner, copy), daemon=True).start()
    sys.argv[1:] = arguments
    serve()


def _listen(listener: socket.socket, inner: int, copy: int) -> None:
    while True:
        outside, _ = listener.accept()
        try:
            inside = socket.create_connection(("127.0.0.1", inner))
        except OSError:  # not up yet: the host asks again
            outside.close()
            continue
        for source, target, kept in ((outside, inside, copy), (inside, outside, None)):
            Thread(target=_pass_on, args=(source, target, kept), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket, copy: int | None) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(1 << 16):
            if copy is not None:
                os.write(copy, block)
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main()
