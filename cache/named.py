"""Classes by name: those of a family's table, and a user's own by `package.module:Class`."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from mgcli.cache.errors import MgcliError


def named_class(
    name: str, table: Mapping[str, str], base: type, *, what: str, listing: str, error: type[MgcliError]
) -> Any:
    """The class behind a name; its module is imported only now.

    Args:
        name: a key of the table, or `package.module:Class`.
        table: name -> `package.module:Class`.
        base: the family's contract, of which the class must be a subclass.
        what: the family in words, for messages: backbone, head.
        listing: where all names are to be found, or the names.
        error: raised with a message for people.
    """
    if name not in table and ":" not in name:
        near = get_close_matches(name, table, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise error(f"unknown {what} {name!r}; {hint}All: {listing}")
    module, _, class_name = table.get(name, name).partition(":")
    try:
        found = getattr(import_module(module), class_name)
    except (ModuleNotFoundError, AttributeError, ValueError) as fault:
        raise error(
            f"no {what} at {name!r}: {fault}; write it as package.module:Class, in this folder or installed"
        ) from fault
    if not (isinstance(found, type) and issubclass(found, base)):
        room = base.__module__.rpartition(".")[0]
        raise error(f"{name!r} is not a subclass of {room}.{base.__name__}")
    return found
