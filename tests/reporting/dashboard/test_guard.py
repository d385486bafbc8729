"""What stands before the pages: a foreign host gets nothing, metrics are closed, each answer has its policy."""

import asyncio
import importlib.util
from pathlib import Path

import pytest

from medssl.reporting.dashboard.guard import HEADERS, Guard, inline_scripts, policy

HOSTS = ["127.0.0.1", "::1", "Box"]


async def page(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
    await send({"type": "http.response.body", "body": b"the page"})


def answer(host: str | None, path: str = "/", kind: str = "http") -> list[dict]:
    sent: list[dict] = []

    async def send(message) -> None:
        sent.append(message)

    async def receive() -> dict:
        return {"type": f"{kind}.request"}

    headers = [] if host is None else [(b"host", host.encode())]
    scope = {"type": kind, "path": path, "headers": headers}
    asyncio.run(Guard(page, HOSTS, ["run()"])(scope, receive, send))
    return sent


@pytest.mark.parametrize("host", ["127.0.0.1:8501", "127.0.0.1", "[::1]:8501", "box:8501", "BOX"])
def test_its_own_names_get_the_page_with_every_header(host: str) -> None:
    start, body = answer(host)
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    assert (start["status"], body["body"]) == (200, b"the page")
    assert HEADERS.items() <= headers.items()
    assert headers["content-security-policy"] == policy(["run()"])
    assert headers["content-type"] == "text/html"


@pytest.mark.parametrize(
    "host", [None, "", "foreign.example", "foreign.example:8501", "127.0.0.1.foreign.example", "[::2]:8501"]
)
def test_a_foreign_host_gets_neither_page_nor_socket(host: str | None) -> None:
    start, body = answer(host)
    assert start["status"] == 403
    assert b"the page" not in body["body"]
    assert answer(host, kind="websocket") == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize("path", ["/_stcore/metrics", "/_stcore/metrics/", "/cases/_stcore/metrics"])
def test_metrics_are_closed(path: str) -> None:
    assert answer("127.0.0.1", path)[0]["status"] == 404


def test_the_policy_lets_no_other_place_in() -> None:
    rules = dict(rule.split(" ", 1) for rule in policy(["run()"]).split("; "))
    assert rules["frame-ancestors"] == "'none'"
    assert "'sha256-" in rules["script-src"]
    assert not [rule for rule in rules.values() if "http" in rule or "*" in rule or "'unsafe-eval'" in rule]
    assert "'unsafe-inline'" not in rules["script-src"]


@pytest.mark.skipif(importlib.util.find_spec("streamlit") is None, reason="needs streamlit: pip install 'medssl[app]'")
def test_the_scripts_in_the_page_itself_are_found() -> None:
    import streamlit

    scripts = inline_scripts(Path(streamlit.__file__).parent / "static" / "index.html")
    assert len(scripts) == 1
    assert "prerenderReady" in scripts[0]
