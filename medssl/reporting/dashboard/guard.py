"""What stands before every page of the dashboard: foreign hosts get nothing, and browsers are told what a page may load.

    st.App(app(), middleware=[Middleware(Guard, hosts=["localhost"], inline_scripts=[...])])

A request under a name that is not this server's (DNS rebinding) is refused, the metrics of the server are closed, and
each answer carries a content security policy: nothing is loaded from elsewhere, and no other page may frame this one. Where a
proxy signs readers in, a request that does not come from it, or names nobody, is refused too.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CLOSED = "_stcore/metrics"  # counts of sessions and memory, which no page needs
INLINE_SCRIPT = re.compile(r"<script(?![^>]*\bsrc=)[^>]*>(.*?)</script>", re.DOTALL)
FOREIGN = b"This dashboard is not served under that name: request it under its own, or start it with --names NAME.\n"
NOT_HERE = b"There is nothing here.\n"
NOT_THE_PROXY = b"Requests to this dashboard come through the proxy that signs readers in.\n"
NOT_SIGNED_IN = b"The proxy names no reader: sign in first.\n"
HEADERS = {
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """ASGI middleware; see the top of this file.

    Args:
        app: What answers the requests that are let through.
        hosts: The names, without ports, under which it may be requested.
        inline_scripts: The scripts that stand in the page itself, which its policy lets run.
        user_header: The header in which a proxy names the reader; every request then must come from it and have it once.
        proxies: The addresses of that proxy.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        hosts: Iterable[str],
        inline_scripts: Iterable[str],
        user_header: str | None = None,
        proxies: Iterable[str] = (),
    ) -> None:
        self._app, self._hosts = app, {name.lower() for name in hosts}
        self._user_header = user_header.lower().encode() if user_header else None
        self._proxies = set(proxies)
        self._headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        self._headers.append((b"content-security-policy", policy(inline_scripts).encode()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif _host(scope) not in self._hosts:
            await self._refuse(scope, send, 403, FOREIGN)
        elif self._user_header and (scope.get("client") or ("",))[0] not in self._proxies:
            await self._refuse(scope, send, 403, NOT_THE_PROXY)
        elif self._user_header and not _one_value(scope, self._user_header):
            await self._refuse(scope, send, 401, NOT_SIGNED_IN)
        elif scope["path"].strip("/").endswith(CLOSED):
            await self._refuse(scope, send, 404, NOT_HERE)
        else:
            await self._app(scope, receive, self._with_headers(send))

    async def _refuse(self, scope: Scope, send: Send, status: int, text: bytes) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8"), *self._headers]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    def _with_headers(self, send: Send) -> Send:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self._headers]
            await send(message)

        return answer


def policy(inline_scripts: Iterable[str]) -> str:
    """Return the content security policy of the pages; inline_scripts: the texts of the scripts that stand in them."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in inline_scripts]
    rules = {
        "default-src": "'self'",
        "script-src": " ".join(["'self'", "'wasm-unsafe-eval'", *(f"'sha256-{digest}'" for digest in digests)]),
        "style-src": "'self' 'unsafe-inline'",  # styles are made in the browser
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "connect-src": "'self'",
        "worker-src": "'self' blob:",
        "object-src": "'none'",
        "base-uri": "'self'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def inline_scripts(page: Path) -> list[str]:
    """Return the scripts that stand in an HTML file itself."""
    return INLINE_SCRIPT.findall(page.read_text(encoding="utf-8"))


def _one_value(scope: Scope, header: bytes) -> bool:
    """Whether a header stands there once and is not empty; a second one would be what a browser sent."""
    values = [value.strip() for name, value in scope["headers"] if name == header]
    return len(values) == 1 and bool(values[0])


def _host(scope: Scope) -> str:
    """The name that was requested, without its port; `[::1]:8501` is `::1`."""
    given = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
    name = given.rpartition("]")[0].removeprefix("[") if given.startswith("[") else given.partition(":")[0]
    return str(name)
