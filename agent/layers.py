"""What settings are said by: a YAML file, the environment (`BACKBURN_…`), the command line; whoever comes later wins.

What nobody would notice is refused: a key that is there twice, and a variable that sets nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from actuators.errors import BadInput

from .complaint import one_line

_PREFIX, _WITHIN = "BACKBURN_", "__"

_OF_OTHERS = re.compile(
    r"BACKBURN_(TEST_.*|(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?))"
)
"""Variables that begin like ours and are no settings: those of the tests, and what Kubernetes tells pods of a service
called backburn."""

_UNREADABLE = frozenset({"tuple_type", "list_type", "sequence_str", "dict_type", "model_type", "dataclass_type"})
"""What pydantic says of a text where a list or a mapping is expected."""

_SUCH_AS = 'a list such as ["a","b"] and a mapping such as {"a":"b"}'


# ---- the file -------------------------------------------------------------------------------------------------------


class _OnceEach(yaml.SafeLoader):
    """Reads YAML as `yaml.safe_load` does, but refuses a key that its mapping holds already.

    Of two the later one would win, while whoever wrote the earlier one believes that it holds.
    """

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        """Returns a mapping as it was written, before others are merged into it, whose keys may come again.

        Raises:
            BadInput: a key is there twice.
        """
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in lines:
                raise BadInput(f"line {line} has the key {key.value!r} of line {lines[name]} again; allowed is one")
            lines[name] = line
        return node


def read(path: Path) -> dict[str, Any]:
    """Returns what a file says, by section.

    Raises:
        BadInput: it cannot be read, is no YAML, or no mapping of names.
    """
    try:
        data = _OnceEach(path.read_text(encoding="utf-8")).get_single_data()
    except OSError as error:
        raise BadInput(f"cannot read the settings {path}: {error.strerror}") from error
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a day that no calendar has
        raise BadInput(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise BadInput(f"{path} holds {type(data).__name__}; expected a mapping of sections")
    strange = [key for key in data if not isinstance(key, str)]
    if strange:
        raise BadInput(f"{path} has the key {strange[0]!r}; allowed are names of sections")
    return data


# ---- the environment ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the environment that sets something.

    Attributes:
        name: as it is set.
        keys: of the place that it sets, the section first.
        value: what it says: text, or what JSON says.
    """

    name: str
    keys: tuple[str, ...]
    value: object

    def sets(self, location: Sequence[str | int]) -> bool:
        """Tells whether it says what is at a place of the settings."""
        if self.keys != tuple(location[: len(self.keys)]):
            return False
        value = self.value
        for key in location[len(self.keys) :]:
            if not isinstance(value, dict):
                break  # the whole of it: mappings are all that is put together from several sources
            if key not in value:
                return False
            value = value[key]
        return True


def variables(environment: Mapping[str, str], sections: Iterable[str]) -> list[Variable]:
    """Returns what the environment sets, whole sections before what lies in them.

    Args:
        environment: names and texts.
        sections: that there are.

    Raises:
        BadInput: a variable sets nothing that there is: whoever set it believes that it holds.
    """
    found = []
    for name, text in environment.items():
        if not name.upper().startswith(_PREFIX) or (_WITHIN not in name and _OF_OTHERS.fullmatch(name.upper())):
            continue
        keys = tuple(name[len(_PREFIX) :].lower().split(_WITHIN))
        if keys[0] not in sections:
            raise BadInput(
                f"the environment sets {name}; there is no section {keys[0]!r}, allowed are "
                f"{', '.join(sections)}, with two underscores before a key in one"
            )
        found.append(Variable(name, keys, _decoded(text)))
    return sorted(found, key=lambda variable: len(variable.keys))


def _decoded(text: str) -> object:
    """Returns the list or the mapping that a text is in JSON, or the text itself."""
    try:
        return json.loads(text) if text.lstrip().startswith(("[", "{")) else text
    except ValueError:
        return text  # may be what it is, such as the address [::1]; where a list should be it is refused as a text


# ---- together -------------------------------------------------------------------------------------------------------


def nested(said: Iterable[tuple[tuple[str, ...], object]]) -> dict[str, Any]:
    """Turns places and what is said of them into nested mappings; what comes later wins.

    Raises:
        BadInput: a variable says something plain of a place in which others say more.
    """
    together: dict[str, Any] = {}
    for keys, value in said:
        _put(together, keys, value)
    return together


def over(file: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a file says, with what was said elsewhere in its place, key by key; lists are replaced whole."""
    both = {key: over(file[key], said[key]) for key in file.keys() & said.keys() if _are_mappings(file[key], said[key])}
    return {**file, **said, **both}


def _are_mappings(*values: object) -> bool:
    return all(isinstance(value, dict) for value in values)


def _put(together: dict[str, Any], keys: tuple[str, ...], value: object) -> None:
    place = together
    for depth, section in enumerate(keys[:-1], 1):
        inner = place.setdefault(section, {})
        if not isinstance(inner, dict):
            raise BadInput(_no_json(_PREFIX + _WITHIN.join(keys[:depth]).upper(), keys[:depth]))
        place = inner
    if isinstance(value, dict) and isinstance(place.get(keys[-1]), dict):
        for key, each in value.items():
            _put(together, (*keys, key), each)
    else:
        place[keys[-1]] = deepcopy(value)  # what is put into it later must not change what was said


def blamed(
    error: ValidationError,
    model: type[BaseModel],
    path: Path,
    variables: Sequence[Variable],
    given: Iterable[tuple[str, ...]],
) -> str:
    """Says in one line what is wrong, and which variable or file says so.

    Args:
        error: as pydantic raised it.
        model: the settings.
        path: of the file.
        variables: of the environment, in order.
        given: the places that the command line sets.
    """
    first = error.errors()[0]
    location = [part for part in first["loc"] if isinstance(part, str | int)]
    variable = next((variable for variable in reversed(variables) if variable.sets(location)), None)
    if any(keys == tuple(location[: len(keys)]) for keys in given):
        return f"{path}: {one_line(error, model)}"
    if variable is None:
        return f"{origin(path, variables, location)}: {one_line(error, model)}"
    if first["type"] in _UNREADABLE and isinstance(variable.value, str):
        return _no_json(variable.name, variable.keys)
    return f"the environment sets {variable.name}: {one_line(error, model)}"


def _no_json(name: str, keys: Sequence[str]) -> str:
    # Without the text, which may hold a password.
    return f"the environment sets {name} to a plain text; {'.'.join(keys)} is written as JSON, {_SUCH_AS}"


def origin(path: Path, variables: Iterable[Variable], location: Sequence[str | int] = ()) -> str:
    """Names the file, and the variables that set something inside of a place, or anywhere."""
    within = [variable.name for variable in variables if variable.keys[: len(location)] == tuple(location)]
    return f"{path} with {', '.join(within)}" if within else str(path)
