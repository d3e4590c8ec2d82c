"""Where a training's tokens lie: on the device, in memory beside it, or in the cache's files.

| kind   | tokens lie                                                    | taken by `auto` when                    |
|--------|---------------------------------------------------------------|-----------------------------------------|
| device | where the head computes: a GPU's memory, or RAM without a GPU | they fit there, with a margin           |
| pinned | in RAM beside a GPU; batches are fetched ahead, locked there  | they fit into RAM, but not onto the GPU |
| mapped | in the cache's files; batches are read ahead                  | they do not fit into RAM                |

Half-precision tokens stay so in each. The kind changes no number of a training on a CPU, only how long it takes.
What concerns a GPU was never run on one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from mgcli.fuse.data import Batch, ClipTensors
from mgcli.fuse.stored_tokens import HostTokens

_RAM_SHARE = 0.7  # of the free RAM that tokens may take
_GPU_SHARE = 0.7  # of a GPU's free memory that tokens may take; the rest is for the head and its steps
_CGROUP = Path("/sys/fs/cgroup")

Part = TypeVar("Part")


def fits_ram(residency: str, num_bytes: int) -> bool:
    """Whether tokens of this size are to be read into memory, where `residency` is the setting."""
    return residency != "mapped" and (residency != "auto" or num_bytes <= _RAM_SHARE * free_ram_bytes())


def place_clips(
    clips: ClipTensors, device: torch.device, residency: str, say: Callable[[str], None]
) -> tuple[ClipTensors, str]:
    """The clips where a training on `device` reads them, and the kind of place.

    Args:
        clips: as loaded.
        device: of the head.
        residency: auto, device, pinned or mapped. A GPU without room for what is asked gets the next kind.
        say: told where they lie, if that is neither the usual nor what was asked for.
    """
    size = f"{clips.num_bytes / 1e9:.2f} GB of tokens"
    if clips.mapped:
        if residency != "mapped":
            say(f"{size} do not fit into the free memory: they are read from the cache in every epoch")
        return clips.to(device), "mapped"
    if device.type != "cuda":
        return clips.to(device), "device"
    if residency == "device" or (residency == "auto" and clips.num_bytes <= _GPU_SHARE * _free_gpu_bytes(device)):
        try:
            return clips.to(device), "device"
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    if residency != "pinned":
        say(f"{size} do not fit on {device}: they stay in the host's memory, and batches are fetched ahead")
    pinned = {
        name: replace(each, tokens=HostTokens(each.tokens))
        for name, each in clips.modalities.items()
        if isinstance(each.tokens, Tensor)
    }
    return ClipTensors(pinned, clips.labels, clips.max_tokens).to(device), "pinned"


def batches_ahead(
    clips: ClipTensors, parts: Sequence[Part], gather: Callable[[Part], list[Batch]]
) -> Iterator[list[Batch]]:
    """The batches of each part; where tokens lie elsewhere, the next ones are fetched while some are used.

    Args:
        clips: what `gather` reads.
        parts: what says which clips; on the clips' device.
        gather: a part's batches. Where that hangs on chance nothing is fetched ahead: what is drawn for the
            next batch must come after what the step draws.
    """
    if clips.on_device or clips.batch_draws:
        yield from map(gather, parts)
        return
    device = clips.labels.device
    stream = _fetching_stream(device) if device.type == "cuda" else None
    if stream is not None:  # the parts may not be there yet
        stream.wait_stream(torch.cuda.current_stream(device))

    def fetch(part: Part) -> list[Batch]:
        with torch.cuda.stream(stream):
            return gather(part)

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(fetch, parts[0])
        for part in [*parts[1:], None]:
            batches = coming.result()
            if stream is not None:  # before more is asked for, which would have to be waited for as well
                _hand_over(batches, stream, device)
            if part is not None:
                coming = pool.submit(fetch, part)
            yield batches


def free_ram_bytes() -> float:
    """RAM that can be had without swapping, also inside a container; infinite where the system does not say."""
    free = float("inf")
    info = Path("/proc/meminfo")
    if info.exists():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines())
        free = float(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else free
    limit, used, stat = (_CGROUP / f"memory.{name}" for name in ("max", "current", "stat"))
    if limit.exists() and used.exists() and stat.exists() and limit.read_text().strip() != "max":
        cached = dict(line.split() for line in stat.read_text().splitlines()).get("inactive_file", "0")
        free = min(free, float(limit.read_text()) - float(used.read_text()) + float(cached))
    return free


def _free_gpu_bytes(device: torch.device) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    return free


@cache
def _fetching_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all epochs: torch has 32, and gives them out again."""
    return torch.cuda.Stream(device)


def _hand_over(batches: Sequence[Batch], stream: torch.cuda.Stream, device: torch.device) -> None:
    """Let the device's main stream wait for batches of the side stream, and keep their memory until then."""
    current = torch.cuda.current_stream(device)
    current.wait_stream(stream)
    for batch in batches:
        for each in (batch.labels, *batch.tokens.values(), *batch.mask.values(), *batch.time.values()):
            each.record_stream(current)
