"""A real HTTP server that misbehaves as told."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any


class Server(ThreadingHTTPServer):
    """Serves a folder, with ranges; `faults` are used up by the next GETs of shards, one each."""

    daemon_threads = True

    def __init__(self, folder: Path, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__((host, port), Handler)
        self.folder, self.lock = folder, Lock()
        self.faults: list[str] = []
        self.gets: list[tuple[str, int, int]] = []  # name, first byte, end

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
        path = self.server.folder / self.path.lstrip("/")
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


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
