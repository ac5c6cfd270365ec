"""`--size` counts before a cut is chosen and sizes are judged, whatever the file declares."""

from __future__ import annotations

import networks as nw
import numpy as np
import pytest
from PIL import Image

import surgeon


def declaring(height, width):
    """Return a fully convolutional network that declares these sizes of its pictures."""
    net = nw.Net()
    x = net.input("x", ["N", 3, height, width])
    for name, into, out in (("a", 3, 4), ("b", 4, 8), ("c", 8, 16)):
        x = net.node("Relu", nw.conv(net, x, name, out, into, strides=[2, 2]))
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    net.node("Gemm", x, net.weight("w", 5, 16), net.weight("v", 5), out="y", transB=1)
    return net.model("y", shape=["N", 5])


@pytest.fixture
def pictures(tmp_path):
    random = np.random.default_rng(0)
    for number in range(20):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(path)
    return tmp_path


def test_cuts_are_those_at_the_size_asked_for(pictures):
    declared = [(12, 12), (64, 64), (None, None), ("H", "W"), (64, "W")]
    for size in ((12, 12), (24, 40)):
        plans = [
            surgeon.finetune(
                declaring(*one), pictures, case="small-different", preprocess="zero-one",
                size=size, dry_run=True,
            ).document()["plan"]
            for one in declared
        ]  # fmt: skip
        assert len({(plan["cut"], plan["depth"]) for plan in plans}) == 1
    depths = {
        tuple(depth for depth, _ in surgeon.advise(
            declaring(*one), pictures, preprocess="zero-one", size=(24, 40)
        ).evidence.accuracy_by_depth)
        for one in declared[1:4]
    }  # fmt: skip
    assert len(depths) == 1
