"""What a graph that prepares its pictures itself loses, takes and costs, beside Pillow.

`python benchmarks/embedded.py [MODEL.onnx]`: the largest difference in levels, the share of unequal
pixels, how many labels are equal, what decoding JPEGs at a fraction changes, and seconds and memory
of large pictures. Pictures are pieces of photographs that installed packages bring, at 40 sizes of
60 to 2,400 pixels a side.
"""

from __future__ import annotations

import io
import resource
import sys
import time
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from PIL import Image
from sklearn.datasets import load_sample_images

from surgeon import intake
from surgeon.data.media import pictures
from surgeon.graph import pixels
from surgeon.model import load
from surgeon.records import Preprocess, TensorInfo

SIDES = (60, 2400)
COUNT = 40
LARGE_SIDES, LARGE_COUNT = (900, 2400), 24
LARGE = ((1000, 750), (2400, 1600), (6000, 4000))
WAYS = ({}, {"fit": "crop"}, {"resize": "bicubic"}, {"resize": "nearest"}, {"channels": "L"})


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Open a graph on one core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def photographs(sides: tuple[int, int] = SIDES, count: int = COUNT) -> list[Image.Image]:
    """Return photographs at many sizes: resized, and tiled so that every size has detail."""
    sources = [Image.fromarray(one) for one in load_sample_images().images]
    random, found = np.random.default_rng(0), []
    for number in range(count):
        source = sources[number % 2]
        width, height = np.exp(random.uniform(*np.log(sides), 2)).astype(int).tolist()
        if number % 4 < 2:
            found.append(source.resize((width, height), Image.Resampling.BICUBIC))
            continue
        tiled = Image.new("RGB", (width, height))
        for x in range(0, width, source.width):
            for y in range(0, height, source.height):
                tiled.paste(source, (x, y))
        found.append(tiled)
    return found


def passing(how: Preprocess) -> tuple[onnx.ModelProto, TensorInfo]:
    """Return a graph that gives what it takes."""
    shape = ("n", 1 if how.channels == "L" else 3, *how.size)
    values = [helper.make_tensor_value_info(one, TensorProto.FLOAT, shape) for one in "xy"]
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=4)
    return model, TensorInfo("x", "float", shape, 0)


def compare_pixels(images: list[Image.Image]) -> None:
    """Print how far pixels are from Pillow's."""
    for way in WAYS:
        how = Preprocess(**way)
        model, info = passing(how)
        run = session(pixels.embedded(model, "x", how))
        off = [
            np.abs(
                run.run(None, {"image": np.asarray(image)[None]})[0][0]
                - pictures.as_values(image, how, info)
            )
            for image in images
        ]
        largest = max(float(one.max()) for one in off)
        unequal = float(np.mean([np.mean(one > 0) for one in off]))
        print(f"{way or 'stretch'}: {len(off)} pictures, largest difference {largest:g} levels, "
              f"unequal {unequal:.1e}")  # fmt: skip


def compare_labels(path: str, images: list[Image.Image]) -> None:
    """Print how many labels are equal, and what decoding at a fraction changes."""
    model = load(path)
    how = intake.find_preprocess(model)
    assert isinstance(how, Preprocess)
    info = pictures.require_image_input(model.inputs, {})
    before = session(model.proto)
    after = session(pixels.embedded(model.proto, info.name, how))
    same, drafted, levels = 0, 0, []
    for image in images:
        values = pictures.as_values(image, how, info)
        label = before.run(None, {info.name: values[None]})[0].argmax()
        same += after.run(None, {"image": np.asarray(image)[None]})[0].argmax() == label
    print(f"labels equal: {same} of {len(images)}")
    for image in photographs(LARGE_SIDES, LARGE_COUNT):
        jpeg = io.BytesIO()
        image.save(jpeg, "JPEG", quality=90)
        whole, part = (
            pictures._pixels(  # noqa: SLF001 - this measures it
                Image.open(io.BytesIO(jpeg.getvalue())), replace(how, draft=draft)
            )
            for draft in (False, True)
        )
        levels.append(np.abs(whole.astype(int) - part))
        answers = [
            before.run(None, {info.name: pictures.as_values(Image.fromarray(one), how, info)[None]})
            for one in (whole, part)
        ]
        drafted += answers[0][0].argmax() == answers[1][0].argmax()
    largest, mean = max(one.max() for one in levels), np.mean([one.mean() for one in levels])
    print(
        f"JPEGs decoded at a fraction: {len(levels)} pictures, largest difference {largest} "
        f"levels, mean {mean:.2f}, labels equal {drafted}"
    )


def costs() -> None:
    """Print seconds and memory of large pictures."""
    how = Preprocess()
    run = session(pixels.embedded(passing(how)[0], "x", how))
    for width, height in LARGE:
        image = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
        taken = []
        for _ in range(3):
            begun = time.process_time()
            run.run(None, {"image": image})
            taken.append(time.process_time() - begun)
        picture, begun = Image.fromarray(image[0]), time.process_time()
        pictures.fit(picture, how, Image.Resampling.BILINEAR)
        pillow = time.process_time() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{width}x{height}: {1000 * min(taken):.0f} ms on one core, Pillow "
            f"{1000 * pillow:.0f} ms; peak of the process {peak:.0f} MB, the picture "
            f"{image.nbytes / 1e6:.0f}"
        )


if __name__ == "__main__":
    found = photographs()
    compare_pixels(found)
    if sys.argv[1:]:
        compare_labels(sys.argv[1], found)
    costs()
