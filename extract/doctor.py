"""What `mgcli doctor` finds of stage one: torch, the device, what it decodes, the data, the weights."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd

from mgcli.cache import Check, MgcliError, Project
from mgcli.extract.doctor_codecs import check_codecs
from mgcli.extract.names import MODALITIES

_SHARED_MEMORY = Path("/dev/shm")
_NVIDIA = Path("/proc/driver/nvidia/version")  # there where the driver is loaded


def extract_checks(project: Project) -> list[Check]:
    """All of stage one; where torch cannot be loaded, that alone."""
    loaded = check_torch()
    if loaded.state == "fault":
        return [loaded, check_codecs()]
    return [
        loaded,
        check_gpu(),
        check_precision(),
        check_codecs(),
        check_memory(),
        *([check_data(project)] if project.file is not None else []),
        *check_weights(project),
    ]


def check_torch() -> Check:
    """Whether torch and torchvision can be loaded, together."""
    try:
        import torch
        import torchvision
    except (ImportError, OSError, RuntimeError) as error:
        found = f"cannot be loaded: {str(error).splitlines()[0]}"
        return Check(name="torch", state="fault", found=found, do="pip install --force-reinstall torch torchvision")
    return Check(name="torch", state="ok", found=f"{torch.__version__}, torchvision {torchvision.__version__}")


def check_gpu() -> Check:
    """The GPUs that torch sees; a driver that it makes no use of is a warning."""
    import torch

    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        found = ", ".join(f"{gpu.name} ({gpu.total_memory / 1e9:.0f} GB)" for gpu in gpus)
        if slow := slow_convolutions(torch.__version__, torch.backends.cudnn.version()):
            do = "pip install 'torch>=2.10' torchvision, or a cuDNN of 9.15 or later with torch 2.9.1"
            return Check(name="GPU", state="warning", found=f"{found}; {slow}", do=do)
        return Check(name="GPU", state="ok", found=found)
    if not _NVIDIA.exists():
        return Check(name="GPU", state="ok", found="none that torch can use; the processor computes")
    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        hidden = f"hidden by CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']!r}"
        return Check(name="GPU", state="warning", found=hidden, do="unset CUDA_VISIBLE_DEVICES to use it")
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    return Check(
        name="GPU",
        state="warning",
        found=f"an NVIDIA driver is here, but torch ({built}) sees no GPU",
        do="install the torch that fits the driver (nvidia-smi shows its CUDA version): https://pytorch.org",
    )


def slow_convolutions(torch_version: str, cudnn: int | None) -> str:
    """What torch 2.9 does to MViTv2-S in bfloat16 with an older cuDNN (pytorch issue 166643); empty for others."""
    release = torch_version.split("+")[0]
    if not release.startswith("2.9.") or (release != "2.9.0" and (cudnn or 0) >= 91500):
        return ""
    return f"torch {release} convolves clips in bfloat16 without cuDNN here, many times slower and in far more memory"


def check_precision() -> Check:
    """What `--precision auto` means here, and why."""
    from mgcli.extract.device import choose_device, usual_precision

    precision, why = usual_precision(choose_device())
    return Check(name="precision", state="ok", found=f"auto is {precision}: {why}")


def check_memory() -> Check:
    """Whether decoded frames pass to this process through memory, and how large the shared memory of the system is."""
    from mgcli.extract.device import choose_workers
    from mgcli.extract.frame_ring import RING_BYTES, open_ring_file

    workers = choose_workers(None)
    size = (
        f"; {_SHARED_MEMORY}: {shutil.disk_usage(_SHARED_MEMORY).total / 1e9:.1f} GB" if _SHARED_MEMORY.is_dir() else ""
    )
    try:
        descriptor, not_in_memory = open_ring_file(workers * RING_BYTES)
    except OSError as error:
        found = f"no room for frames in memory or in the temporary folder: {error.strerror}"
        return Check(
            name="shared memory", state="fault", found=found, do="set TMPDIR to a folder with room, or --workers 0"
        )
    os.close(descriptor)
    what = f"{workers} decoder(s) with {RING_BYTES >> 20} MB each"
    if not not_in_memory:
        return Check(name="shared memory", state="ok", found=f"room for {what}{size}")
    found = f"{what} go through a file in the temporary folder ({not_in_memory}){size}: slower"
    return Check(name="shared memory", state="warning", found=found, do="give the container more memory")


def check_data(project: Project) -> Check:
    """Whether the project's clip table can be read, by the data set, protocol and options of its file."""
    from mgcli.extract.dataset import load_project_clips

    try:
        table, protocol = load_project_clips(project)
    except MgcliError as error:
        return Check(name="data", state="fault", found=str(error), do=f"correct {project.file}, or mgcli data check")
    videos = table["video"][table["video"] != ""].nunique()
    return Check(
        name="data",
        state="ok",
        found=f"{project.dataset}, protocol {protocol}: {len(table)} clips of {videos} videos",
        do="mgcli data check looks into the files",
    )


def check_weights(project: Project) -> list[Check]:
    """Make the backbone of every modality, with the options and weights that the project file gives it."""
    from mgcli.extract.dataset import choose_protocol

    with suppress(MgcliError):  # of the data: their check says so
        project = replace(project, protocol=choose_protocol(project.dataset, project.protocol or None))
    alike: dict[Check, list[str]] = {}
    for modality in dict.fromkeys([*MODALITIES, *project.extract]):
        alike.setdefault(_check_backbone(modality, project), []).append(modality)
    return [replace(check, name=f"{', '.join(names)} weights") for check, names in alike.items()]


def _check_backbone(modality: str, project: Project) -> Check:
    """The check of one modality, still without its name."""
    from mgcli.extract.device import choose_device
    from mgcli.extract.modality import ModalityConfig, make_backbone
    from mgcli.extract.weights_checkpoint import MissingWeightsError

    options = dict(project.extract.get(modality, {}))
    config = ModalityConfig(
        modality=modality,
        **{name: options.pop(name, None) for name in ("backbone", "tokens", "weights")},
        options=options,
        protocol=project.protocol,
        weights_dir=project.weights,
    )
    try:
        backbone = make_backbone(config, pd.DataFrame({"skeleton": []}), choose_device("cpu"))
    except MissingWeightsError as error:
        return Check(name="", state="warning", found=f"{config.backbone_name} has none here", do=str(error))
    except MgcliError as error:
        where = f"[extract.{modality}] of {project.file}" if modality in project.extract else "the weights file"
        return Check(name="", state="fault", found=str(error), do=f"correct {where}; mgcli weights lists all")
    if backbone.weights.seed is not None:
        return Check(
            name="",
            state="warning",
            found=f"{backbone.name} has {backbone.weights.name}: for trying things out, such tokens mean little",
            do=f"for real ones take weights out of [extract.{modality}] in {project.file}",
        )
    return Check(name="", state="ok", found=f"{backbone.name}: {backbone.weights.path or backbone.weights.name}")
