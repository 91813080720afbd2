"""The server: it listens on an address, says where the page is, and serves until it is stopped."""

import errno
import secrets
import socket

import uvicorn
from starlette.types import ASGIApp

from fcmae.run.terminal import say
from finetune.exploring.access import Access, is_loopback

MOST_REQUESTS = 32  # at a time, each with a file in memory at worst


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address.

    Args:
        host: A name or an address of this machine.
        port: The port; 0 for a free one.

    Raises:
        OSError: The port is in use, or the host is no address of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(
                f"port={port} is in use by another program: end that one, or give --port 0, which"
                " takes a free one"
            ) from error
        raise OSError(
            f"cannot listen on host={host} port={port} ({error.strerror}): give --host 127.0.0.1 or"
            " another address of this machine, and a port from 1024 on"
        ) from error


def serve(app: ASGIApp, listening: socket.socket, host: str) -> None:
    """Say where the page is, and serve it until Ctrl-C.

    Args:
        app: Answers requests.
        listening: See `listen`.
        host: What was listened on.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    address, port = listening.getsockname()[:2]
    token = None if is_loopback(address) else secrets.token_urlsafe(32)
    shown = socket.gethostname() if address in ("0.0.0.0", "::") else host
    place = f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"
    query = "" if token is None else f"?token={token}"
    config = uvicorn.Config(
        Access(app, host, token),
        log_config=None,  # errors of ours alone, on standard error
        access_log=False,  # which would have the token
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_REQUESTS,
        timeout_graceful_shutdown=1,
    )
    Server(config, f"open {place}{query} in a browser; Ctrl-C ends it").run(sockets=[listening])
    raise KeyboardInterrupt  # asyncio loses it where it comes before the first request


class Server(uvicorn.Server):
    """A server that prints a line as soon as it answers, and Ctrl-C ends it in order.

    Args:
        config: Of the server.
        line: The line.
    """

    def __init__(self, config: uvicorn.Config, line: str) -> None:
        super().__init__(config)
        self.line = line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and print the line."""
        await super().startup(sockets)
        say(self.line, flush=True)
