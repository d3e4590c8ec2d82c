"""Joining a Ray cluster that is running. Ray is an extra: it is imported here alone, and only when it is asked for."""

from __future__ import annotations

import os
import re
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from mgcli.cache.errors import ClusterError

ENGINES = ("ray",)  # what `--engine` can name

_REACH_S = 10.0  # until an address that does not answer counts as unreachable
_HOW_TO_START = (
    "start one with `ray start --head`, and `ray start --address=HOST:6379` on the other machines, "
    "or name one in RAY_ADDRESS; RAY_ADDRESS=local uses this machine alone"
)


@contextmanager
def joined_cluster() -> Iterator[Any]:
    """The module `ray`, in the cluster that RAY_ADDRESS names, or that runs on this machine, until the block ends.

    A process that has joined one already stays in it. Meanwhile stdout is stderr: Ray prints what it hears of
    workers that die.

    Raises:
        ClusterError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError:
        raise ClusterError("--engine ray needs Ray, here and on every machine: pip install 'mgcli[ray]'") from None
    with redirect_stdout(sys.stderr):
        if ray.is_initialized():
            yield ray
            return
        _join(ray)
        try:
            yield ray
        finally:
            ray.shutdown()


def worker_death(error: Exception) -> str:
    """What Ray says of a worker that is gone, in a line: the error that it died of, or what Ray knows."""
    lines = [line.strip() for line in re.sub(r"\x1b\[\d*m", "", str(error)).splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
    known = [line for line in lines if line.startswith("The actor ")]
    return (errors[-1:] or known or lines or [type(error).__name__])[0].rstrip(".")


def _join(ray: Any) -> None:
    """Connect to the cluster.

    Raises:
        ClusterError: there is none, or it does not answer.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    match = re.fullmatch(r"(?:ray://)?\[?([^/\]]+?)\]?:(\d+)", address)
    if match is not None:  # Ray itself would try for minutes
        try:
            socket.create_connection((match[1], int(match[2])), timeout=_REACH_S).close()
        except (OSError, OverflowError) as error:
            raise ClusterError(f"no Ray cluster answers at RAY_ADDRESS={address} ({error}); {_HOW_TO_START}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of on the way is in the error
            ray.init(address=address or "auto", log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # it has many kinds: no cluster, another version of Ray or Python, ...
        if not address and isinstance(error, ConnectionError):
            raise ClusterError(f"no Ray cluster is running here; {_HOW_TO_START}") from None
        first = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ClusterError(
            f"the Ray cluster {address or 'here'} cannot be joined: {first[0]}; {_HOW_TO_START}"
        ) from error
