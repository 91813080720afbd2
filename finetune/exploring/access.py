"""Who may ask: the page of this server itself, in a browser that has the token, if there is one.

A page of others, open in the same browser, could send requests to this machine. Its `Origin` tells
it apart. A name of others that is made to point to this machine (DNS rebinding) tells itself by
`Host`: an address of digits needs no name server, and so cannot be made to point elsewhere.
"""

import ipaddress
import secrets
import socket
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
        " connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether an address is one that this machine alone reaches."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


class Access:
    """Passes on to `app` what comes from its own page, and gives all answers strict headers.

    Args:
        app: Answers requests.
        host: The name or address that was listened on.
        token: What a browser has to know; None where this machine alone reaches the server.
    """

    def __init__(self, app: ASGIApp, host: str, token: str | None) -> None:
        self.app = app
        self.names = {"localhost"} if token is None else {"localhost", host, socket.gethostname()}
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse, one request."""
        assert scope["type"] == "http"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        answer = self.refusal(Request(scope)) or self.app
        await answer(scope, receive, send_with_headers)

    def refusal(self, request: Request) -> Response | None:
        """The answer to a request that is not passed on; None for others."""
        host = request.headers.get("host", "")
        if not self.is_own(host):
            return PlainTextResponse("this server goes by another name: open the printed URL", 403)
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return PlainTextResponse("this request comes from the page of another server", 403)
        if self.token is None:
            return None
        cookie = f"fcmae-{request.url.port}"  # cookies of all ports of a machine are one lot
        if self.knows(request.cookies.get(cookie)):
            return None
        if self.knows(request.query_params.get("token")):
            entry = RedirectResponse("/", 303)  # without the token, which a history would keep
            entry.set_cookie(cookie, self.token, httponly=True, samesite="strict")
            return entry
        return PlainTextResponse("the token is missing or wrong: open the printed URL", 401)

    def is_own(self, host: str) -> bool:
        """Whether a header `Host` names this server, whatever its port, which may be forwarded."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.names:
            return True
        with suppress(ValueError):
            address = ipaddress.ip_address(name)
            return address.is_loopback or self.token is not None
        return False

    def knows(self, word: str | None) -> bool:
        """Whether a word is the token, in a time that does not tell how much of it is right."""
        assert self.token is not None
        return word is not None and secrets.compare_digest(word.encode(), self.token.encode())
