"""The service's web address: what it does, for people and Prometheus; and the lever, for people and Alertmanager.

Everything but `/healthz` asks for the token. Requests that a browser sends for another site's page are turned away
(Host and Origin), so that no page can pull the lever, or release it, with a visitor's own rights.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from actuators.errors import BadInput

from .controls import Controls

_MOST_BYTES = 1 << 20
_OPEN = frozenset({"/healthz"})
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

_Next: TypeAlias = Callable[[Request], Awaitable[Response]]
Model = TypeVar("Model", bound=BaseModel)


class Pull(BaseModel):
    """A wish for the lever."""

    model_config = ConfigDict(extra="forbid", strict=True)

    engaged: bool
    reason: str


class Alert(BaseModel):
    """One alert of Alertmanager's webhook; what else it says is of no interest."""

    status: str
    labels: Mapping[str, str] = {}
    fingerprint: str = ""

    @property
    def name(self) -> str:
        """What people call it."""
        return self.labels.get("alertname", "an alert without a name")

    @property
    def key(self) -> str:
        """What makes it the same alert again."""
        return self.fingerprint or json.dumps(dict(sorted(self.labels.items())))


class Notification(BaseModel):
    """The body of Alertmanager's webhook, version 4."""

    alerts: list[Alert]


class Guard(BaseHTTPMiddleware):
    """Turns away what shows no token, comes from another site's page, or is too large to read."""

    def __init__(self, app: Any, token: str, hosts: frozenset[str]) -> None:  # noqa: ANN401 (an ASGI application)
        super().__init__(app)
        self._token = token.encode()
        self._hosts = hosts

    async def dispatch(self, request: Request, call_next: _Next) -> Response:
        """Looks at one request."""
        if _host(f"//{request.headers.get('host', '')}") not in self._hosts:
            return _no(421, "this is not the host that was asked for")
        origin = request.headers.get("origin")
        if origin is not None and _host(origin) not in self._hosts:
            return _no(403, "requests from pages of another site are not answered")
        if request.url.path not in _OPEN and not self._knows(request.headers.get("authorization", "")):
            return _no(401, "an `Authorization: Bearer` header with the service's token is needed")
        try:
            length = int(request.headers.get("content-length", "0"))
        except ValueError:
            return _no(400, "the Content-Length is not a number")
        if length > _MOST_BYTES or "transfer-encoding" in request.headers:
            return _no(413, f"a body may have {_MOST_BYTES} bytes, and says so beforehand")
        return await call_next(request)

    def _knows(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self._token)


def application(controls: Controls, token: str, hosts: tuple[str, ...] = ()) -> Starlette:
    """Returns the web application.

    Args:
        controls: what it shows and moves.
        token: that callers must show.
        hosts: names beside loopback under which it is reached.
    """

    async def healthz(request: Request) -> Response:
        alive = controls.is_alive()
        return PlainTextResponse("ok\n" if alive else "the loop is silent\n", 200 if alive else 503)

    async def metrics(request: Request) -> Response:
        text, kind = await run_in_threadpool(controls.metrics)
        return Response(text, media_type=kind)

    async def status(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(controls.status))

    async def lever(request: Request) -> Response:
        if request.method == "GET":
            return JSONResponse(asdict(controls.lever()))
        pull = await _body(request, Pull)
        state = await run_in_threadpool(controls.pull, pull.engaged, pull.reason)
        return JSONResponse(asdict(state))

    async def alertmanager(request: Request) -> Response:
        told = await _body(request, Notification)
        firing = {alert.key: alert.name for alert in told.alerts if alert.status == "firing"}
        resolved = [alert.key for alert in told.alerts if alert.status == "resolved"]
        state = await run_in_threadpool(controls.alerted, firing, resolved)
        return JSONResponse(asdict(state))

    allowed = frozenset(_LOOPBACK) | {host.lower() for host in hosts}  # as `_host` returns them
    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/metrics", metrics),
            Route("/status", status),
            Route("/lever", lever, methods=["GET", "POST"]),
            Route("/alertmanager", alertmanager, methods=["POST"]),
        ],
        middleware=[
            Middleware(Guard, token=token, hosts=allowed),
        ],
        exception_handlers={BadInput: _bad_input},
    )


async def _body(request: Request, model: type[Model]) -> Model:
    """Reads a JSON body.

    Raises:
        BadInput: it is none, or not what is expected.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise BadInput("the body must be application/json")
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "the body"
        raise BadInput(f"{place}: {first['msg']}") from error


def _host(url: str) -> str | None:
    """Returns the host of a URL; None where there is none that makes sense."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


async def _bad_input(request: Request, error: Exception) -> Response:
    return _no(400, str(error))


def _no(code: int, why: str) -> Response:
    return JSONResponse({"error": why}, code)
