"""Parameters that learn in place of an initializer: adapters, folded back under its name."""

from __future__ import annotations

import networks as nw
import numpy as np
import pytest
import torch
from classes import fit
from torch import nn
from torch.nn.utils import parametrize

import surgeon
from surgeon.errors import UnknownNameError, UsageError
from surgeon.train.settings import Checkpoint, FitSettings, Progress

SETTINGS = FitSettings(device="cpu", epochs=3, batch=8, lr=0.02, lr_decay=0.5, patience=0)


class LowRank(nn.Module):
    """A weight plus a product of two thin matrices, the second zero at first."""

    def __init__(self, weight, rank=2):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        width = weight[0].numel()
        self.down = nn.Parameter(torch.randn(rank, width, generator=generator) / width**0.5)
        self.up = nn.Parameter(torch.zeros(len(weight), rank))

    def forward(self, weight):
        return weight + (self.up @ self.down).view_as(weight)


class Pictures:
    def __init__(self, n=48, seed=0):
        rng = np.random.default_rng(seed)
        self.n, self.targets = n, np.arange(n) % 3
        centres = np.random.default_rng(7).standard_normal((3, 3, 12, 12))
        x = centres[self.targets] + rng.standard_normal((n, 3, 12, 12))
        self.x = torch.from_numpy(x.astype(np.float32))

    def load(self, indices):
        return (self.x[torch.from_numpy(indices)],)


def adapted():
    """Return the operated model, its module with one adapted convolution, and the names."""
    model = surgeon.operate(nw.convnet(), case="large-similar", classes=3)
    module = surgeon.to_torch(model)
    weight = next(n for n in model.trainable if surgeon.tensors(module)[n].ndim == 4)
    scope, leaf = module.site(weight)
    parametrize.register_parametrization(scope, leaf, LowRank(surgeon.tensors(module)[weight]))
    learning = [
        name
        for name, _ in module.named_parameters()
        if "parametrizations" in name and not name.endswith(".original")
    ]
    return model, module, weight, learning


def test_an_adapter_learns_and_folds_into_its_initializer():
    model, module, weight, learning = adapted()
    before = {name: tensor.clone() for name, tensor in surgeon.tensors(module).items()}
    result = fit(
        module, Pictures(), Pictures(24, 1), trainable={weight: learning}, settings=SETTINGS
    )
    assert result.best["validation_loss"] < result.history[0]["validation_loss"]
    after = surgeon.tensors(module)
    assert [name for name in before if not torch.equal(before[name], after[name])] == [weight]
    assert int(torch.linalg.matrix_rank((after[weight] - before[weight]).flatten(1))) <= 2
    written = surgeon.write_back(model, after)
    assert {n.name for n in written.graph.initializer} == set(before)
    x = Pictures(4).x
    (found,) = nw.run(written, {module.input_names[0]: x.numpy()}).values()
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), module(x), rtol=1e-4, atol=1e-4)


def test_its_rate_is_that_of_the_depth_of_its_initializer():
    moved = {}
    for depth in (1.0, 0.9):
        _, module, weight, learning = adapted()
        before = surgeon.tensors(module)[weight].clone()
        settings = FitSettings(
            device="cpu", optimizer="sgd", lr=0.1, lr_decay=0.5, depths={weight: depth}, clip=None,
            constant_rate=True, max_steps=1, keep="last",
        )  # fmt: skip
        fit(module, Pictures(), None, trainable={weight: learning}, settings=settings)
        moved[depth] = float((surgeon.tensors(module)[weight] - before).norm())
    assert moved[0.9] == pytest.approx(0.5 * moved[1.0], rel=1e-3)


def test_it_goes_on_from_a_checkpoint(tmp_path):
    def interrupt(progress: Progress):
        if progress.epoch == 2 and progress.step == 8:
            raise KeyboardInterrupt

    _, straight, weight, learning = adapted()
    fit(straight, Pictures(), None, trainable={weight: learning}, settings=SETTINGS)
    for report in (interrupt, None):
        _, module, weight, learning = adapted()
        fit(
            module, Pictures(), None, trainable={weight: learning}, settings=SETTINGS,
            progress=report, checkpoint=Checkpoint(tmp_path, resume=True),
        )  # fmt: skip
    assert torch.equal(surgeon.tensors(straight)[weight], surgeon.tensors(module)[weight])


def test_what_is_not_there_is_named():
    _, module, weight, _ = adapted()
    with pytest.raises(UnknownNameError):
        fit(module, Pictures(), None, trainable=[weight], settings=SETTINGS)
    with pytest.raises(UsageError, match="nothing is trainable"):
        fit(module, Pictures(), None, trainable={weight: []}, settings=SETTINGS)
