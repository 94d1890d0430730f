"""What every request must pass: the right host, no other site behind it, and a session; and what every answer says."""

import ipaddress
import socket

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SAFE = ("GET", "HEAD")
OWN = "x-polygene"
"""A header that only a script of our own page can set: another site would have to ask first, and is refused."""
HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class Guard:
    """ASGI middleware; `host` is the address that the server listens on."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app, self._host = app, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what is not of our own page, and add the headers."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        wrong = self._refusal(scope)
        await (PlainTextResponse(wrong, 403) if wrong else self._app)(scope, receive, answer)

    def _refusal(self, scope: Scope) -> str | None:
        if scope["type"] != "http":
            return "Only HTTP."
        headers = Headers(scope=scope)
        if not self._is_ours(headers.get("host", "")):
            return "Refused: the page was asked for under a name that is not this server's."
        site, is_link = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-dest", "") == "document"
        if site not in ("same-origin", "none") and not (is_link and scope["path"] == "/" and scope["method"] == "GET"):
            return "Refused: another site sent this request."
        if scope["method"] in SAFE:
            return None
        url = HTTPConnection(scope).url
        if headers.get("origin") != f"{url.scheme}://{headers['host']}" or headers.get(OWN) != "1":
            return "Refused: this request does not come from the page of this server."
        return None

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this server; a name that only points here (DNS rebinding) does not."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.strip("[]").lower()
        if self._host in LOOPBACK:
            return name in LOOPBACK
        return name in {self._host.lower(), *LOOPBACK, socket.gethostname().lower(), socket.getfqdn().lower()} or (
            self._host in ("0.0.0.0", "::") and _is_address(name)
        )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
