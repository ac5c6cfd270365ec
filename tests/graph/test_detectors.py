"""Detectors: their cuts lie in front of the detection heads, and tasks train on what is there."""

from __future__ import annotations

import networks as nw
import numpy as np
import onnx
import pytest
import seeing

import surgeon
from surgeon.graph.walk import ancestors

DETECTORS = {
    "boxes and scores": (seeing.ssd, "stage1.out"),
    "suppression": (lambda: seeing.ssd(suppressed=True), "stage1.out"),
    "a neck": (seeing.yolo, "stage3.out"),
    "fixed batch": (lambda: seeing.yolo(batch=1), "stage3.out"),
    "raw levels": (seeing.levels, "stage1.out"),
}


@pytest.mark.parametrize("form", DETECTORS)
def test_the_late_cut_is_the_last_value_that_all_heads_read(form):
    make, shared = DETECTORS[form]
    model = surgeon.load(make())
    anatomy = model.anatomy()
    assert (anatomy.late, anatomy.cuts[-1].tensor, anatomy.cuts[-1].depth) == (shared, shared, 1.0)
    heads = [
        node for node in anatomy.model.graph.node
        if node.op_type == "Conv" and node.input[1].startswith(("box", "cls", "head"))
    ]  # fmt: skip
    assert len(heads) >= 3
    for head in heads:
        front = ancestors(anatomy.model.graph, head.input)
        assert any(shared in node.output for node in front)
    (said,) = [note for note in anatomy.notes if "detector" in note]
    assert shared in said


def test_a_new_head_learns_on_a_detectors_backbone(tmp_path):
    source = tmp_path / "yolo.onnx"
    onnx.save(seeing.yolo(), source)
    labels = np.arange(40) % 2
    noise = np.random.default_rng(0).standard_normal((40, 3, seeing.SIDE, seeing.SIDE))
    data = {"x": (noise + 2 * labels[:, None, None, None]).astype(np.float32), "labels": labels}
    out = tmp_path / "tuned.onnx"
    done = surgeon.finetune(source, data, out, case="small-similar", epochs=1)
    assert done.metrics["validation"]["accuracy"] > 0.8
    assert sum("detector" in note for note in done.body["warnings"]) == 1
    assert surgeon.verify(out, source=source).passed
    kinds = {node.op_type for node in done.model.proto.graph.node}
    assert "Resize" not in kinds  # the neck is gone


def test_what_lies_behind_can_be_named():
    model = surgeon.load(seeing.ssd())
    operated = surgeon.operate(model, "small-similar", classes=2, cut="stage3.out")
    assert operated.plan.depth > 1
    given = nw.feeds(model.proto, batch=2)
    assert nw.run(operated.proto, given)["logits"].shape == (2, 2)


def test_an_output_that_was_named_counts_as_before():
    model = surgeon.load(seeing.ssd()).with_output("scores")
    assert model.anatomy().output == "scores"
    assert not any("detector" in note for note in model.anatomy().notes)


def test_a_classifier_keeps_its_cuts():
    anatomy = surgeon.load(nw.convnet()).anatomy()
    assert (anatomy.late, anatomy.missing) == ("features", None)
