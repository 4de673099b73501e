"""OpenAI-compatible servers for tests: one that misbehaves on request."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from loopback import running

Reply = str | dict[str, Any] | Callable[["Handler"], None]
"""An answer's text, a whole body, or something that handles the connection itself."""


class Handler(BaseHTTPRequestHandler):
    """Answers each request with the next reply of the server, the last one for ever."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request = json.loads(body)
        reply = self.server.next_reply(request, dict(self.headers))
        try:
            if callable(reply):
                reply(self)
            else:
                self.send_json(200, completion(reply) if isinstance(reply, str) else reply)
        finally:
            self.server.leave()

    def send_json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, replies: list[Reply] | Callable[[dict[str, Any]], Reply]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self._replies = replies
        self._lock = threading.Lock()
        self._inside = 0
        self.most_at_once = 0
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def next_reply(self, request: dict[str, Any], headers: dict[str, str]) -> Reply:
        with self._lock:
            self._inside += 1
            self.most_at_once = max(self.most_at_once, self._inside)
            self.requests.append(request)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            if callable(self._replies):
                return self._replies(request)
            return self._replies[min(len(self.requests), len(self._replies)) - 1]

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1

    def handle_error(self, *args: Any) -> None:
        pass  # clients hang up on purpose


@contextmanager
def serving(replies: list[Reply] | Callable[[dict[str, Any]], Reply]) -> Iterator[Server]:
    server = Server(replies)
    with running(server):
        yield server


def completion(text: str, prompt_tokens: int = 100, answer_tokens: int = 10) -> dict[str, Any]:
    return {
        "choices": [{"message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": answer_tokens},
    }


def token(**chances: float) -> dict[str, Any]:
    """The answer of a server that gives log-probabilities; ``_`` stands for a space."""
    likeliest = max(chances, key=lambda name: chances[name])
    top = [
        {"token": name.replace("_", " "), "logprob": math.log(chance), "bytes": None}
        for name, chance in chances.items()
    ]
    answer = completion(likeliest.replace("_", " "), 100, 1)
    answer["choices"][0]["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    return answer


def status(code: int, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.send_json(code, {"error": "busy"}, named)


def raw(body: bytes) -> Reply:
    return lambda handler: handler.send_json(200, body)


def hang_up(handler: Handler) -> None:
    """Promises a body and closes after half of it."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def dribble(handler: Handler) -> None:
    """A byte now and then, for ever: no single read times out."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    try:
        for _ in range(600):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        handler.close_connection = True
