"""An API of a language model on this machine, which answers, fails, stalls, talks and limits as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RIGHT = {"correctness": True, "presence": True, "relevance": 4, "faithfulness": 3, "verbosity": 2, "notes": "Fine."}
LATE = 0.6
"""Seconds that a late answer takes."""


class Api:
    """What it was asked, and what it does next; ``RIGHT`` once nothing is left: a status, alone or with
    what it says, a text, ``"late"``, ``"never"`` (no answer while it serves), or bytes in place of a message."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.versions: list[str | None] = []
        self.next: list[int | tuple[int, str] | str | bytes] = []
        self.url = ""
        self.hot = False
        """Whether a temperature is refused."""
        self.lock = threading.Lock()
        self.over = threading.Event()

    def texts(self) -> list[str]:
        """All that was said to it, each request as a text."""
        return [json.dumps(body, ensure_ascii=False) for body in self.asked]


def _answer(path: str, text: str) -> dict[str, Any]:
    if path.endswith("/messages"):
        usage = {"input_tokens": 1, "output_tokens": 1}
        whole = {"id": "m", "type": "message", "role": "assistant", "model": "x", "stop_reason": "end_turn"}
        return {**whole, "stop_sequence": None, "usage": usage, "content": [{"type": "text", "text": text}]}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return {"id": "c", "object": "chat.completion", "created": 0, "model": "x", "choices": [choice]}


@contextmanager
def serving() -> Iterator[Api]:
    """The API, until the block ends."""
    api = Api()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with api.lock:
                api.asked.append(body)
                api.paths.append(self.path)
                api.versions.append(self.headers["anthropic-version"])
                what = api.next.pop(0) if api.next else json.dumps(RIGHT)
                if api.hot and "temperature" in body:
                    what = (400, "Unsupported value: 'temperature' does not support 0.6")
            if what == "late":
                time.sleep(LATE)
            if what == "never":
                api.over.wait()
                return
            status, told = what if isinstance(what, tuple) else (what if isinstance(what, int) else 200, "no")
            if isinstance(what, bytes):
                said = what
            else:
                found = _answer(self.path, what) if isinstance(what, str) else {"error": {"message": told}}
                said = json.dumps(found).encode()
            try:
                self.send_response(status)
                self.send_header("content-type", "text/html" if said.startswith(b"<") else "application/json")
                self.send_header("content-length", str(len(said)))
                if status != 200:
                    self.send_header("retry-after", "0.02")
                self.end_headers()
                self.wfile.write(said)
            except BrokenPipeError:
                pass  # who asked has given up

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    api.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield api
    finally:
        api.over.set()
        server.shutdown()
        server.server_close()
