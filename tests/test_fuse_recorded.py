"""Steps that are recorded and repeated, as on a GPU, by a recorder that does so on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from recorded_operations import Recorder, address
from test_fuse_loop import SETTINGS, TRAIN, TRAINED, VAL
from test_fuse_replicas import DIMS, OPTIONS, even_clips, make_clips, make_replicas
from torch import Tensor

from mgcli.fuse import HeadOutput
from mgcli.fuse import loop as loop_module
from mgcli.fuse.data import ClipTensors
from mgcli.fuse.head_baselines import Concat
from mgcli.fuse.loop import Replica, Training
from mgcli.fuse.stack import Stack
from mgcli.fuse.stack_single import SingleHead
from mgcli.fuse.stack_vmap import VmapStack

SAME: list[dict[str, Any]] = [{"grad_clip": 0.1}, {"learning_rate": 3e-3, "ema": 0.9, "dropout": 0.3}]


class LookingHead(Concat):
    """A user's head that looks at a number in every pass."""

    def forward(self, tokens: Any, mask: Any, time: Any) -> HeadOutput:
        output = super().forward(tokens, mask, time)
        return HeadOutput(output.logits * 2 if float(output.logits.detach().sum()) > 0 else output.logits)


class CountingHead(Concat):
    """A user's head that is not what it says: it counts its passes."""

    passes = 0

    def forward(self, tokens: Any, mask: Any, time: Any) -> HeadOutput:
        self.passes += 1
        return HeadOutput(super().forward(tokens, mask, time).logits / (1 + self.passes))


class OwnHead(Concat):
    """A user's head that does not say whether it is steady."""

    steady = False


def train(
    replicas: Sequence[Replica],
    clips: ClipTensors,
    together: bool,
    say: Callable[[str], None] = lambda text: pytest.fail(text),
) -> list[dict[str, Tensor]]:
    """The states of heads after their training."""
    if together:
        stack: Stack = VmapStack([each.head for each in replicas], clips.labels.device)
        list(Training(list(enumerate(replicas)), stack, clips, say=say).run())
    else:
        for each in replicas:
            with SingleHead(each.head, clips.labels.device) as stack:
                list(Training([(0, each)], stack, clips, say=say).run())
    return [{name: own.clone() for name, own in each.head.state_dict().items()} for each in replicas]


def check_same(name: str, clips: ClipTensors, options: Any, together: bool, monkeypatch: Any, **more: Any) -> Recorder:
    """A training with a recorder is, number for number, one without."""
    rows = TRAIN.repeat(2)[:68]  # 8 batches of 8, and one of 4
    made = [make_replicas(name, clips, options, rows, VAL, **SETTINGS | more) for _ in range(2)]
    usual = train(made[0], clips, together)
    recorder = Recorder()
    monkeypatch.setattr(loop_module, "recorder_of", lambda device: recorder)
    for own, each in zip(train(made[1], clips, together), usual, strict=True):
        for key in each:
            assert torch.equal(own[key], each[key]), key
    return recorder


BATCH_NORM = "test_fuse_replicas:BatchNormHead"
EACH = [(name, together) for name in [*TRAINED, BATCH_NORM] for together in (False, True)]


@pytest.mark.parametrize(("name", "together"), EACH)
def test_a_repeated_step_is_a_usual_one(name: str, together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = even_clips({"video": 12} if name == "single" else DIMS, 100)
    recorder = check_same(name, clips, SAME, together, monkeypatch)
    trainings = 1 if together else len(SAME)
    assert recorder.recorded == trainings * 2  # a full batch, and the last of an epoch
    # Of 27 steps the first 2 full and the first 2 last ones are usual; each graph is tried once.
    assert recorder.repeated == trainings * (27 - 4 + 2)


@pytest.mark.parametrize("together", [False, True])
def test_whatever_differs_between_replicas(together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of many lengths, some thinned, two views, mixup and so on; one that ends early leaves the graph."""
    recorder = check_same(
        "cross_modal_token_fusion", make_clips(DIMS, 100, views=2), OPTIONS, together, monkeypatch, epochs=5
    )
    assert recorder.repeated > recorder.recorded > 1


def test_a_graph_reads_nothing_that_may_be_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's graph reads addresses: what it reads must be kept by the training, or by the graph itself."""
    clips = even_clips(DIMS, 100)
    replicas = make_replicas("cross_modal_token_fusion", clips, SAME, TRAIN, VAL, **SETTINGS | {"epochs": 5})
    recorder = Recorder()
    monkeypatch.setattr(loop_module, "recorder_of", lambda device: recorder)
    stack = VmapStack([each.head for each in replicas], clips.labels.device)
    training = Training(list(enumerate(replicas)), stack, clips)
    training._train_epoch(0)
    training._train_epoch(1)
    act: Any = training._act
    kept = [*training._moved(), *stack._buffers.values(), *vars(training._loss).values()]
    kept += [training._optimizer._decays, stack._read, *(each for g in act._graphs.values() for each in g._inputs)]
    assert recorder.recorded == 1
    assert set(recorder.outside) <= {address(each) for each in kept}


@pytest.mark.parametrize(
    ("name", "said"),
    [("LookingHead", "not permitted when stream is capturing"), ("CountingHead", "leaves other numbers than a usual")],
)
def test_what_cannot_be_recorded_goes_on_as_usual(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = even_clips(DIMS, 100)
    replicas = make_replicas(f"test_fuse_recorded:{name}", clips, [{}], TRAIN, VAL, **SETTINGS)
    recorder = Recorder()
    monkeypatch.setattr(loop_module, "recorder_of", lambda device: recorder)
    heard: list[str] = []
    train(replicas, clips, together=False, say=heard.append)
    assert len(heard) == 1
    assert heard[0].startswith("training steps are not recorded as a graph: ")
    assert said in heard[0]
    if name == "LookingHead":  # the other one has counted its passes in the recording, too
        (usual,) = make_replicas(f"test_fuse_recorded:{name}", clips, [{}], TRAIN, VAL, **SETTINGS)
        monkeypatch.undo()
        (expected,) = train([usual], clips, together=False)
        for key, own in replicas[0].head.state_dict().items():
            assert torch.equal(own, expected[key])


def test_a_stack_that_cannot_be_recorded_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when some have left it."""
    clips = even_clips(DIMS, 100)
    options: list[dict[str, Any]] = [{}, {"epochs": 2}, {"epochs": 3}]
    name, settings = "test_fuse_recorded:CountingHead", SETTINGS | {"epochs": 4}
    recorder = Recorder()
    monkeypatch.setattr(loop_module, "recorder_of", lambda device: recorder)
    heard: list[str] = []
    train(make_replicas(name, clips, options, TRAIN, VAL, **settings), clips, together=True, say=heard.append)
    assert len(heard) == recorder.recorded == 1


@pytest.mark.parametrize(("name", "setting"), [("test_fuse_recorded:OwnHead", "auto"), ("concat", "off")])
def test_only_a_steady_head_is_recorded_and_only_if_wanted(
    name: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = even_clips(DIMS, 100)
    recorder = Recorder()
    monkeypatch.setattr(loop_module, "recorder_of", lambda device: recorder)
    train(make_replicas(name, clips, [{}], TRAIN, VAL, **SETTINGS | {"graphs": setting}), clips, together=False)
    assert recorder.recorded == 0
