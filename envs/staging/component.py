"""What every plain component process does around its own work: settings, logging, serving HTTP, dying in time."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

from aiohttp import web

from .ports import LOOPBACK
from .processes import die_with


def begin() -> dict[str, Any]:
    """Ties the process to its parent's life, starts its log, and returns the settings given on stdin."""
    die_with(os.getppid())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings: dict[str, Any] = json.load(sys.stdin)
    return settings


def serve(app: web.Application, port: int) -> None:
    """Serves an application on loopback until killed."""
    web.run_app(app, host=LOOPBACK, port=port, access_log=None, print=None)
