"""Who may see the dashboard: behind a proxy that signs readers in nobody else gets an answer, and readers see their pages alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from medssl.core.errors import MedsslError
from medssl.reporting.dashboard import readers, server
from medssl.reporting.dashboard.guard import Guard
from medssl.reporting.dashboard.server import SignIn
from tests.apps.reading import text_of


def answer(headers: list[tuple[bytes, bytes]], peer: str = "10.0.0.2", kind: str = "http") -> int:
    """The status that a request gets from a guard before which a proxy at 10.0.0.2 signs readers in."""
    sent: list[dict] = []

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message) -> None:
        sent.append(message)

    scope = {"type": kind, "path": "/", "client": (peer, 5), "headers": [(b"host", b"scans.example"), *headers]}
    guard = Guard(app, ["scans.example"], [], user_header="X-Forwarded-User", proxies=["10.0.0.2"])
    asyncio.run(guard(scope, None, send))
    return sent[0].get("status", sent[0].get("code"))


@pytest.mark.parametrize(
    ("headers", "peer", "status"),
    [
        ([(b"x-forwarded-user", b"ann")], "10.0.0.2", 200),
        ([(b"x-forwarded-user", b"ann")], "10.0.0.3", 403),
        ([], "10.0.0.2", 401),
        ([(b"x-forwarded-user", b" ")], "10.0.0.2", 401),
        ([(b"x-forwarded-user", b"ann"), (b"x-forwarded-user", b"bob")], "10.0.0.2", 401),
    ],
)
def test_only_the_proxy_and_only_with_one_name_gets_an_answer(headers, peer: str, status: int) -> None:
    assert answer(headers, peer) == status
    assert answer(headers, peer, "websocket") == (1008 if status != 200 else 200)


def test_elsewhere_nobody_is_signed_in_by_a_typed_name() -> None:
    assert server._sign_in("127.0.0.1", None, None, None, False).typed
    assert not server._sign_in("0.0.0.0", None, None, None, False).typed
    assert server._sign_in("0.0.0.0", None, None, None, True).typed
    assert server._sign_in("0.0.0.0", "X-User", None, ["ann"], False) == SignIn(
        "X-User", ("127.0.0.1", "::1"), ("ann",), False
    )


@pytest.mark.parametrize(
    "given",
    [
        (None, ["10.0.0.2"], None, False),
        (None, None, ["ann"], False),
        ("X-User", None, None, True),
        ("a b", None, None, False),
    ],
)
def test_options_that_do_not_fit_are_refused(given) -> None:
    with pytest.raises(MedsslError, match="expected"):
        server._sign_in("0.0.0.0", *given)


def test_a_reader_sees_the_pages_to_work_on_and_an_admin_all(studied: Path, opened, monkeypatch) -> None:
    sign_in = SignIn("X-User", ("127.0.0.1",), ("ann",), typed=False)
    monkeypatch.setattr(readers, "settings", lambda: server.Settings(studied, (), None, sign_in))
    seen = {}
    for name in ("ann", "bob"):
        monkeypatch.setattr(readers, "current", lambda name=name: readers.of_header(sign_in, name))
        dashboard = opened(studied, "reading", study="hippo")
        seen[name] = [link.proto.label for link in dashboard.get("page_link")]
        assert f"Signed in as {name}." in text_of(dashboard)
        assert not [button for button in dashboard.button if button.label == "Sign out"]
        assert [radio.label for radio in dashboard.radio] == (["Show"] if name == "ann" else [])
    assert seen["bob"] == ["Reading", "Label next"]
    assert len(seen["ann"]) > 4


def test_where_nothing_says_who_reads_no_verdict_is_taken(studied: Path, opened, monkeypatch) -> None:
    elsewhere = server.Settings(studied, (), None, SignIn(typed=False))
    monkeypatch.setattr(readers, "settings", lambda: elsewhere)
    dashboard = opened(studied, "reading", study="hippo")
    assert "nothing says who you are" in text_of(dashboard)
    assert not dashboard.text_input
