"""An offer that small networks are not for brings an example, and is checked on that."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from torch.nn import functional

import surgeon
from surgeon import testing
from surgeon.media import UnreadableError, ValueSamples
from surgeon.records import Example, Loss, Medium

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "plugins.md").read_text("utf-8")
APART = ("surgeon-lora", "surgeon-batchnorm", "surgeon-qat", "surgeon-distill", "surgeon-detect",
         "surgeon-multi", "surgeon-track")  # fmt: skip


def code(section, place):
    """Return the functions of a block of the page, without the hook behind them."""
    blocks = re.findall(
        r"```python\n(.*?)```", PAGE.split(f"## {section}\n")[1].split("\n## ")[0], re.DOTALL
    )
    return blocks[place].split("@hookimpl")[0]


@pytest.fixture
def package(monkeypatch):
    """Return a module whose code offers name."""
    module = ModuleType("their_examples")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.fixture
def near(package):
    """Return the loss of the page, as it stands there."""
    package.__dict__.update(
        np=np, onnx=onnx, functional=functional, testing=testing, Example=Example, surgeon=surgeon
    )
    exec(code("A loss that asks for more", 0), package.__dict__)
    exec(code("Checking a plugin", -1), package.__dict__)

    def offer(example="example"):
        where = f"{package.__name__}:"
        return Loss("near", "near another file", f"{where}near", beside=f"{where}answers",
                    example=f"{where}{example}")  # fmt: skip

    return offer


def held(offer, **given):
    return {one.name: one for one in testing.examine(offer, models=(), **given)}


def test_the_example_of_the_guide_is_what_its_loss_is_tried_on(near):
    found = held(near())
    assert all(one.passed for one in found.values())
    assert found["the same seed gives the same bits"].detail == "1 model"
    assert found["bad options are refused in clear words"].passed


def test_without_it_the_loss_could_not_be_tried(near):
    alone = testing.examine(Loss("near", "near another file", near().code), models=["tabular"])
    assert not next(one for one in alone if one.name.startswith("its settings")).passed


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda folder: 3, "TypeError"),
        (lambda folder: [], "no Example"),
        (lambda folder: ["x"], "str"),
        (lambda folder: 1 / 0, "ZeroDivisionError"),
        (lambda folder: Example(folder / "nowhere.onnx", {}, "file=x"), "no such"),
        (lambda folder: Example(testing.NETWORKS["tabular"](), {}, "file=x"), "graph input x"),
    ],
)
def test_an_example_that_does_not_do_fails(near, package, made, words):
    package.made = made
    (failed,) = (one for one in held(near("made")).values() if not one.passed)
    assert failed.name == "runs on the examples that it brings"
    assert words in failed.detail


def test_a_medium_is_tried_on_the_files_of_its_example(package):
    class Rows(ValueSamples):
        def __init__(self, given):
            super().__init__(given)
            (self._info,) = self.inputs

        @classmethod
        def takes(cls, inputs, constants):
            return [info.shape[1:] for info in inputs] == [(8,)]

        def _value(self, index):
            try:
                return np.array(self._content(index).split(), np.float32).reshape(8)
            except ValueError:
                raise UnreadableError("not eight numbers") from None

        def _nothing(self):
            return np.zeros((0, 8), np.float32)

        def _rule(self):
            return {"rows": 8}

    def files(folder):
        for number in range(30):
            path = folder / "ab"[number % 2] / f"{number}.row8"
            path.parent.mkdir(exist_ok=True)
            path.write_text(" ".join(map(str, np.random.default_rng(number).normal(size=8))))
        return Example(testing.NETWORKS["tabular"](), folder)

    package.Rows, package.files = Rows, files
    medium = Medium("row8", "eight numbers a file", f"{package.__name__}:Rows", (".row8",),
                    example=f"{package.__name__}:files")  # fmt: skip
    found = held(medium)
    assert all(one.passed for one in found.values()), found
    assert found["the file is judged"].detail == "1 model"


@pytest.mark.parametrize("offer", testing.offers(*APART[:-2]), ids=lambda one: one.offer.name)
def test_what_lies_beside_surgeon_keeps_the_rules(offer):
    testing.check(offer, models=() if offer.offer.example else ["convolutional"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["surgeon-distill", "surgeon-detect", "surgeon-track"])
def test_each_distribution_passes_the_command(name, capsys):
    from surgeon.cli import main

    assert main(["plugins", "check", name, "--json"]) == 0, capsys.readouterr().out
