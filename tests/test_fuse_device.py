"""A training on another device than the CPU: torch's meta device knows shapes, and what lies elsewhere is found out."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from test_fuse_loop import SETTINGS, TRAINED
from test_fuse_replicas import DIMS, OPTIONS, even_clips, make_replicas
from torch import Tensor

from mgcli.fuse import watch
from mgcli.fuse.loop import Training
from mgcli.fuse.stack_single import SingleHead
from mgcli.fuse.stack_vmap import VmapStack

META = torch.device("meta")


class MetaGenerator(torch.Generator):
    """One of a CPU, as there is no other, that says it is of the meta device."""

    device = META  # type: ignore[assignment]


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", TRAINED)
def test_all_that_a_training_uses_lies_on_its_device(
    name: str, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = even_clips({"video": 12} if name == "single" else DIMS, 100)
    rows = torch.arange(40), torch.arange(40, 100)
    options = OPTIONS[:5] if together else [OPTIONS[1] | OPTIONS[2] | OPTIONS[4]]
    replicas = make_replicas(name, clips, options, *rows, MetaGenerator, **SETTINGS)
    there = clips.to(META)
    there._extremes = clips._extremes  # type: ignore[misc]
    # What looks at numbers, once or at the end of an epoch, finds none.
    monkeypatch.setattr(watch, "majority_share", lambda labels: 0.3)
    monkeypatch.setattr(Tensor, "bincount", lambda self, minlength=4: torch.ones(minlength, device=META).long())
    monkeypatch.setattr(Tensor, "cpu", lambda self: torch.zeros(self.shape))
    heads = [each.head if together else each.head.to(META) for each in replicas]
    stack = VmapStack(heads, META) if together else SingleHead(heads[0], META)
    with stack if isinstance(stack, SingleHead) else nullcontext():
        training = Training(list(enumerate(replicas)), stack, there)
        losses, right = training._train_epoch(0)
    assert losses.shape == (len(options), 5)
    assert right.shape == (len(options),)
    assert {each.device for each in training._moved()} == {META}
