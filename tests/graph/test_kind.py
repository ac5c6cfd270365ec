"""What a file is: by hand-made networks of each kind, and by such as only look like one."""

from __future__ import annotations

import networks as nw
import pytest
import seeing

import surgeon
from surgeon.graph.detector import find_detector, shared
from surgeon.operation import inspect

KINDS = {
    "detector": {
        "boxes and scores": seeing.ssd,
        "suppression": lambda: seeing.ssd(suppressed=True),
        "levels joined": seeing.yolo,
        "levels joined, no neck": lambda: seeing.yolo(classes=1, neck=False),
        "fixed batch": lambda: seeing.yolo(batch=1),
        "raw levels": seeing.levels,
        "raw cells": lambda: seeing.levels(cells=True),
    },
    "segmenter": {
        "softmax": seeing.segmenter,
        "argmax": lambda: seeing.segmenter(end="ArgMax"),
        "one mask": lambda: seeing.segmenter(1, end="Sigmoid"),
        "raw scores of many classes": lambda: seeing.segmenter(21, end="Identity"),
        "two, called scores": lambda: seeing.segmenter(2, end="Identity", name="logits"),
    },
    "classifier": {
        "softmax": lambda: seeing.row(4, "Softmax"),
        "sigmoid": lambda: seeing.row(4, "Sigmoid"),
        "each position": lambda: seeing.row(4, "Softmax", sequence=True),
        "by its name": lambda: seeing.row(4, name="logits"),
        "ImageNet": lambda: seeing.row(1000),
        "squeezenet": nw.squeezenet,
        "beside features": nw.two_outputs,
    },
    "encoder": {
        "pooled": lambda: seeing.row(0),
        "unit length": lambda: seeing.row(6, "unit"),
        "normalised": lambda: seeing.row(6, "LayerNormalization"),
        "each position": lambda: seeing.row(6, "LayerNormalization", sequence=True),
        "by its name": lambda: seeing.row(6, name="embedding"),
        "batch normalisation": nw.batchnorm_last,
    },
    "regressor": {
        "one number": lambda: seeing.row(1),
        "by its name": lambda: seeing.row(3, name="values"),
    },
    "generator": {
        "words": seeing.generator,
        "a picture": seeing.painter,
    },
    "unknown": {
        "raw scores, values or a vector": lambda: seeing.row(4),
        "a bounded number": lambda: seeing.row(1, "Sigmoid", "scale"),
        "a pyramid of features": lambda: seeing.levels(32),
        "a pyramid behind 3x3": lambda: seeing.levels(192, kernel=3),
        "a picture of a picture": lambda: seeing.segmenter(3, end="Sigmoid"),
        "flow": lambda: seeing.segmenter(2, end="Identity", name="y"),
        "features of pixels": lambda: seeing.segmenter(64, end="Identity", name="y"),
        "a raw network": nw.convnet,
    },
}
CASES = [(kind, form) for kind, forms in KINDS.items() for form in forms]


@pytest.mark.parametrize(("kind", "form"), CASES, ids=[f"{k}: {f}" for k, f in CASES])
def test_kind_is_told_with_its_reason(kind, form):
    model = KINDS[kind][form]()
    nw.session(model)  # a network that runs
    body = inspect(model)
    assert (body["kind"], bool(body["reason"])) == (kind, True), body["reason"]


def test_labels_in_the_file_make_raw_scores_classes():
    model = seeing.row(3)
    model.metadata_props.add(key="surgeon.labels", value='["a", "b", "c"]')
    assert inspect(model)["kind"] == "classifier"


@pytest.mark.parametrize("make", [seeing.ssd, seeing.yolo])
def test_all_heads_of_a_detector_are_found(make):
    anatomy = surgeon.load(make()).sketch()
    found = find_detector(anatomy.model, anatomy.shapes)
    assert len(found.heads) == 6
    values = shared(found.heads, anatomy.model, anatomy.shapes, anatomy.links)
    assert len(values) == 1
