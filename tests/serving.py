"""Real HTTP servers for tests, on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from envs.staging.ports import LOOPBACK


@asynccontextmanager
async def serving(app: web.Application, port: int = 0) -> AsyncIterator[str]:
    """Serves an application on loopback; yields its URL."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, LOOPBACK, port)
    await site.start()
    try:
        yield f"http://{LOOPBACK}:{runner.addresses[0][1]}"
    finally:
        await _finish_accepting()
        await runner.cleanup()


async def _finish_accepting() -> None:
    # A client that has just given up may still stand in the backlog. asyncio takes it up over three turns of its loop,
    # and a listener that is closed between them loses the socket (https://github.com/python/cpython/issues/109564).
    for _ in range(3):
        await asyncio.sleep(0)


def slow(app: web.Application, delay_s: float) -> web.Application:
    """Makes every answer of an application take its time."""

    @web.middleware
    async def wait(request, handler):
        await asyncio.sleep(delay_s)
        return await handler(request)

    app.middlewares.append(wait)
    return app
