"""A graph that prepares pictures itself gives the pixels that Pillow gives, whatever the size."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image
from sklearn.datasets import load_sample_images

from surgeon.data.media.pictures import as_values
from surgeon.errors import UnsupportedError
from surgeon.graph import pixels
from surgeon.graph.shapes import input_infos
from surgeon.records import Preprocess

SIZES = (
    *((1, 1), (1, 500), (500, 1), (2, 3), (32, 24), (33, 24), (64, 48), (97, 61), (320, 240)),
    *((50, 700), (700, 50), (641, 427)),
)
"""Width and height: upscaled and downscaled, along both sides or one, and as they are."""
WAYS = [
    {},
    {"fit": "crop"},
    {"resize": "bicubic"},
    {"resize": "nearest", "fit": "crop"},
    {"channels": "L", "mean": (127.5,), "std": (50.0,)},
    {"channels": "BGR", "layout": "NHWC", "fit": "crop", "resize": "bicubic"},
    {"size": (25, 40), "fit": "crop", "scale": 1 / 255, "mean": (0.4, 0.5, 0.6), "std": (0.2,)},
]


def network(how, kind=TensorProto.FLOAT, opset=11):
    """A graph that gives what it takes, of the oldest form."""
    channels = 1 if how.channels == "L" else 3
    shape = ["n", channels, *how.size] if how.layout == "NCHW" else ["n", *how.size, channels]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3)


def session(model):
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def pictures():
    source = Image.fromarray(load_sample_images().images[0])
    random = np.random.default_rng(0)
    for width, height in SIZES:
        yield source.resize((width, height), Image.Resampling.BICUBIC)
        yield Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_pixel_is_pillows(way):
    how = Preprocess(**{"size": (24, 32), **way})
    model = network(how)
    run = session(pixels.embedded(model, "x", how))
    (info,) = input_infos(model)
    for picture in pictures():
        (got,) = run.run(None, {"image": np.asarray(picture)[None]})
        wanted = as_values(picture, how, info)
        np.testing.assert_array_equal(got[0], wanted, err_msg=str(picture.size))


@pytest.mark.parametrize("opset", [12, 13, 18, 21])
@pytest.mark.parametrize("resize", ["bilinear", "bicubic", "nearest"])
def test_newer_opsets_and_batches(opset, resize):
    how = Preprocess(size=(24, 32), resize=resize)
    model = network(how, opset=opset)
    made = pixels.embedded(model, "x", how)
    assert (made.ir_version, made.opset_import) == (model.ir_version, model.opset_import)
    few = np.random.default_rng(0).integers(0, 256, (3, 50, 41, 3), dtype=np.uint8)
    (got,) = session(made).run(None, {"image": few})
    (info,) = input_infos(model)
    wanted = [as_values(Image.fromarray(one), how, info) for one in few]
    np.testing.assert_array_equal(got, np.stack(wanted))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.UINT8])
def test_inputs_of_other_types(kind):
    how = Preprocess(size=(24, 32), layout="NHWC")
    model = network(how, kind, opset=13)
    picture = next(iter(pictures())).resize((60, 50))
    (got,) = session(pixels.embedded(model, "x", how)).run(None, {"image": np.array(picture)[None]})
    (info,) = input_infos(model)
    np.testing.assert_array_equal(got[0], as_values(picture, how, info))


def test_an_opset_that_cannot_is_refused():
    with pytest.raises(UnsupportedError, match="opset 10"):
        pixels.embedded(network(Preprocess(), opset=10), "x", Preprocess())
