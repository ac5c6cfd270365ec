"""A file that prepares its pictures itself: the answers of the file it was made from."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import surgeon
from surgeon.errors import UsageError


@pytest.fixture(scope="module")
def embedded(tuned, tmp_path_factory):
    out = tmp_path_factory.mktemp("embedded") / "embedded.onnx"
    surgeon.export(tuned, out, embed_preprocess=True)
    return out


def test_answers_of_pictures_of_all_sizes_and_kinds(tuned, embedded, few):
    before, after = (surgeon.predict(path, few) for path in (tuned, embedded))
    assert after.labels == before.labels
    np.testing.assert_allclose(after.probabilities, before.probabilities, atol=1e-6)
    some = few[:8]
    again = surgeon.predict(embedded, some, batch=len(some), threads=1)
    np.testing.assert_allclose(again.probabilities, before.probabilities[:8], atol=1e-6)


def test_the_file_says_so_and_proves_it(tuned, embedded):
    found = surgeon.load(embedded)
    stated = json.loads(
        next(e.value for e in found.proto.metadata_props if e.key == "surgeon.preprocess")
    )
    assert stated["embedded"] is True
    assert found.preprocess.embedded
    assert [(info.dtype, info.shape[1:]) for info in found.inputs] == [
        ("uint8", ("height", "width", 3))
    ]
    assert surgeon.verify(embedded).passed
    assert found.proof["exported"]["forms"] == ["embed-preprocess"]
    source = onnx.load(tuned)
    assert (found.stored.ir_version, found.stored.opset_import) == (
        source.ir_version, source.opset_import,
    )  # fmt: skip


def test_pixels_are_given_as_they_are(tuned, embedded, few):
    with Image.open(few[0]) as file:
        picture = np.array(file.convert("RGB"))[None]
    (label,) = surgeon.predict(embedded, picture).labels
    assert label == surgeon.predict(tuned, few[0]).labels[0]


@pytest.mark.parametrize(
    "forms",
    [
        {"fp16": True},
        {"batch": 2, "size": "64x64"},
        {"opset": 18, "probabilities": True, "fp16": True},
    ],
    ids=str,
)
def test_together_with_other_forms(tuned, few, tmp_path, forms):
    out = tmp_path / "out.onnx"
    surgeon.export(tuned, out, embed_preprocess=True, **forms)
    assert surgeon.verify(out).passed
    some = [one for one in few if "huge" not in one][:10]
    before, after = surgeon.predict(tuned, some), surgeon.predict(out, some)
    assert after.labels == before.labels
    np.testing.assert_allclose(after.probabilities, before.probabilities, atol=1e-2)


def test_nothing_is_done_twice(embedded, few, tmp_path):
    with pytest.raises(UsageError, match="already"):
        surgeon.export(embedded, tmp_path / "o.onnx", embed_preprocess=True)
    with pytest.raises(UsageError, match="itself"):
        surgeon.finetune(embedded, few, case="small-similar")
    with pytest.raises(UsageError, match="itself"):
        surgeon.predict(embedded, few, size="32x32")
    with pytest.raises(UsageError, match="itself"):
        surgeon.predict(embedded, few, preprocess="imagenet")


def test_a_file_without_pictures_has_nothing_to_embed(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.ones((4, 2), np.float32), "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(UsageError, match="nothing in the file"):
        surgeon.export(model, tmp_path / "o.onnx", embed_preprocess=True)


@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_masks_come_back_at_the_size_of_the_picture(tmp_path, fit):
    how = {"layout": "NCHW", "channels": "L", "size": [8, 8], "resize": "bilinear", "fit": fit}
    told = {
        "surgeon.plan": {"case": "small-similar", "task": "segmentation", "outputs": 2},
        "surgeon.labels": ["dark", "light"],
        "surgeon.preprocess": how | {"mean": [127.5], "std": [127.5]},
    }
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "signs"], ["logits"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2, 8, 8])],
        [numpy_helper.from_array(np.float32([-9, 9]).reshape(1, 2, 1, 1), "signs")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {name: json.dumps(value) for name, value in told.items()})
    onnx.save(model, tmp_path / "seg.onnx")
    surgeon.export(tmp_path / "seg.onnx", tmp_path / "out.onnx", embed_preprocess=True)
    random, names = np.random.default_rng(0), []
    for number, size in enumerate([(20, 30), (31, 17), (8, 8)]):
        names.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(random.integers(0, 2, size, dtype=np.uint8) * 255).save(names[-1])
    masks = []
    for name in ("seg", "out"):
        surgeon.predict(tmp_path / f"{name}.onnx", names, masks=tmp_path / name)
        masks.append([np.array(Image.open(one)) for one in sorted((tmp_path / name).iterdir())])
    for one, other, name in zip(*masks, names, strict=True):
        np.testing.assert_array_equal(one, other)
        with Image.open(name) as picture:
            assert one.shape == picture.size[::-1]


def test_in_8_bits_and_simplified_it_still_prepares_its_pictures(tuned, few, tmp_path):
    out, some = tmp_path / "out.onnx", [one for one in few if "huge" not in one]
    body = surgeon.export(
        tuned, out, embed_preprocess=True, int8=some, opset=18, probabilities=True,
        optimize="extended",
    )  # fmt: skip
    assert body["forms"] == [
        "opset=18", "int8", "probabilities", "embed-preprocess", "optimize=extended",
    ]  # fmt: skip
    assert surgeon.verify(out, source=tuned).passed
    before, after = (surgeon.predict(path, some) for path in (tuned, out))
    assert np.mean(np.array(after.labels) == np.array(before.labels)) >= 0.9
