"""How fast a backbone is on this machine: inputs a second in batches of several sizes, against the matrix peak."""

# Shapes: B batch.

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mgcli.extract.backbone import PRECISIONS, Backbone, BackboneError, backbone_class, create_backbone
from mgcli.extract.bench_faces import FaceRate, time_faces
from mgcli.extract.bench_input import count_flops, make_input, token_cosine
from mgcli.extract.device import as_run, choose_compile, choose_device, choose_precision, compile_fault, on_device

BATCH_SIZES = (1, 8, 64)
MIN_ROUNDS = 3
COMPARED_INPUTS = 2  # whose tokens are compared with those in float32
PEAK_SIDES = (256, 8192)  # the matrix product that gives the peak doubles its side until it lasts PEAK_S
PEAK_S = 0.04


@dataclass(frozen=True, kw_only=True)
class BatchRate:
    """What one batch size gives."""

    batch_size: int
    inputs_per_s: float  # median over the rounds
    peak_share: float | None  # of the machine's matrix peak; None where there is nothing to multiply


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """How fast a backbone ran, and on what."""

    backbone: str
    tokens: str
    weights: str
    input: str  # what one input is
    input_shape: tuple[int, ...]
    device: str
    threads: int | None  # on a CPU
    precision: str
    compiled: bool
    torch: str
    flops_per_input: int  # see `count_flops`; 0 for a fixed computation
    peak_flops_per_s: float  # of a large matrix product, the best of the rounds
    rounds: int
    rates: tuple[BatchRate, ...]  # by ascending batch size
    cosine_to_float32: float | None  # mean over tokens; None where it computed in float32
    faces: FaceRate | None  # of a video that was given

    @property
    def batch_gain(self) -> float:
        """Speed in the largest batches over that in the smallest."""
        return self.rates[-1].inputs_per_s / self.rates[0].inputs_per_s

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        plain = {key: value for key, value in vars(self).items() if key != "rates"}
        plain |= {"input_shape": list(self.input_shape), "faces": dict(vars(self.faces)) if self.faces else None}
        return {**plain, "rates": [dict(vars(rate)) for rate in self.rates], "batch_gain": self.batch_gain}

    def summary(self) -> str:
        """A small table with its circumstances."""
        threads = f", {self.threads} threads" if self.threads else ""
        compiled = ", compiled" if self.compiled else ""
        flops = f"{_scaled(self.flops_per_input)}FLOP" if self.flops_per_input else "no matrix product"
        lines = [
            f"{self.backbone} ({self.tokens}) on {self.device}{threads}, {self.precision}{compiled}, "
            f"torch {self.torch}",
            f"weights {self.weights}; one input is {self.input}: {flops}",
            f"matrix peak in the same run: {_scaled(self.peak_flops_per_s)}FLOP/s",
            "",
            f"{'batch':>5} {'inputs/s':>10} {'of peak':>8}",
        ]
        for rate in self.rates:
            share = "-" if rate.peak_share is None else f"{rate.peak_share:.0%}"
            lines.append(f"{rate.batch_size:>5} {rate.inputs_per_s:>10.4g} {share:>8}")
        if len(self.rates) > 1:
            first, last = self.rates[0].batch_size, self.rates[-1].batch_size
            lines += [
                "",
                f"batch {last} against batch {first}: {self.batch_gain:.2f} times; medians of {self.rounds} rounds",
            ]
        if self.cosine_to_float32 is not None:
            lines += ["", f"tokens against float32: mean cosine similarity {self.cosine_to_float32:.5f}"]
        if self.faces is not None:
            lines += ["", self.faces.summary()]
        return "\n".join(lines)


def bench_backbone(
    name: str,
    *,
    weights: str = "random:0",
    tokens: str | None = None,
    options: Mapping[str, Any] | None = None,
    precision: str = "auto",
    compile: str = "auto",
    device: str | None = None,
    batch_sizes: Sequence[int] | None = None,
    seconds: float = 20.0,
    video: Path | None = None,
    weights_dir: Path | None = None,
) -> BenchReport:
    """Time a backbone's forward pass on made-up inputs that lie on its device already.

    Batch sizes take turns: in each round every size runs as many inputs as the largest batch has, and a large
    matrix product is timed beside them. So what slows the machine down for a while meets all of them.

    Args:
        name: of a backbone, as for `create_backbone`.
        weights: file, name in a weights folder or "random:SEED"; they hardly matter for speed.
        tokens: layout; None for the backbone's default.
        options: of the backbone.
        precision: auto, float32 or bfloat16.
        compile: on, for each batch size; off; auto is off too, for nobody says how many clips shall pay for it.
        device: such as cpu or cuda:0; None takes a GPU where there is one.
        batch_sizes: None for 1, 8 and 64, or as many of them as `seconds` allow, and at least 1 and 2.
        seconds: to spend on the rounds; there are at least three, however long they take.
        video: for a backbone that reads faces: a file in which they are looked for, for as many seconds again.
        weights_dir: folder that weights are looked for first.

    Raises:
        BackboneError: no such backbone, option or device; a network that cannot be compiled; a batch size below 1 or
            beyond memory; a video for a backbone that reads no faces.
        WeightsError: weights missing, damaged or for another network.
        VideoError: the video cannot be read.
    """
    for batch_size in batch_sizes or ():
        if batch_size < 1:
            raise BackboneError(f"batch size is {batch_size}; it must be 1 or more")
    kind = backbone_class(name)
    if video is not None and kind.reads != "face":
        raise BackboneError(f"faces of a video are looked for with a backbone that reads them; {kind.name} does not")
    chosen_device = choose_device(device)
    compiled = choose_compile(compile, chosen_device, 0)
    make = partial(
        create_backbone,
        name,
        weights=None if weights == "random:0" and not kind.has_weights else weights,
        tokens=tokens,
        device=chosen_device,
        weights_dir=weights_dir,
        **(options or {}),
    )
    with on_device(chosen_device):
        backbone = make(precision=choose_precision(precision, kind, chosen_device))
        faces = time_faces(video, backbone.detector, chosen_device, seconds=seconds) if video is not None else None
        is_exact = backbone.precision == "float32"
        cosine = None if is_exact else token_cosine(backbone, make(precision="float32"), COMPARED_INPUTS)
        dtype = PRECISIONS[backbone.precision]
        inputs, said = make_input(backbone)
        inputs = backbone.finish(inputs[None].to(chosen_device)).to(dtype)  # (1, ...)
        flops = count_flops(backbone, inputs)
        sizes = sorted(set(batch_sizes or _affordable(backbone, inputs, seconds)))
        network = as_run(backbone, compiled)
        passes = {size: _passes(backbone, network, inputs, size, sizes[-1]) for size in sizes}
        product, product_flops = _large_product(chosen_device, dtype)
        times_s: dict[int, list[float]] = {size: [] for size in sizes}  # of each round
        product_s: list[float] = []
        end = time.perf_counter() + seconds
        while len(product_s) < MIN_ROUNDS or time.perf_counter() < end:
            for size in sizes:
                times_s[size].append(_seconds(passes[size], chosen_device))
            product_s.append(_seconds(product, chosen_device))
    peak = product_flops / min(product_s)
    rates = {size: size * len(range(0, sizes[-1], size)) / median(times_s[size]) for size in sizes}
    return BenchReport(
        backbone=backbone.name,
        tokens=backbone.tokens,
        weights=backbone.weights.name,
        input=said,
        input_shape=tuple(inputs.shape[1:]),
        device=_device_name(chosen_device),
        threads=torch.get_num_threads() if chosen_device.type == "cpu" else None,
        precision=backbone.precision,
        compiled=compiled,
        torch=torch.__version__,
        flops_per_input=flops,
        peak_flops_per_s=peak,
        rounds=len(product_s),
        rates=tuple(
            BatchRate(batch_size=size, inputs_per_s=rate, peak_share=rate * flops / peak if flops else None)
            for size, rate in rates.items()
        ),
        cosine_to_float32=cosine,
        faces=faces,
    )


def _affordable(backbone: Backbone, inputs: Tensor, seconds: float) -> list[int]:
    """The usual batch sizes, as far as the least number of rounds fits into the time."""
    once = _passes(backbone, backbone, inputs, 1, 1)
    input_s = min(_seconds(once, inputs.device) for _ in range(3))
    rounds_of = {size: MIN_ROUNDS * len(BATCH_SIZES) * size * input_s for size in BATCH_SIZES}
    sizes = [size for size in BATCH_SIZES if rounds_of[size] <= seconds]
    return sizes if len(sizes) > 1 else [1, 2]


def _passes(
    backbone: Backbone, network: Callable[[Tensor], Tensor], inputs: Tensor, batch_size: int, num_inputs: int
) -> Callable[[], None]:
    """As many forward passes as that number of inputs needs; the first is done already, to warm up."""
    try:
        batch = inputs.repeat(batch_size, *[1] * (inputs.ndim - 1))  # (B, ...)
        with torch.inference_mode():
            network(batch)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise BackboneError(f"not enough memory for a batch of {batch_size}; name smaller batch sizes") from error
        if network is not backbone and (fault := compile_fault(backbone.name, error)):
            raise BackboneError(f"{fault}; give --compile off") from error
        raise

    def run() -> None:
        with torch.inference_mode():
            for _ in range(0, num_inputs, batch_size):
                network(batch)

    return run


def _large_product(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], None], int]:
    """A matrix product that takes a while, as linear layers compute it, and its number of operations."""
    side, largest = PEAK_SIDES
    while True:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

        def run(a: Tensor = a, b: Tensor = b) -> None:
            F.linear(a, b)

        run()
        if side >= largest or _seconds(run, device) > PEAK_S:
            return run, 2 * side**3
        side *= 2


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    """How long a call takes until the device is done."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def _scaled(number: float) -> str:
    """`number` with a prefix, such as 128.4 G."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.4g} {prefix}"
    return f"{number:.4g} "
