"""Which device, precision and batch size suit this machine.

Channels-last is the networks' own choice: `backbone_torchvision.py` has it; on one core in float32 it made MViTv2-S and
SwinFace no faster (0.999 and 0.997 of the time), and on a GPU it is not measured.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mgcli.extract.backbone import Backbone, BackboneError
from mgcli.extract.core_lanes import num_lanes

BATCH_SIZE_CPU = 2  # for each lane, where a network has some
BATCH_SIZE_CUDA = 32
MOST_DECODER_THREADS = 16  # each thread more holds a frame more, and delays the first frame after a seek
COMPILE_FROM_CLIPS = 5000  # compiling takes a minute or two; a GPU embeds so many clips in a few seconds to minutes


def choose_device(device: str | None = None) -> torch.device:
    """The device named, or the first GPU, or the processor.

    Raises:
        BackboneError: torch does not know it, or it is not there.
    """
    if device is None:
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device  # cuda:0 and not cuda: one GPU has one name
    except (RuntimeError, AssertionError) as error:
        raise BackboneError(
            f"no device {device!r} here: {str(error).splitlines()[0]}; leave --device out, or look with: mgcli doctor"
        ) from error


@contextmanager
def on_device(device: torch.device) -> Iterator[None]:
    """Makes a GPU the one that this thread means where it names none, and its float32 convolutions float32.

    Without, pinned memory, streams and events would be of the first GPU, whichever one computes: its memory would be
    taken too, and waiting for an event would not wait for the work. cuDNN would take convolutions in TF32, with tokens
    that hang on the batch in their fourth digit.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.cuda.device(device):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def choose_precision(precision: str, kind: type[Backbone], device: torch.device) -> str:
    """The precision asked for; for "auto" bfloat16 where the device is faster in it, else float32.

    A backbone that knows only one precision computes in that.

    Raises:
        BackboneError: no such precision.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise BackboneError(f"unknown precision {precision!r}; known: auto, float32, bfloat16")
    if len(kind.precisions) == 1:
        return kind.precisions[0]
    if precision == "auto":
        return usual_precision(device)[0]
    return precision


def choose_batch_size(batch_size: int | None, device: torch.device, in_lanes: bool = False) -> int:
    """Inputs a batch, for a backbone that is `in_lanes` or not; the pipeline halves it when memory runs out.

    Raises:
        BackboneError: below 1.
    """
    if batch_size is None:
        if device.type == "cuda":
            return BATCH_SIZE_CUDA
        return BATCH_SIZE_CPU * (num_lanes() if in_lanes else 1)
    if batch_size < 1:
        raise BackboneError(f"batch size is {batch_size}; it must be 1 or more")
    return batch_size


def choose_workers(workers: int | None) -> int:
    """Videos decoded at once, each in a process: half of the cores, the network wants the others.

    Raises:
        BackboneError: below 0.
    """
    if workers is None:
        return max(1, min(8, num_cores() // 2))
    if workers < 0:
        raise BackboneError(f"workers is {workers}; it must be 0 (decode between batches) or more")
    return workers


def choose_decoder_threads(workers: int) -> int:
    """Threads of each decoder, so that all of them together use the cores once; FFmpeg advises against more than 16."""
    return max(1, min(MOST_DECODER_THREADS, num_cores() // max(1, workers)))


def choose_compile(compile: str, device: torch.device, num_clips: int) -> bool:
    """Whether a network is run through torch.compile: when forced, or on a GPU for enough clips to pay for it.

    Raises:
        BackboneError: no such choice.
    """
    if compile not in ("auto", "on", "off"):
        raise BackboneError(f"unknown choice {compile!r} for compile; known: auto, on, off")
    return compile == "on" or (compile == "auto" and device.type == "cuda" and num_clips >= COMPILE_FROM_CLIPS)


def as_run(backbone: Backbone, compiled: bool) -> Callable[[Tensor], Tensor]:
    """The backbone as it is, or compiled for each batch size of its own."""
    return torch.compile(backbone, dynamic=False) if compiled else backbone


def compile_fault(name: str, error: RuntimeError) -> str:
    """What to say of a backbone that failed when it was run compiled; nothing where compiling is not to blame."""
    from torch._dynamo.exc import TorchDynamoException  # takes a second; loaded where a network was compiled

    if not isinstance(error, TorchDynamoException):
        return ""
    return f"{name} cannot be compiled here ({str(error).strip().splitlines()[0]})"


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usual_precision(device: torch.device) -> tuple[str, str]:
    """The precision that suits a device, and why.

    bfloat16 where it pays: GPUs from Ampere on, and processors with tiles (AMX). AVX-512 BF16 alone does not: on an
    Intel Xeon with its tiles masked, large products took 1.5 to 1.9 times as long as in float32, MViTv2-S 1.4 times.
    """
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        pays = (major, minor) >= (8, 0)
        why = f"the GPU has compute capability {major}.{minor}, and bfloat16 is faster from 8.0 on"
    elif device.type == "cpu":
        # torch has no public question for this; a version that drops the name computes in float32
        pays = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
        why = (
            "the processor has AMX, which is faster in it" if pays else "without AMX a processor is slower in bfloat16"
        )
    else:
        pays, why = False, f"whether bfloat16 is faster on {device.type} is not known"
    return "bfloat16" if pays else "float32", why
