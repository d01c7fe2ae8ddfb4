"""What is wrong with some settings, in one line for the person who wrote them."""

from __future__ import annotations

import dataclasses
import difflib
import re
from typing import Annotated, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError


def one_line(error: ValidationError, model: type[BaseModel]) -> str:
    """Says the first problem in one line: where, what, and what would be allowed.

    Args:
        error: as pydantic raised it.
        model: the model that was to be read.
    """
    first = error.errors()[0]
    location = [part for part in first["loc"] if isinstance(part, str | int)]
    where = ".".join(map(str, location))
    if first["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        allowed = _keys_at(model, location[:-1])
        nearest = difflib.get_close_matches(str(location[-1]), allowed, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"allowed are {', '.join(allowed)}"
        return f"unknown key {where!r}; {hint}"
    if first["type"] == "missing":
        return f"{where!r} is missing"
    message = re.sub(r"^Value error, ", "", first["msg"])
    got = first.get("input")
    shown = f", got {got!r}" if isinstance(got, str | int | float | bool) or got is None else ""
    return f"{where!r}: {message}{shown}"


def _keys_at(model: type[BaseModel], location: list[str | int]) -> list[str]:
    """Returns the keys that are allowed at a place of the settings."""
    kind: object = model
    for part in location:
        # Inside of a sequence or a mapping there is one type for all: its last argument.
        kind = _fields(kind).get(str(part)) or get_args(kind)[-1]
        while get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
    return sorted(_fields(kind))


def _fields(kind: object) -> dict[str, object]:
    """Returns the fields of a model or dataclass with their types, nothing for any other type."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    return dict(get_type_hints(kind)) if isinstance(kind, type) and dataclasses.is_dataclass(kind) else {}
