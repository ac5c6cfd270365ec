"""Seconds to convert an ONNX file to a torch module, against other converters, in one run.

Runs alternate, so that what else the machine does meets all alike; the median counts. A converter
that is not installed, or that fails on a graph, is said to. From reading the proto in memory to the
module; `surgeon` includes normalisation.
"""

from __future__ import annotations

import importlib.util
import io
import statistics
import sys
import time
import types
import warnings

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

import surgeon
import surgeon_models

RUNS = 5


def long_graph(nodes: int = 3600) -> onnx.ModelProto:
    """Return a chain of Add and Relu, with a weight for every Add."""
    random = np.random.default_rng(0)
    steps, weights, last = [], [], "x"
    for number in range(nodes // 2):
        name = f"layer{number}.weight"
        weights.append(numpy_helper.from_array(random.normal(size=8).astype("f"), name))
        steps.append(helper.make_node("Add", [last, name], [f"a{number}"], f"add{number}"))
        steps.append(helper.make_node("Relu", [f"a{number}"], [f"r{number}"], f"relu{number}"))
        last = f"r{number}"
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8]) for n in ("x", last))
    graph = helper.make_graph(steps, "long", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def vision_transformer() -> onnx.ModelProto:
    """Return the encoder of ViT-B/16: 12 layers of width 768 on 197 tokens."""
    layer = torch.nn.TransformerEncoderLayer(768, 12, 3072, batch_first=True, norm_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 12, enable_nested_tensor=False).train()
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            encoder, (torch.randn(1, 197, 768),), stream, dynamo=False, opset_version=17
        )
    return onnx.load_from_string(stream.getvalue())


def converters() -> dict[str, object]:
    found = {"surgeon": surgeon.to_torch}
    if importlib.util.find_spec("onnx2torch"):
        if not importlib.util.find_spec("torchvision"):
            # It imports torchvision for two operators of detection, which no graph here has.
            for module in ("torchvision", "torchvision.ops"):
                sys.modules[module] = types.ModuleType(module)
            sys.modules["torchvision.ops"].roi_align = None
        from onnx2torch import convert

        found["onnx2torch"] = convert
    if importlib.util.find_spec("onnx2pytorch"):
        from onnx2pytorch import ConvertModel

        found["onnx2pytorch"] = ConvertModel
    return found


def copied(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy: some converters write into what they are given."""
    twin = onnx.ModelProto()
    twin.CopyFrom(proto)
    return twin


def main() -> None:
    warnings.simplefilter("ignore")
    graphs = {
        "ResNet-50": onnx.load(surgeon_models.get("light-resnet50")),
        "ViT-B/16 encoder": vision_transformer(),
        "3,600 nodes": long_graph(),
    }
    ways = converters()
    print(f"| graph | {' | '.join(ways)} |\n|---|{'---|' * len(ways)}")
    for name, proto in graphs.items():
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        failed: dict[str, str] = {}
        for _ in range(RUNS):
            for way, convert in ways.items():
                if way in failed:
                    continue
                given = copied(proto)
                start = time.perf_counter()
                try:
                    convert(given)
                except Exception as error:  # noqa: BLE001 - another project's failure is a result
                    failed[way] = type(error).__name__
                seconds[way].append(time.perf_counter() - start)
        cells = [failed.get(way) or f"{statistics.median(seconds[way]):.3f} s" for way in ways]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
