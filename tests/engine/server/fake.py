"""A server that answers with given bytes: for answers that no HTTP library would write."""

import json
import socket
import time
from collections.abc import Callable, Iterable
from threading import Thread
from typing import Any

from tests.engine.engines import request as make_request

Bytes = bytes | Iterable[bytes]
"""What is sent; of several parts each after a moment."""

NUM_TOKENS = 5
REQUEST = make_request([1, 2, 3], NUM_TOKENS)

SEGMENT = {
    "choices": [
        {
            "token_ids": [3, 4, 5, 6, 7],
            "logprobs": {"token_logprobs": [-1.0, -0.5, -2.0, 0.0, -3]},
            "finish_reason": "length",
        }
    ],
    "usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}},
}
"""A good answer to REQUEST."""

GOOD: dict[str, Any] = {
    "/v1/models": {"data": [{"id": "fake", "max_model_len": 512}]},
    "/metrics": "",
    "/weight_info": {"weight_version": "default"},
    "/v1/completions": SEGMENT,
}


def http(body: object, status: str = "200 OK", *headers: str) -> bytes:
    """An answer with a body: JSON of a value, or a text or bytes as they are."""
    if not isinstance(body, bytes):
        body = (body if isinstance(body, str) else json.dumps(body)).encode("utf-8", "surrogatepass")
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class FakeServer:
    """Serves `answers` by path, each what is sent or a function of nothing that returns it; others are good ones."""

    def __init__(self) -> None:
        self.answers: dict[str, Bytes | Callable[[], Bytes]] = {}
        self.asked: list[str] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        # Closing alone does not wake the thread that waits for connections.
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            path = file.readline().split(b" ")[1].decode()
            length = 0
            while (line := file.readline()) not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            file.read(length)
            self.asked.append(path)
            answer = self.answers.get(path, http(GOOD.get(path, {})))
            answer = answer() if callable(answer) else answer
            try:
                for part in [answer] if isinstance(answer, bytes) else answer:
                    connection.sendall(part)
                    if not isinstance(answer, bytes):
                        time.sleep(0.02)
            except OSError:
                return
