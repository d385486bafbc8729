"""The server of the dashboard: serves the pages of apps/review on this machine, for the runs of one folder.

    medssl review studies --data cache

Streamlit serves them. Every setting that decides who has access is given here, so that no configuration file on the
machine can widen it. Nothing leaves the machine: no usage statistics, no fonts or scripts from elsewhere, no request for
the machine's own address. Only files below the folder, and the caches named with --data, are opened. Imports no torch.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import socket
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medssl.core.errors import MedsslError
from medssl.core.resources import resource
from medssl.reporting.dashboard.guard import Guard, inline_scripts
from medssl.reporting.dashboard.volume_route import volume_route

SETTINGS = "MEDSSL_REVIEW"  # the environment variable that says what to show
VERDICTS = "MEDSSL_VERDICTS"  # the one with the address of the database of verdicts, which may hold a password
HEADER_NAME = re.compile(r"[A-Za-z0-9-]+")
LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class SignIn:
    """How readers sign in.

    Attributes:
        header: The header in which a proxy names the reader; None where there is no proxy.
        proxies: The addresses from which such a proxy sends its requests.
        admins: Names of those who see all pages.
        typed: Whether a reader may say any name; only where the dashboard is served to this machine alone, or by --typed-names.
    """

    header: str | None = None
    proxies: tuple[str, ...] = ()
    admins: tuple[str, ...] = ()
    typed: bool = True


@dataclass(frozen=True)
class Settings:
    """What the app shows: the folder of runs, and the caches whose voxels it may read; who reads, and where that is kept."""

    root: Path
    data: tuple[Path, ...] = ()
    verdicts: str | None = None
    sign_in: SignIn = SignIn()


def review(
    runs: Path,
    data: list[Path] | None = None,
    host: str = "127.0.0.1",
    port: int = 8501,
    names: list[str] | None = None,
    verdicts: str | None = None,
    user_header: str | None = None,
    proxies: list[str] | None = None,
    admins: list[str] | None = None,
    typed_names: bool = False,
) -> None:
    """Serve the dashboard until it is stopped with Ctrl-C.

    Args:
        runs: The folder of runs to show; nothing outside of it is opened.
        data: The caches that the studies were made with, so that their scans can be shown; and manifests, for the page Cohort.
        host: The address to listen at. Any other than this machine's own lets other machines see the dashboard.
        port: The port to listen at.
        names: Host names by which a browser may request the dashboard, beside localhost and `host`.
        verdicts: Address of a database for readers' verdicts, such as postgresql://user@host/name, in place of a file beside
            the study; the environment variable MEDSSL_VERDICTS holds one with a password.
        user_header: The header in which a proxy in front of the dashboard names the reader whom it has signed in. Every request
            must then come from `proxies` with that header, once; the proxy must take away any that a browser sends.
        proxies: Addresses of the proxy; by default this machine's own.
        admins: Names of readers, as the proxy has them, who see every page; the others see Reading and Label next.
        typed_names: Let readers say who they are though the dashboard listens at another address than this machine's own, as in
            a container whose port is open to this machine alone.

    Raises:
        MedsslError: A folder does not exist, the port is taken, Streamlit is not installed, or options do not fit.
    """
    sign_in = _sign_in(host, user_header, proxies, admins, typed_names)
    shown = Settings(Path(runs), tuple(Path(d) for d in data or ()), verdicts or os.environ.get(VERDICTS), sign_in)
    for folder in (shown.root, *shown.data):
        if not folder.is_dir():
            raise MedsslError(f"{folder} is not a folder: expected the folder of runs, and caches with --data")
    _check_parts()
    _check_port(host, port)
    if host not in LOCAL and not user_header:
        warnings.warn(
            f"the dashboard listens at {host}: anyone who can reach port {port} of this machine sees all runs, without a password",
            stacklevel=2,
        )
    about = asdict(shown) | {"root": str(shown.root.resolve()), "data": [str(d) for d in shown.data]}
    os.environ[SETTINGS] = json.dumps(about)
    _serve(options(host, port, names or []), hosts(host, names or []), sign_in)


def settings() -> Settings:
    """Return what the process that started the app asked it to show."""
    if SETTINGS not in os.environ:
        raise MedsslError("the dashboard does not know which folder to show: start it with medssl review RUNS")
    about = json.loads(os.environ[SETTINGS])
    given = about.get("sign_in", {})
    proxies, admins = (tuple(given.get(name, ())) for name in ("proxies", "admins"))
    sign_in = SignIn(given.get("header"), proxies, admins, given.get("typed", True))
    return Settings(Path(about["root"]), tuple(Path(d) for d in about["data"]), about.get("verdicts"), sign_in)


def hosts(host: str, names: list[str]) -> list[str]:
    """Return the names under which a browser may request the dashboard."""
    return list(dict.fromkeys([*LOCAL, *([] if host in ("0.0.0.0", "::") else [host]), *names]))


def options(host: str, port: int, names: list[str]) -> dict[str, Any]:
    """Return Streamlit's settings, which no configuration file overrides."""
    known = hosts(host, names)
    origins = [f"http://{_bracketed(name)}:{port}" for name in known]
    return {
        "server.address": host,
        "server.port": port,
        "browser.serverAddress": _browser_address(host),
        "browser.serverPort": port,
        "server.allowedHosts": known,
        "server.corsAllowedOrigins": origins,
        "client.allowedOrigins": origins,
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
        "server.xsrfCookieSameSite": "strict",
        "server.headless": True,
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "server.enableStaticServing": False,
        "server.enableAgentApi": False,
        "server.maxUploadSize": 1,
        "runner.magicEnabled": False,
        "browser.gatherUsageStats": False,
        "client.showErrorDetails": "none",
        "client.showErrorLinks": False,
        "client.toolbarMode": "minimal",
        "global.developmentMode": False,
        "logger.hideWelcomeMessage": True,
        "theme.light.primaryColor": "#0072B2",  # one for each, so that the page follows the browser's light or dark
        "theme.dark.primaryColor": "#56B4E9",
    }


def app() -> Path:
    """Return the app's first file, which lies beside the package, or inside of it where a wheel was installed."""
    return resource("apps") / "review" / "app.py"


def _sign_in(
    host: str, header: str | None, proxies: list[str] | None, admins: list[str] | None, typed_names: bool
) -> SignIn:
    if header is None and (proxies or admins):
        raise MedsslError("proxies or admins are given without a header: expected --user-header with the proxy's")
    if header is None:
        return SignIn(typed=typed_names or host in LOCAL)
    if typed_names or not HEADER_NAME.fullmatch(header):
        raise MedsslError(
            f"user_header is {header!r}{' beside typed_names' if typed_names else ''}: expected the name of a header such as "
            "X-Forwarded-User, and no --typed-names with it"
        )
    return SignIn(header, tuple(proxies or ("127.0.0.1", "::1")), tuple(admins or ()), typed=False)


def _serve(options: dict[str, Any], names: list[str], sign_in: SignIn) -> None:
    import streamlit as st
    from starlette.middleware import Middleware
    from streamlit import net_util

    for part in ("medssl.reporting.widgets", "medssl.reporting.tables", "plotly.graph_objects"):
        importlib.import_module(part)  # now, so that the first page does not wait for it

    # At a request from a foreign page Streamlit would ask a server on the internet for this machine's address.
    net_util.get_external_ip = net_util.get_internal_ip = lambda: None
    address, port = options["browser.serverAddress"], options["browser.serverPort"]
    print(f"The dashboard is at http://{_bracketed(address)}:{port} (Ctrl-C stops it).", flush=True)
    page = Path(st.__file__).parent / "static" / "index.html"
    # The server then tells the guard who sent a request, not whom the sender names.
    os.environ["FORWARDED_ALLOW_IPS"] = ""
    guard = Middleware(
        Guard,
        hosts=names,
        inline_scripts=inline_scripts(page),
        user_header=sign_in.header,
        proxies=sign_in.proxies,
    )
    st.App(app(), routes=[volume_route()], middleware=[guard]).run(config=options)


def _check_parts() -> None:
    missing = [name for name in ("streamlit", "plotly", "sqlalchemy") if importlib.util.find_spec(name) is None]
    if missing:
        raise MedsslError(f"the dashboard needs {' and '.join(missing)}: pip install 'medssl[app]'")


def _check_port(host: str, port: int) -> None:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except (OSError, OverflowError) as error:
        raise MedsslError(
            f"cannot listen at {host}, port {port} ({type(error).__name__}): expected an address of this machine and a free "
            "port; choose another with --port"
        ) from error


def _browser_address(host: str) -> str:
    return "localhost" if host in ("0.0.0.0", "::") else host


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
