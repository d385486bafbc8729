"""`medssl review`: who may reach the dashboard is explicit, and nothing outside of its folder is served."""

import importlib
import socket
from pathlib import Path

import pytest

from medssl.cli.main import main
from medssl.core.errors import MedsslError
from medssl.reporting.dashboard.folder import inside
from medssl.reporting.dashboard.server import options


def test_every_setting_that_decides_who_may_look_is_explicit() -> None:
    given = options("127.0.0.1", 8501, ["box"])
    expected = {
        "server.address": "127.0.0.1",
        "browser.gatherUsageStats": False,
        "client.showErrorDetails": "none",
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
        "server.enableStaticServing": False,
        "server.enableAgentApi": False,
        "server.allowedHosts": ["127.0.0.1", "localhost", "::1", "box"],
    }
    assert {name: given[name] for name in expected} == expected
    assert not [
        value for value in given.values() if any(text in str(value) for text in ("0.0.0.0", "*", "streamlit.app"))
    ]
    assert "0.0.0.0" not in options("0.0.0.0", 8501, [])["server.allowedHosts"]


def test_what_cannot_be_served_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["review", str(tmp_path / "nowhere")]) == 2
    assert "expected the folder of runs" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["review", str(tmp_path), "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another with --port" in capsys.readouterr().err


def test_an_address_that_others_can_reach_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("medssl.reporting.dashboard.server")
    served: list[dict] = []
    monkeypatch.setattr(module, "_serve", lambda options, names, sign_in: served.append(options))
    monkeypatch.setenv("MEDSSL_REVIEW", "")
    with pytest.warns(UserWarning, match="without a password"):
        module.review(tmp_path, host="0.0.0.0", port=0)
    assert served[0]["server.address"] == "0.0.0.0"
    module.review(tmp_path, port=0)
    assert served[1]["server.address"] == "127.0.0.1"
    assert module.settings().root == tmp_path.resolve()


def test_a_name_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    for name in ("../x", "/etc", "a/../../x"):
        with pytest.raises(MedsslError, match="outside of the one under review"):
            inside(tmp_path, name)
