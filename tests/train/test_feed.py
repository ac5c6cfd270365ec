"""Batches come in order, prepared in the step or ahead of it, and the thread ends with them."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from surgeon.train.augment import augmentation
from surgeon.train.feed import Wanted, bring, feed

CPU = torch.device("cpu")


class Samples:
    """Pictures whose bytes tell which they are."""

    def __init__(self, n=12):
        rng = np.random.default_rng(0)
        self.pixels = torch.from_numpy(rng.integers(0, 256, (n, 3, 8, 8), np.uint8))
        self.targets = np.arange(n, dtype=np.int32) % 3
        self.n = n
        self.vary = augmentation("light")
        self.prepared_in = set()

    def load(self, indices):
        return (self.pixels[torch.from_numpy(indices)], None)

    def augment(self, inputs, seed):
        return (self.vary(inputs[0], seed), inputs[1])

    def prepare(self, inputs):
        self.prepared_in.add(threading.current_thread().name)
        return (inputs[0].float() / 255, inputs[1])


def wanted(*, seeds=True):
    parts = np.array_split(np.arange(12), 4)
    return [Wanted(part, 10 + k if seeds else None) for k, part in enumerate(parts)]


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_come_in_order(ahead):
    samples = Samples()
    found = list(feed(samples, wanted(seeds=False), CPU, np.int64, ahead=ahead))
    assert len(found) == 4
    for k, brought in enumerate(found):
        rows = slice(3 * k, 3 * k + 3)
        assert torch.equal(brought.inputs[0], samples.pixels[rows].float() / 255)
        assert brought.inputs[1] is None
        assert brought.target.dtype == torch.int64
        assert brought.target.tolist() == samples.targets[rows].tolist()
    here = threading.current_thread().name
    assert (here in samples.prepared_in) is not ahead


def test_where_a_batch_is_prepared_changes_no_bit():
    samples = Samples()
    here, there = (
        list(feed(samples, wanted(), CPU, np.int64, ahead=ahead)) for ahead in (False, True)
    )
    plain = list(feed(samples, wanted(seeds=False), CPU, np.int64))
    for a, b, c in zip(here, there, plain, strict=True):
        assert torch.equal(a.inputs[0], b.inputs[0])
        assert not torch.equal(a.inputs[0], c.inputs[0])
    one = bring(samples, wanted()[2], CPU, np.int64)
    assert torch.equal(one.inputs[0], here[2].inputs[0])


def test_variation_leaves_the_generator_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(feed(Samples(), wanted(), CPU, np.int64))
    assert torch.equal(torch.rand(3), expected)


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("surgeon-load")]


@pytest.mark.parametrize("ahead", [False, True])
def test_closing_ends_the_thread(ahead):
    loads = feed(Samples(), wanted(), CPU, np.int64, ahead=ahead)
    next(loads)
    assert threads()
    loads.close()
    assert not threads()


def test_what_loading_raises_is_raised_in_the_step():
    samples = Samples()

    def load(indices):
        if 3 in indices:
            raise OSError("gone")
        return Samples.load(samples, indices)

    samples.load = load
    loads = feed(samples, wanted(), CPU, np.int64)
    next(loads)
    with pytest.raises(OSError, match="gone"):
        next(loads)
    assert not threads()
