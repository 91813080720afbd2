"""A real HTTP server that misbehaves as told, and asks for passwords and signatures."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any


class Server(ThreadingHTTPServer):
    """Serves a folder, with ranges; `faults` are used up by the next GETs of shards, one each.

    `scripts` has, by the names of files, what to do in place of the next answers, HEAD included.
    `allows` says of a request whether it is allowed; others are answered 403.
    """

    daemon_threads = True

    def __init__(self, folder: Path, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__((host, port), Handler)
        self.folder, self.lock = folder, Lock()
        self.faults: list[str] = []
        self.gets: list[tuple[str, int, int]] = []  # name, first byte, end
        self.scripts: dict[str, list[Callable[[Handler], object]]] = {}
        self.allows: Callable[[Handler], bool] = lambda _: True

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.server.folder / self.path.partition("?")[0].lstrip("/")
        if script := self.server.scripts.get(path.name):
            script.pop(0)(self)
            return
        if not self.server.allows(self):
            self.send_error(403)
            return
        if not path.is_file():
            self.send_error(404)
            return
        content, status = path.read_bytes(), 200
        start, end = 0, len(content)
        if found := re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            start, end, status = int(found[1]), min(int(found[2]) + 1, end), 206
        fault = ""
        if body and ".tar" in path.name:
            with self.server.lock:
                self.server.gets.append((path.name, start, end))
                fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault.isdigit():
            self.send_error(int(fault))
            return
        if fault == "drop":
            self.connection.close()
            return
        self.send_response(status)
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Last-Modified", self.date_time_string(int(path.stat().st_mtime)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.end_headers()
        if not body:
            return
        content = content[start:end]
        if fault in ("truncate", "stall", "slow"):
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            if fault == "truncate":
                self.connection.close()
                return
            time.sleep(30 if fault == "stall" else 1)
            content = content[len(content) // 2 :]
        self.wfile.write(content)


def status(code: int, content: bytes = b"", **headers: str) -> Callable[[Handler], None]:
    """Answer with a status, headers and a body, whose length is told unless a header does."""

    def answer(handler: Handler) -> None:
        handler.send_response(code)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"Content-Length": str(len(content))} | named).items():
            handler.send_header(name, value)
        handler.send_header("Connection", "close")  # or the next request may meet a closed one
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(content)

    return answer


def raw(content: bytes, times: int = 1, pause: float = 0.0) -> Callable[[Handler], None]:
    """Send these bytes as they are, some times, and hang up."""

    def answer(handler: Handler) -> None:
        handler.close_connection = True
        with suppress(OSError):
            for _ in range(times):
                handler.wfile.write(content)
                handler.wfile.flush()
                time.sleep(pause)

    return answer


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
