"""Checkpoint files: read and loaded without running any code they may hold, and told apart by their SHA-256."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from mgcli.cache import MgcliError
from mgcli.extract.weights_inert import READ_ERRORS, read_inert

PROVENANCE_KEY = "mgcli"  # of a .safetensors file's metadata; its value is JSON


class WeightsError(MgcliError):
    """Weights that are missing, damaged, or made for another network."""


class MissingWeightsError(WeightsError):
    """Weights that are nowhere; the message says how to come by them."""


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill a module with a checkpoint, key by key, none missing and none left over.

    Raises:
        WeightsError: the file is damaged, holds code, or was made for another network.
    """
    load_state(module, read_state_dict(path), path)


def load_state(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Fill a module with tensors that were read from `path`, key by key, none missing and none left over.

    Batch counters may be missing: PyTorch before 0.4.1 did not write them, and a frozen batch norm has no use
    for them.

    Raises:
        WeightsError: the tensors are those of another network; the message lists the keys.
    """
    expected = module.state_dict()
    counters = {key: value for key, value in expected.items() if key.endswith(".num_batches_tracked")}
    fitting = len(expected.keys() & state.keys())
    state = counters | state
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    if missing or unexpected:
        raise WeightsError(
            f"{path} was made for another network: it lacks {_some(missing)} and has {_some(unexpected)}, "
            f"{fitting} of {len(expected)} names fit; which file is whose: mgcli weights"
        )
    reshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if state[key].shape != expected[key].shape
    ]
    if reshaped:
        raise WeightsError(f"{path} was made for another network: shapes differ in {_some(reshaped)}")
    module.load_state_dict(state, strict=True)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Names and tensors of a .safetensors file or a torch checkpoint; nothing in it is executed.

    A checkpoint is a plain state dict, or a dict that holds one under "state_dict".

    Raises:
        WeightsError: the file cannot be read, or holds something else.
    """
    content = read_checkpoint(path)
    content = content.get("state_dict", content)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} holds no state dict (names and tensors)")
    return content


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Everything that a .safetensors file or a torch checkpoint holds; nothing in it is executed.

    Raises:
        WeightsError: the file cannot be read, or is no dict.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        read_released(path)  # says what is wrong, unless the other objects can be left out
        raise WeightsError(
            f"{path} holds other objects beside its tensors, such as an optimiser. Take the tensors out once with: "
            f"mgcli weights import {path} --backbone NAME"
        ) from error
    except READ_ERRORS as error:
        raise WeightsError(
            f"{path} is not a checkpoint, or is cut short: {_first_line(error)}; fetch it again, or give another"
        ) from error
    return _checked_dict(content, path)


def read_released(path: Path) -> dict[str, Any]:
    """The same of a checkpoint that holds other objects as well; empty ones stand in for these.

    Raises:
        WeightsError: the file cannot be read, names code of the standard library, or is no dict.
    """
    if path.suffix == ".safetensors":
        return read_checkpoint(path)
    try:
        content = read_inert(path)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged, or holds code that would run when loaded; it was not loaded{_reason(error)}. "
            "A checkpoint should hold only a state_dict(), saved with torch.save or as .safetensors"
        ) from error
    except READ_ERRORS as error:
        raise WeightsError(
            f"{path} is not a checkpoint, or is cut short: {_first_line(error)}; fetch it again, or give another"
        ) from error
    return _checked_dict(content, path)


def read_provenance(path: Path) -> dict[str, Any]:
    """What a .safetensors file written by mgcli says of its making; empty for any other file.

    Raises:
        WeightsError: the file cannot be read.
    """
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {}).get(PROVENANCE_KEY, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} is not a checkpoint, or is cut short: {_first_line(error)}; fetch it again, or give another"
        ) from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: what it says of its making is no JSON object")
    return content


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"cannot read the weights file {path}: {error.strerror}") from error


def state_sha256(module: nn.Module) -> str:
    """SHA-256 over a module's parameters and buffers, for weights that come with no file."""
    return _digest(module.state_dict())


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over named tensors, whatever their order and whatever else is in their file."""
    return _digest({key: state[key] for key in sorted(state)})


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key, value in state.items():
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _checked_dict(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds no state dict (names and tensors)")
    return content


def _some(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more


def _reason(error: pickle.UnpicklingError) -> str:
    """What torch's reader stopped at, out of its long message; empty where it does not say."""
    found = re.search(r"npickler error:\s*(?:Unsupported global: GLOBAL (\S+)|([^\n]+))", str(error))
    return f" ({found[1] or found[2]})" if found else ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
