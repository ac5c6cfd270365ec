"""Data of each model's own kind: the graph takes it, and it says something about its label."""

import numpy as np
import onnx
import onnxruntime
import pytest

import surgeon_models
from surgeon.errors import UsageError
from surgeon.runtime.saturation import saturates
from surgeon_models import samples

NEW = [
    "magika",
    "minilm-l3",
    "ppocrv4-det",
    "ppocrv4-rec",
    "silero-vad",
    "eeg-spindle",
    "eeg-seizure",
    "dnsmos",
    "dnsmos-personal",
    "dnsmos-p808",
    "dnsmos-sig",
    "dnsmos-bak-ovr",
    "aecmos-16k",
    "aecmos-16k-plain",
    "aecmos-48k",
    "plcmos",
    "efficientnet-lite0-qdq",
    "efficientnet-lite0-int8",
    "iris-logreg",
]
FIXED = {"aecmos-16k": 1, "aecmos-16k-plain": 1, "aecmos-48k": 1, "iris-logreg": 3}
SAME_FOR_ALL = {"sr"}  # no samples along any axis
BATCH_AXES = {"state": 1, "h0": 1}
OUTPUT_AXES = {"eeg-seizure": 1}
OLD = ["efficientnet-lite0", "mobilenetv2-fp16", "opennsfw", "light-squeezenet"]


def open_session(name):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        str(surgeon_models.get(name)), options, providers=["CPUExecutionProvider"]
    )


def choose(data, positions):
    return {
        name: array
        if name in SAME_FOR_ALL
        else np.take(array, positions, axis=BATCH_AXES.get(name, 0))
        for name, array in data.items()
        if name != "labels"
    }


def run(session, name, data, positions):
    output = surgeon_models.entry(name).output or session.get_outputs()[0].name
    return session.run([output], choose(data, positions))[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NEW, *OLD])
def test_data_fits_the_graph(name):
    data = surgeon_models.sample_data(name, samples=12)
    labels = data.pop("labels")
    assert labels.dtype.kind == "U"
    assert 2 <= len(labels) <= 16
    assert len(set(labels)) >= 2
    assert len(set(np.unique(labels, return_counts=True)[1])) == 1  # balanced
    graph = onnx.load(surgeon_models.get(name), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value.type.tensor_type for value in graph.input}
    assert set(data) == set(inputs) - weights
    for key, array in data.items():
        kind = onnx.helper.tensor_dtype_to_np_dtype(inputs[key].elem_type)
        assert array.dtype == kind
        sizes = [dim.dim_value for dim in inputs[key].shape.dim]
        assert array.ndim == len(sizes)
        axis = None if key in SAME_FOR_ALL else BATCH_AXES.get(key, 0)
        for place, (size, have) in enumerate(zip(sizes, array.shape, strict=True)):
            assert place == axis or size in {0, have}
        if axis is not None:
            assert array.shape[axis] == len(labels)
        if array.dtype.kind == "f":
            assert np.isfinite(array).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", NEW)
def test_samples_do_not_mix_where_the_batch_is_free(name):
    data = surgeon_models.sample_data(name, samples=16)
    session = open_session(name)
    if name in FIXED:
        bad = list(range(FIXED[name] + 1))
        with pytest.raises(Exception, match=r"dimension|shape"):
            run(session, name, data, bad)
        assert np.isfinite(run(session, name, data, list(range(FIXED[name])))).all()
        return
    alone = [run(session, name, data, [position]) for position in range(3)]
    both = run(session, name, data, [0, 1, 2])
    axis = OUTPUT_AXES.get(name, 0)
    for position, each in enumerate(alone):
        part = np.take(both, [position], axis).reshape(each.shape)
        assert np.abs(part - each).max() <= 1e-4 * max(np.abs(each).max(), 1)
    assert np.abs(alone[0] - alone[1]).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "bound"),
    [("magika", 0.75), ("minilm-l3", 0.8), ("dnsmos", 0.75), ("silero-vad", 0.7)],
)
def test_real_data_can_be_told_apart_by_what_the_model_says(name, bound):
    """A linear probe on the model's own output, cross-validated, far above chance."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    count = 60 if name == "dnsmos" else 240
    data = surgeon_models.sample_data(name, samples=count)
    session, labels = open_session(name), data["labels"]
    parts = [
        run(session, name, data, positions)
        for positions in np.array_split(np.arange(len(labels)), 8)
    ]
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    features = np.concatenate(parts).reshape(len(labels), -1)
    accuracy = cross_val_score(probe, features, labels, cv=5).mean()
    print(f"{name}: {accuracy:.3f}")
    assert accuracy > bound


@pytest.mark.slow
def test_quantised_files_agree_with_the_float_one():
    data = surgeon_models.sample_data("efficientnet-lite0", samples=40)
    positions = list(range(40))
    expected = run(open_session("efficientnet-lite0"), "efficientnet-lite0", data, positions)
    # Without VNNI ONNX Runtime cuts sums of 8-bit products off: QLinearConv is half wrong there.
    names = ["efficientnet-lite0-qdq", *([] if saturates() else ["efficientnet-lite0-int8"])]
    for name in names:
        logits = run(open_session(name), name, data, positions)
        assert np.corrcoef(logits.ravel(), expected.ravel())[0, 1] > 0.98


@pytest.mark.slow
def test_quantised_files_are_of_the_two_forms():
    kinds = {
        name: {node.op_type for node in onnx.load(surgeon_models.get(name)).graph.node}
        for name in ("efficientnet-lite0-qdq", "efficientnet-lite0-int8")
    }
    assert {"Conv", "DequantizeLinear"} <= kinds["efficientnet-lite0-qdq"]
    assert not any(each.startswith("QLinear") for each in kinds["efficientnet-lite0-qdq"])
    assert "QLinearConv" in kinds["efficientnet-lite0-int8"]
    assert "Conv" not in kinds["efficientnet-lite0-int8"]


@pytest.mark.parametrize("count", [0, 3, 301])
def test_too_few_and_too_many_samples_are_refused(count):
    with pytest.raises(UsageError, match="between 4 and 300"):
        surgeon_models.sample_data("magika", samples=count)


def test_every_special_model_is_an_indexed_one():
    assert set(samples._MAKERS) <= set(surgeon_models.names())
    for name in set(surgeon_models.names()) - set(samples._MAKERS):
        assert surgeon_models.entry(name).encoding is None  # pictures


def test_balance_takes_the_largest_classes_and_the_same_of_each():
    labels = np.array([0] * 9 + [1] * 2 + [2] * 5 + [3] * 7)
    chosen = samples.choose_balanced(labels, 8, classes=2)
    assert np.bincount(labels[chosen]).tolist() == [4, 0, 0, 4]
    assert np.array_equal(chosen, samples.choose_balanced(labels, 8, classes=2))
    assert np.bincount(labels[samples.choose_balanced(labels, 40)]).tolist() == [2, 2, 2, 2]
    assert np.bincount(labels[samples.choose_balanced(labels, 5)]).tolist() == [2, 0, 0, 2]
