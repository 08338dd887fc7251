"""Whole messages over a stream socket."""

from __future__ import annotations

import socket


def send(connection: socket.socket, data: bytes) -> None:
    """Send one message."""
    connection.sendall(len(data).to_bytes(8, "little") + data)


def receive(connection: socket.socket) -> bytes | None:
    """The next message; None where the other side is gone."""
    head = _exactly(connection, 8)
    return None if head is None else _exactly(connection, int.from_bytes(head, "little"))


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        try:
            part = connection.recv(min(1 << 20, count - len(parts)))
        except ConnectionError:
            return None
        if not part:
            return None
        parts += part
    return bytes(parts)
