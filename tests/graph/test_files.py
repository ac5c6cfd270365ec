"""Files: what is broken is named in one error, and nothing is ever half-written."""

from __future__ import annotations

import errno
import hashlib

import networks as nw
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import surgeon
from surgeon.errors import EnvironmentLacksError, ModelError, OutputError, SurgeonError
from surgeon.graph import files


def refuse(path, match):
    with pytest.raises(ModelError, match=match) as caught:
        surgeon.load(path)
    assert caught.value.exit == 2
    assert str(path) in str(caught.value)
    assert caught.value.remedy


def test_what_is_no_model_is_named(tmp_path):
    refuse(tmp_path / "absent.onnx", "no such")
    refuse(tmp_path, "folder")
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(b"")
    refuse(empty, "empty")
    text = tmp_path / "text.onnx"
    text.write_text("this is a letter, not a network")
    refuse(text, "not an ONNX model")
    picture = tmp_path / "picture.onnx"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refuse(picture, "not an ONNX model")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, share):
    content = nw.residual().SerializeToString()
    path = tmp_path / "cut.onnx"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError) as caught:
        surgeon.load(path).anatomy()
    assert caught.value.exit == 2


def test_other_messages_are_refused(tmp_path):
    path = tmp_path / "tensor.onnx"
    path.write_bytes(numpy_helper.from_array(np.arange(3), "x").SerializeToString())
    with pytest.raises(ModelError):
        surgeon.load(path)
    with pytest.raises(ModelError):
        surgeon.load(onnx.ModelProto())
    with pytest.raises(SurgeonError):
        surgeon.load(3)


@pytest.fixture
def external(tmp_path):
    model = nw.convnet()
    path = tmp_path / "net.onnx"
    onnx.save_model(
        nw.convnet(), str(path), save_as_external_data=True, location="net.data", size_threshold=0
    )
    return path, model


def test_external_data_is_read(external):
    path, model = external
    loaded = surgeon.load(path)
    for tensor, wanted in zip(loaded.proto.graph.initializer, model.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), numpy_helper.to_array(wanted))
    assert loaded.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    inputs = nw.feeds(model)
    np.testing.assert_array_equal(nw.run(loaded.proto, inputs)["y"], nw.run(model, inputs)["y"])


def test_external_data_of_an_attribute_is_read(tmp_path):
    net = nw.Net()
    x = net.input("x", ["N", 4])
    value = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "w")
    net.nodes.append(helper.make_node("Constant", [], ["w"], value=value))
    net.node("MatMul", x, "w", out="y")
    model = net.model("y", shape=["N", 3])
    wanted = nw.run(model, nw.feeds(model))["y"]
    path = tmp_path / "net.onnx"
    onnx.save_model(
        model, str(path), save_as_external_data=True, location="net.data", size_threshold=0,
        convert_attribute=True,
    )  # fmt: skip
    loaded = surgeon.load(path)
    assert [t.name for t in loaded.proto.graph.initializer] == ["w"]
    np.testing.assert_array_equal(nw.run(loaded.proto, nw.feeds(model))["y"], wanted)
    (tmp_path / "net.data").unlink()
    with pytest.raises(ModelError, match="missing"):
        surgeon.load(path)


def test_external_data_that_is_missing_short_or_elsewhere(external, tmp_path):
    path, _ = external
    data = tmp_path / "net.data"
    content = data.read_bytes()
    data.write_bytes(content[:-40])
    refuse(path, "external data")
    data.unlink()
    refuse(path, "missing")
    (tmp_path.parent / "outside.data").write_bytes(content)
    for location in ("../outside.data", str(tmp_path.parent / "outside.data")):
        model = onnx.load(str(path), load_external_data=False)
        for tensor in model.graph.initializer:
            tensor.external_data[0].value = location
        path.write_bytes(model.SerializeToString())
        refuse(path, "outside")


def test_saving_is_atomic_and_never_overwrites(tmp_path, monkeypatch):
    model = nw.mlp()
    path = tmp_path / "net.onnx"
    files.save_model(model, path)
    content = path.read_bytes()
    with pytest.raises(OutputError, match="exists") as caught:
        files.save_model(nw.convnet(), path)
    assert caught.value.exit == 2
    assert path.read_bytes() == content
    with pytest.raises(OutputError, match="folder"):
        files.save_model(model, tmp_path)
    with pytest.raises(OutputError, match="does not exist"):
        files.save_model(model, tmp_path / "absent" / "net.onnx")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(EnvironmentLacksError, match="full") as caught:
        files.save_model(nw.convnet(), path, force=True)
    assert caught.value.exit == 3
    assert path.read_bytes() == content
    assert [item.name for item in tmp_path.iterdir()] == ["net.onnx"]


def test_a_model_past_the_limit_of_one_file_keeps_its_weights_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ONE_FILE_LIMIT", 1000)
    model = nw.convnet()
    content = model.SerializeToString()
    path = files.save_model(model, tmp_path / "big.onnx")
    assert model.SerializeToString() == content
    assert sorted(item.name for item in tmp_path.iterdir()) == ["big.onnx", "big.onnx.data"]
    again = surgeon.load(path)
    inputs = nw.feeds(model)
    np.testing.assert_array_equal(nw.run(again.proto, inputs)["y"], nw.run(model, inputs)["y"])
    nw.session(str(path))


def test_a_graph_without_opsets_or_outputs_is_refused():
    model = nw.mlp()
    del model.opset_import[:]
    with pytest.raises(ModelError, match="operator set"):
        surgeon.load(model)
    model = nw.mlp()
    del model.graph.output[:]
    with pytest.raises(ModelError, match="outputs"):
        surgeon.load(model)


def test_packed_and_odd_types_are_measured_right(tmp_path):
    model = nw.mlp()
    model.graph.initializer.append(helper.make_tensor("i4", TensorProto.INT4, [3], [1, -2, 3]))
    model.graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [1], [b"x"]))
    model.graph.initializer.append(helper.make_tensor("b", TensorProto.BOOL, [2], [True, False]))
    path = tmp_path / "net.onnx"
    onnx.save_model(model, str(path), save_as_external_data=True, size_threshold=0)
    loaded = surgeon.load(path)
    found = {t.name: t for t in loaded.proto.graph.initializer}
    np.testing.assert_array_equal(numpy_helper.to_array(found["i4"]).astype(int), [1, -2, 3])
