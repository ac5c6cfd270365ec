"""What the core lets a plugin say that a detector needs: heads in place, files with answers."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
from networks import convnet
from onnx import numpy_helper
from PIL import Image

import surgeon
from surgeon.errors import PluginError
from surgeon.plugin import hookimpl
from surgeon.plugin.manager import load_plugins
from surgeon.records import Files, HeadKind, Refitted


def again(model, outputs, random, sizes):
    """Give the last Gemm of `convnet` other classes."""
    assert sizes["features"][1:] == (8,)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("fc."):
            shape = (outputs, *tensor.dims[1:])
            tensor.CopyFrom(
                numpy_helper.from_array(random.normal(0, 0.1, shape).astype("f"), tensor.name)
            )
    return Refitted(model, ("fc.weight", "fc.bias"))


def unnamed(model, outputs, random, sizes):
    return Refitted(again(model, outputs, random, sizes).model, ("fc.weight",))


def other_nodes(model, outputs, random, sizes):
    made = again(model, outputs, random, sizes)
    model.graph.node[0].op_type = "Relu"
    return made


def asking(model, outputs, random, colours):
    raise AssertionError(colours)


def failing(model, outputs, random):
    raise KeyError(outputs)


def nothing(model, outputs, random):
    return model


@pytest.fixture
def offered(monkeypatch):
    """Return plugins with a kind of head in place for each function of this file."""

    class Heads:
        @hookimpl
        def surgeon_heads(self):
            for one in (again, unnamed, other_nodes, asking, failing, nothing):
                yield HeadKind(one.__name__, "in place", f"in_place:{one.__name__}", in_place=True)

    module = ModuleType("in_place")
    module.__dict__.update(globals())
    monkeypatch.setitem(sys.modules, "in_place", module)
    plugins = load_plugins()
    plugins.manager.register(Heads(), name="in-place")
    return plugins


def test_a_head_in_place_is_trained_and_proven_without_any_node_of_its_own(offered, tmp_path):
    random = np.random.default_rng(0)
    arrays = {"x": random.random((40, 3, 12, 12), np.float32), "labels": np.arange(40) % 3}
    outcome = surgeon.finetune(
        convnet(), arrays, tmp_path / "tuned.onnx", case="small-similar", head="again", epochs=1,
        plugins=offered,
    )  # fmt: skip
    plan = outcome.document()["plan"]
    assert plan["cut"] == "y"
    assert plan["trainable"] == ["fc.weight", "fc.bias"] == plan["head"]["weights"]
    nodes = [node.op_type for node in outcome.model.proto.graph.node]
    assert nodes == [node.op_type for node in convnet().graph.node]
    assert [one.name for one in outcome.model.proto.graph.output] == ["y"]
    assert surgeon.verify(tmp_path / "tuned.onnx", convnet()).passed


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("unnamed", "fc.bias"), ("other_nodes", "nodes"), ("asking", "colours"),
        ("failing", "KeyError"), ("nothing", "Refitted"),
    ],
)  # fmt: skip
def test_code_of_a_head_in_place_that_does_else_is_refused(offered, head, told):
    with pytest.raises(PluginError) as caught:
        surgeon.operate(convnet(), "small-similar", 3, head=head, plugins=offered)
    assert told in str(caught.value)
    assert head in (caught.value.where or "")


class Listing:
    """Answers in one file beside the pictures: `name label` a line."""

    asked = 0

    @hookimpl
    def surgeon_list_data(self, path):
        self.asked += 1
        told = path / "answers.txt"
        if not told.is_file():
            return None
        lines = [line.split() for line in told.read_text().splitlines()]
        return Files(
            [path / name for name, _ in lines], [label for _, label in lines],
            answers_at=[f"{told}, line {n}" for n, _ in enumerate(lines, 1)], remarks=("listed",),
        )  # fmt: skip


@pytest.fixture
def listed(tmp_path):
    random = np.random.default_rng(0)
    lines = []
    for number in range(24):
        pixels = random.integers(0, 100, (12, 12, 3)) + 150 * (number % 2)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png {'light' if number % 2 else 'dark'}")
    (tmp_path / "answers.txt").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize("given", [ZeroDivisionError, list])
def test_a_plugin_that_fails_to_list_is_named(listed, given):
    class Broken:
        @hookimpl
        def surgeon_list_data(self, path):
            made = given()
            if isinstance(made, Exception):
                raise made
            return made

    plugins = load_plugins()
    plugins.manager.register(Broken(), name="broken")
    with pytest.raises(PluginError) as caught:
        plugins.listed(listed)
    assert "broken" in str(caught.value)
    assert given.__name__ in str(caught.value)


def test_a_plugin_lists_files_and_answers_of_a_folder(listed):
    plugins, listing = load_plugins(), Listing()
    plugins.manager.register(listing, name="listing")
    outcome = surgeon.finetune(
        convnet(), str(listed), case="small-similar", preprocess={"scale": 1 / 255},
        plugins=plugins,
    )  # fmt: skip
    assert outcome.document()["labels"] == ["dark", "light"]
    assert outcome.document()["data"]["samples"] == 24
    assert "listed" in outcome.document()["warnings"]
    asked = listing.asked
    predicted = surgeon.predict(outcome.model, [str(listed)], plugins=plugins)
    assert len(predicted.rows) == 24
    assert listing.asked == asked  # answers are nobody's business where none are wanted
