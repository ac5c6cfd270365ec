"""The class convolutions of a detector are found by what makes its output, and re-dimensioned."""

from __future__ import annotations

import detecting
import networks
import numpy as np
import pytest
import seeing
from onnx import ModelProto, helper, numpy_helper

import surgeon
from surgeon.errors import UnsupportedError, UsageError
from surgeon_detect import classes
from surgeon_detect.follow import Graph

FORMS = {"v8": (detecting.v8, 1, 4), "v5": (detecting.v5, 2, 5), "x": (detecting.x, 2, 5)}
PICTURES = np.random.default_rng(0).random((2, 3, 64, 64), np.float32)


def run(model, pictures=PICTURES):
    (found,) = networks.run(model, {"images": pictures}).values()
    return found


def known(model):
    """Return a copy to be changed, and what is known of its values."""
    anatomy = surgeon.load(model).anatomy()
    copy = ModelProto()
    copy.CopyFrom(anatomy.model)
    return copy, {name: dims for name, (_, dims) in anatomy.shapes.one.items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("batch", "outputs"), [("N", 7), (1, 1)])
def test_the_class_axis_alone_has_another_length_and_boxes_are_as_before(form, batch, outputs):
    build, axis, first = FORMS[form]
    model = build(classes=5, batch=batch)
    operated = surgeon.operate(model, "small-similar", outputs, task="detection")
    before, after = run(surgeon.load(model).anatomy().model), run(operated.proto)
    wanted = list(before.shape)
    wanted[axis] += outputs - 5
    assert list(after.shape) == wanted
    places = range(first)
    assert (np.take(before, places, axis) == np.take(after, places, axis)).all()
    told = np.take(after, range(first, first + outputs), axis)
    assert 0.005 < told.mean() < 0.02  # as every new class begins
    assert operated.plan.head.kind == "detector"
    assert set(operated.trainable) == set(operated.plan.head.weights)
    assert len(operated.trainable) == 4  # weight and bias, at two levels
    assert [n.op_type for n in operated.proto.graph.node] == [
        n.op_type for n in surgeon.load(model).anatomy().model.graph.node
    ]


def test_channels_of_old_classes_go_where_the_new_ones_are():
    """With the old weights copied, every class of the new file is the old one of its place."""
    for build, axis, first in FORMS.values():
        model, sizes = known(build(classes=5))
        form = classes.recognise(model, Graph(model, sizes))
        old = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        made = classes.refit(model, 5, np.random.default_rng(0), sizes).model
        for tensor in made.graph.initializer:
            if tensor.name in old:
                assert tensor.dims == list(old[tensor.name].shape)
                tensor.CopyFrom(numpy_helper.from_array(old[tensor.name], tensor.name))
        assert (form.axis, form.first, form.classes) == (axis, first, 5)
        assert (run(made) == run(build(classes=5))).all()


def suppressed():
    model = detecting.v8()
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.int64([10]), "most"))
    last = graph.output[0].name
    graph.node.append(
        helper.make_node("TopK", [last, "most"], ["best", "places"], name="choose", axis=2)
    )
    graph.output[0].name = "best"
    return model


def without_sigmoid():
    model = detecting.v8()
    node = next(n for n in model.graph.node if n.op_type == "Concat" and "output0" in n.output)
    made = next(n for n in model.graph.node if node.input[1] in n.output)
    node.input[1] = made.input[0]
    return model


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (suppressed, "choose"),
        (without_sigmoid, "no Sigmoid"),
        (lambda: detecting.x(decoded=False), "decoded"),
        (seeing.ssd, "looked for"),
        (seeing.segmenter, "looked for"),
        (seeing.levels, "looked for"),
    ],
)
def test_another_form_is_refused_with_what_was_looked_for(build, named):
    with pytest.raises(UnsupportedError) as caught:
        surgeon.operate(build(), "large-similar", 3, task="detection")
    assert named in str(caught.value)
    assert "YOLO" in (caught.value.remedy or "")


@pytest.mark.parametrize(
    "given", [{"case": "small-different"}, {"case": "large-similar", "cut": "@0.5"}]
)
def test_a_head_in_place_allows_of_no_cut(given):
    with pytest.raises(UsageError, match="stays where it is"):
        surgeon.operate(detecting.v8(), classes=3, task="detection", **given)
