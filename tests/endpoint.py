"""A real HTTP server on loopback that speaks the chat protocol, and misbehaves as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Said:
    """One response: a JSON value or raw bytes, after a delay."""

    body: object
    status: int = 200
    headers: dict = field(default_factory=dict)
    delay: float = 0.0


def completion(text, *, model, finish="stop", top=None, usage=(10, 5), **choice):
    """A whole chat completion; `top` are the first token's (text, log-probability)."""
    logprobs = None
    if top is not None:
        listed = [{"token": token, "logprob": p, "bytes": None} for token, p in top]
        logprobs = {"content": [{**listed[0], "top_logprobs": listed}]}
    message = {"role": "assistant", "content": text}
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": logprobs, **choice}],
        "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)},
    }


def echo(body, _count):
    """Answers with the last message's text, and prefers A."""
    top = [("A", -0.1), ("B", -2.5), ("The", -4.0)] if body.get("logprobs") else None
    return completion(body["messages"][-1]["content"], model=body["model"], top=top)


@dataclass
class Server:
    url: str
    seen: list = field(default_factory=list)
    """Bodies of the requests."""
    headers: list = field(default_factory=list)
    busiest: int = 0
    now: int = 0


@contextmanager
def serving(answer=echo) -> Iterator[Server]:
    """`answer(body, count)` gives a JSON value or a `Said`; `count` is how often this very body has come before."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                count = server.seen.count(body)
                server.seen.append(body)
                server.headers.append({name.lower(): value for name, value in self.headers.items()})
                server.now += 1
                server.busiest = max(server.busiest, server.now)
            said = answer(body, count)
            said = said if isinstance(said, Said) else Said(said)
            time.sleep(said.delay)
            with lock:
                server.now -= 1
            data = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
            try:
                self.send_response(said.status)
                for name, value in {"Content-Length": str(len(data)), **said.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                self.close_connection = True

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = Server(f"http://127.0.0.1:{http.server_port}/v1")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
