"""Two files on the same samples: how much better is one, and is that more than chance?"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy import stats

from surgeon import operation
from surgeon.cli import main
from surgeon.errors import UsageError
from surgeon.graph import envelope
from surgeon.records import Plan
from surgeon.tasks.metrics import paired


def test_the_difference_is_that_of_a_paired_test():
    random = np.random.default_rng(0)
    for shift in (0.0, 0.1, 0.3):
        mine, theirs = random.standard_normal((2, 200))
        theirs = 0.7 * theirs + 0.7 * mine - shift
        theirs[5] = np.nan
        difference, error, chance = paired(mine, theirs)
        apart = np.delete(mine - theirs, 5)
        assert difference == pytest.approx(apart.mean())
        assert error == pytest.approx(stats.sem(apart))
        assert chance == pytest.approx(stats.ttest_1samp(apart, 0).pvalue, abs=0.02)
    many = random.standard_normal((2, 30_000))
    assert paired(*many)[2] == pytest.approx(stats.ttest_rel(*many).pvalue, abs=1e-3)


def test_few_equal_and_grouped_samples():
    assert paired(np.ones(5), np.ones(5)) == (0.0, 0.0, 1.0)
    assert paired(np.ones(1), np.zeros(1)) == (1.0, None, None)
    assert paired(np.array([np.nan]), np.zeros(1)) == (None, None, None)
    random = np.random.default_rng(0)
    copied = np.repeat(random.standard_normal(20) + 0.4, 50)
    alone, together = (
        paired(copied, np.zeros(1000)),
        paired(copied, np.zeros(1000), np.arange(1000) // 50),
    )
    assert alone[0] == pytest.approx(together[0])
    assert alone[1] < together[1] / 5
    assert alone[2] < together[2]
    assert together[1] == pytest.approx(stats.sem(copied[::50]))


def classifier(noise):
    weight = np.eye(3, 4) + noise * np.random.default_rng(1).standard_normal((3, 4))
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)
    values = [
        numpy_helper.from_array(np.asarray(value, "f4"), name)
        for name, value in (("w", weight), ("b", np.zeros(3)))
    ]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])]
        for name, size in (("x", 4), ("y", 3))
    )
    graph = helper.make_graph([node], "g", inputs, outputs, values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"labels": '["a", "b", "c"]'})
    return model


@pytest.fixture
def data():
    x = np.random.default_rng(0).standard_normal((200, 4)).astype("f4")
    return {"x": x, "labels": np.array(["a", "b", "c"])[x[:, :3].argmax(axis=1)]}


def test_a_better_file_is_told_from_a_worse_one(data, tmp_path, capsys):
    good, bad = tmp_path / "good.onnx", tmp_path / "bad.onnx"
    onnx.save(classifier(0), good)
    onnx.save(classifier(0.5), bad)
    body = operation.evaluate(good, data, against=bad)
    found = body["against"]
    assert found["path"] == str(bad)
    theirs = operation.evaluate(bad, data)
    assert found["metrics"] == theirs["metrics"]
    wanted = body["metrics"]["accuracy"] - theirs["metrics"]["accuracy"]
    assert found["difference"] == pytest.approx(wanted)
    assert found["p_value"] < 0.01
    assert theirs["against"] is None
    back = operation.evaluate(bad, data, against=good)["against"]
    assert back["difference"] == pytest.approx(-wanted)
    np.savez(tmp_path / "d.npz", **data)
    assert main(["evaluate", str(good), str(tmp_path / "d.npz"), "--against", str(bad)]) == 0
    assert "better by +" in capsys.readouterr().out


def test_files_of_other_tasks_are_refused(data):
    planned, grades = classifier(0), {**data, "labels": np.arange(200) % 3}
    envelope.put(planned, envelope.PLAN, Plan("x", task="ordinal", outputs=3, classes=3).as_dict())
    envelope.put(planned, envelope.LABELS, ["0", "1", "2"])
    other = classifier(0)
    helper.set_model_props(other, {"labels": '["0", "1", "2"]'})
    with pytest.raises(UsageError, match="ordinal"):
        operation.evaluate(planned, grades, against=other)
