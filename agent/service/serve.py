"""One process: the loop in the main thread, its web address in another, one per cluster."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvicorn
from rich.console import Console

from actuators.clock import BootClock
from actuators.errors import BackburnError, BadInput, Unsafe

from ..alone import alone
from ..build.state import open_state, require_free
from ..settings import Settings
from .controls import Controls
from .runner import Service
from .settings import Http
from .status import Status
from .store import Store
from .web import application

_LEAST_TOKEN = 24
_ENDS_WITHIN_S = 15.0


def serve(
    settings: Settings, console: Console, *, web: bool, dry_run: bool = False, campaigns: int | None = None
) -> None:
    """Runs continuously until SIGTERM or Ctrl-C.

    Args:
        settings: all of them.
        console: where progress is shown.
        web: whether to have a web address.
        dry_run: everything happens but the harm.
        campaigns: ends after so many; None for no end.

    Raises:
        BadInput: a setting, port, token or folder cannot be used; nothing was started.
        Unsafe: another service runs on this cluster, or its state cannot be read.
    """
    by = f"service {os.getpid()}"
    if web and settings.service.http.token_file is not None:
        token_of(settings.service.http.token_file, make=False)  # what cannot be used is said before anything is made
    with ExitStack() as open_things:
        state = open_state(settings, BootClock(), by)
        open_things.callback(state.close)
        lock = state.folder / "service.lock"
        open_things.enter_context(
            alone(lock, lambda pid: Unsafe(f"a service (pid {pid}) runs on this cluster already ({lock})"))
        )
        if not state.lever.exists():
            require_free(state.lever, "the cluster is its own")
        store = Store(state.folder / "service.db")
        open_things.callback(store.close)
        status = Status()
        service = Service(
            settings,
            console,
            journal=state.journal,
            lever=state.lever,
            store=store,
            status=status,
            dry_run=dry_run,
            campaigns=campaigns,
        )
        if web:
            controls = Controls(
                settings.cluster.id,
                settings.service,
                journal=state.folder / "journal.db",
                lever=state.lever,
                store=store,
                status=status,
                moved=service.ring,
            )
            http = settings.service.http
            token_file = http.token_file or state.folder / "token"
            token = token_of(token_file, make=http.token_file is None)
            address = open_things.enter_context(answering(controls, http, token))
            console.print(f"listening on {address}, token in {token_file}", soft_wrap=True)
        service.run()


def token_of(path: Path, *, make: bool) -> str:
    """Returns the token that callers of the web address must show.

    Args:
        path: the file that holds it.
        make: whether to make one where there is none, readable for its owner alone.

    Raises:
        BadInput: it cannot be read, or is too short to be a secret.
    """
    try:
        if make and not path.exists():
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
                file.write(secrets.token_urlsafe(32) + "\n")
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the token {path}: {error}") from error
    if len(token) < _LEAST_TOKEN or not token.isprintable():
        raise BadInput(
            f"the token in {path} has {len(token)} characters; allowed are {_LEAST_TOKEN} or more in one line"
        )
    return token


@contextmanager
def answering(controls: Controls, http: Http, token: str) -> Iterator[str]:
    """Answers requests for as long as the block lasts; yields the address."""
    try:
        listening = socket.create_server((http.host, http.port), family=_family(http.host))
    except (OSError, OverflowError) as error:
        raise BadInput(f"cannot listen on service.http {http.host}:{http.port}: {error}") from error
    config = uvicorn.Config(
        application(controls, token, tuple(http.hosts)),
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_keep_alive=5,
        limit_concurrency=64,
        h11_max_incomplete_event_size=1 << 14,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="web", daemon=True)
    thread.start()
    try:
        host, port = listening.getsockname()[:2]
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(_ENDS_WITHIN_S)
        listening.close()
        if thread.is_alive():
            raise BackburnError("the web address did not end")


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
