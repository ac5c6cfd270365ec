"""An indexed model is known by its content: built on another processor, copied, without a cache."""

import json
import shutil
from types import MappingProxyType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import surgeon
from surgeon.errors import CheckError
from surgeon.intake import find_preprocess
from surgeon_models import content, index, recognise

PICTURE = {
    "layout": "NCHW", "channels": "BGR", "size": [8, 8], "resize": "bilinear",
    "mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0], "scale": 1.0,
}  # fmt: skip
TOKENIZER = {"model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"}}


def make_pictures(factor=1.0):
    draws = np.random.default_rng(0)
    kernel = draws.standard_normal((4, 3, 3, 3)) * factor
    weight = draws.standard_normal((4, 5)) * factor
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "weight"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pictures",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [
            numpy_helper.from_array(values.astype(np.float32), name)
            for name, values in (("kernel", kernel), ("weight", weight))
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.fixture
def use(monkeypatch, tmp_path):
    """Put one model into the index, and an empty cache beside it."""
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))

    def put(model, **facts):
        empty = MappingProxyType({})
        entry = index.Entry(
            name="ours", summary="", task="classification", licence="MIT", sources=(),
            recipe="ours:build", options=empty, sha256="", inputs=empty, notes="",
            structure_sha256=content.structure_sha256(model),
            weights=tuple(content.sample_weights(model)),
            **{"preprocess": None, "labels": None, **facts},
        )  # fmt: skip
        made = index.Index(MappingProxyType({"ours": entry}), empty)
        monkeypatch.setattr(index, "load", lambda: made)
        return entry

    return put


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("factor", [1.0, 1 + 4e-7, 1 - 2e-6])
def test_preprocessing_and_labels_are_found(use, tmp_path, factor, external):
    entry = use(make_pictures(), preprocess=PICTURE, labels=tuple("abcde"))
    options = {"save_as_external_data": True, "location": "w", "size_threshold": 0}
    (tmp_path / "made").mkdir()
    onnx.save(make_pictures(factor), tmp_path / "made" / "m.onnx", **(options if external else {}))
    shutil.copytree(tmp_path / "made", tmp_path / "copied")
    model = surgeon.load(tmp_path / "copied" / "m.onnx")
    assert model.known.name == entry.name
    assert model.labels == list("abcde")
    found = find_preprocess(model)
    assert (found.channels, found.source) == ("BGR", "index")
    operated = surgeon.operate(model, case="small-similar", classes=2)
    assert operated.preprocess.mean == tuple(PICTURE["mean"])


def test_a_tuned_or_cut_file_is_another_model(use, tmp_path):
    use(make_pictures(), preprocess=PICTURE)
    assert surgeon.load(make_pictures(1.001)).known is None
    operated = surgeon.operate(make_pictures(), case="small-similar", classes=5)
    operated.save(tmp_path / "operated.onnx")
    assert surgeon.load(tmp_path / "operated.onnx").known is None


def test_a_copy_without_its_tokenizer_finds_that_of_the_cache(use, tmp_path):
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["e"]),
        helper.make_node("ReduceMean", ["e"], ["y"], axes=[1], keepdims=0),
    ]
    table = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "texts",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", "length"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    rule = {"kind": "text", "tokenizer": "tokenizer.json", "max_length": 7}
    use(model, encoding=rule)
    onnx.save(model, tmp_path / "copy.onnx")
    assert find_preprocess(surgeon.load(tmp_path / "copy.onnx")) is None
    cached = tmp_path / "cache" / "models" / "ours"
    cached.mkdir(parents=True)
    (cached / "tokenizer.json").write_text(json.dumps(TOKENIZER), "utf-8")
    found = find_preprocess(surgeon.load(tmp_path / "copy.onnx"))
    assert (found.max_length, found.source) == (7, "index")


class TestFolding:
    """What an exporter computes is compared with float64."""

    @pytest.fixture
    def network(self):
        torch = pytest.importorskip("torch")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = torch.nn.Sequential(
                torch.nn.Conv2d(3, 4, 3, bias=False),
                torch.nn.BatchNorm2d(4),
                torch.nn.Conv2d(4, 5, 1),
                torch.nn.Flatten(),
                torch.nn.Linear(180, 6),
            )
            network(torch.randn(8, 3, 8, 8))
        return network.eval()

    def stored(self, network, *, wrong=1.0):
        first, norm, second, _, last = network
        factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        weight = first.weight.double() * factor.reshape(-1, 1, 1, 1) * wrong
        bias = norm.bias.double() - norm.running_mean.double() * factor
        tensors = [weight, bias, second.weight, second.bias, last.weight.T, last.bias]
        arrays = [each.detach().float().numpy() for each in tensors]
        graph = helper.make_graph(
            [], "g", [], [], [numpy_helper.from_array(a, str(n)) for n, a in enumerate(arrays)]
        )
        return helper.make_model(graph)

    def test_a_fold_in_float32_is_close(self, network):
        from surgeon_models import folding

        assert folding.compare(network, self.stored(network), "here") < 1e-6

    def test_other_weights_are_refused(self, network):
        from surgeon_models import folding

        with pytest.raises(CheckError, match=r"not the package's: 0 "):
            folding.compare(network, self.stored(network, wrong=1.001), "here")

    def test_a_missing_weight_is_refused(self, network):
        from surgeon_models import folding

        proto = self.stored(network)
        del proto.graph.initializer[5]
        with pytest.raises(CheckError, match="4"):
            folding.compare(network, proto, "here")


def test_a_graph_without_weights_is_no_indexed_model():
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    assert recognise(helper.make_model(graph), "no such hash") is None
