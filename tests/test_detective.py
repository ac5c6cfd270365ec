"""The detective: what a file says, what witnesses say together, networks with a known answer."""

from __future__ import annotations

import json
from dataclasses import replace

import networks as nw
import numpy as np
import onnx
import pytest
from PIL import Image

import surgeon
from surgeon.advice import detective
from surgeon.data.read import open_data
from surgeon.errors import UsageError
from surgeon.graph.moments import add_moments
from surgeon.graph.stated import read_intake
from surgeon.graph.taps import add_taps, late_cut
from surgeon.options import Options
from surgeon.probe.evidence import Probe
from surgeon.records import CutPoint, Preprocess, TensorInfo
from surgeon.runtime.stream import Runner

RGB = TensorInfo("x", "float", ("N", 3, 32, 32), 0)
CUT = CutPoint("t", 1.0, ("N", 8), "float", 0, 0, 0, 0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))


def pictures(folder, classes=3, each=14, size=12, *, grey=False):
    """Pictures whose class is their colour (or brightness), with noise; more red than blue."""
    random = np.random.default_rng(0)
    for code in range(classes):
        (folder / f"c{code}").mkdir(parents=True)
        for number in range(each):
            pixels = random.integers(0, 120, (size, size, 3)) + np.array([70, 40, 0])
            pixels[..., code] += 60
            shown = pixels[..., 0] // 2 + 40 * code if grey else pixels
            place = folder / f"c{code}" / f"{number}.png"
            Image.fromarray(shown.astype(np.uint8)).save(place)
    return folder


def network(*, front=(), batchnorm=False, side=12, dtype="float", channels=3):
    """A small network; `front` = (operator, constant) pairs that its input goes through first."""
    net = nw.Net()
    kind = {"float": onnx.TensorProto.FLOAT, "uint8": onnx.TensorProto.UINT8}[dtype]
    x = net.input("x", ["N", channels, side, side], kind)
    if dtype == "uint8":
        x = net.node("Cast", x, to=onnx.TensorProto.FLOAT)
    for place, (operator, number) in enumerate(front):
        constant = np.asarray(number, np.float32).reshape(1, -1, 1, 1)
        x = net.node(operator, x, net.weight(f"front{place}", values=constant))
    x = nw.conv(net, x, "c1", 6, channels)
    if batchnorm:
        ones, nothing = np.ones(6, np.float32), np.zeros(6, np.float32)
        names = [net.weight(f"bn.{k}", values=v) for k, v in
                 (("s", ones), ("b", nothing), ("m", nothing), ("v", ones))]  # fmt: skip
        x = net.node("BatchNormalization", x, *names, out="normalized")
    x = net.node("GlobalAveragePool", net.node("Relu", x))
    x = net.node("Flatten", x, out="features")
    net.node("Gemm", x, net.weight("fc.weight", 4, 6), net.weight("fc.bias", 4), out="y", transB=1)
    return net.model("y", shape=["N", 4])


def trial(name, losses, *, mismatch=None, confidence=None, channels="RGB"):
    losses = np.asarray(losses, float)
    correct = (losses < 0.5).astype(float)
    probe = Probe(CUT, 8, correct.mean(), 0.03, 1.0, 0.0, correct, 1.0)
    return detective.Trial(name, Preprocess(channels=channels), probe, losses, mismatch, confidence)


# ── candidates ───────────────────────────────────────────────────────────────────────────────────


def test_candidates_fit_the_input():
    found = detective.preprocess_candidates(RGB)
    assert len(found) == 12
    assert {how.layout for how in found.values()} == {"NCHW"}
    assert found["imagenet BGR"].mean == (0.406, 0.456, 0.485)
    assert found["caffe BGR"].mean == (104.0, 117.0, 123.0)
    grey = detective.preprocess_candidates(replace(RGB, shape=("N", 28, 28, 1)))
    assert {how.channels for how in grey.values()} == {"L"}
    whole = detective.preprocess_candidates(replace(RGB, dtype="uint8"))
    assert list(whole) == ["raw RGB", "raw BGR"]
    with pytest.raises(UsageError, match="size"):
        detective.preprocess_candidates(replace(RGB, shape=("N", 3, "h", "w")))


def test_a_layout_left_open_doubles_the_candidates():
    open_ = replace(RGB, shape=("N", "a", "b", "c"))
    found = detective.preprocess_candidates(open_, "32x32")
    assert {how.layout for how in found.values()} == {"NCHW", "NHWC"}
    assert len(found) == 32  # one channel (L) is not ruled out either


@pytest.mark.parametrize(
    ("front", "ranges"),
    [
        ([], {"raw", "zero-one", "minus-one-one"}),
        ([("Div", 255.0)], {"raw"}),
        ([("Mul", 1 / 255), ("Sub", [0.485, 0.456, 0.406]), ("Div", [0.229, 0.224, 0.225])],
         {"raw"}),
        ([("Sub", 127.5), ("Div", 127.5)], {"raw"}),
        ([("Sub", [104.0, 117.0, 123.0])], {"raw"}),
        ([("Sub", [0.485, 0.456, 0.406]), ("Div", [0.229, 0.224, 0.225])],
         {"zero-one", "minus-one-one"}),
        ([("Mul", 2.0), ("Sub", 1.0)], {"zero-one", "minus-one-one"}),
    ],
)  # fmt: skip
def test_arithmetic_at_the_front_says_the_range(front, ranges):
    intake = read_intake(network(front=front), "x")
    assert len(intake.operators) == len(front)
    kept = {name.split()[0] for name in detective.narrowed(candidates(), intake)}
    assert kept == (ranges if front else {name.split()[0] for name in candidates()})


def candidates():
    return detective.preprocess_candidates(RGB)


def test_metadata_of_the_specification_win():
    model = network()
    model.metadata_props.add(key="Image.BitmapPixelFormat", value="Bgr8")
    kept = detective.narrowed(candidates(), read_intake(model, "x"))
    assert {how.channels for how in kept.values()} == {"BGR"}
    model.metadata_props.add(key="image.nominalpixelrange", value="Normalized_0_1")
    assert list(detective.narrowed(candidates(), read_intake(model, "x"))) == ["zero-one BGR"]


# ── ranking ──────────────────────────────────────────────────────────────────────────────────────


def test_beliefs_add_up_and_the_better_probe_wins():
    random = np.random.default_rng(0)
    base = random.random(100)
    found = detective.rank(
        [trial("zero-one RGB", base + 0.3), trial("imagenet RGB", base), trial("raw RGB", base + 1)]
    )
    assert found.name == "imagenet RGB"
    assert sum(row["belief"] for row in found.ranking) == pytest.approx(1)
    assert found.sure > 0.99
    assert found.ties == []
    assert found.preprocess.source == "measured"


def test_what_batchnormalization_remembers_decides_between_equal_probes():
    base = np.random.default_rng(0).random(100)
    found = detective.rank(
        [
            trial("zero-one RGB", base, mismatch=0.40),
            trial("imagenet RGB", base, mismatch=0.20),
            trial("raw RGB", base, mismatch=9.0),
        ]
    )
    assert [row["name"] for row in found.ranking] == ["imagenet RGB", "zero-one RGB", "raw RGB"]
    assert found.ties == ["zero-one RGB", "raw RGB"]


def test_what_is_more_accurate_than_the_first_is_a_tie_too():
    random = np.random.default_rng(0)
    base = random.random(200)
    better = np.where(base > 0.45, base - 0.1, base + 0.02)  # right more often, hardly nearer
    found = detective.rank(
        [trial("zero-one RGB", better, mismatch=9.0), trial("imagenet RGB", base, mismatch=0.2)]
    )
    assert found.name == "imagenet RGB"
    assert found.ranking[1]["accuracy"] > found.ranking[0]["accuracy"] + 0.05
    assert found.ties == ["zero-one RGB"]


def test_nothing_is_sure_where_nothing_differs_but_the_usual_order_comes_first():
    base = np.random.default_rng(0).random(100)
    names = [("caffe RGB", "RGB"), ("caffe BGR", "BGR"), ("imagenet BGR", "BGR")]
    names.append(("imagenet RGB", "RGB"))
    found = detective.rank([trial(name, base, channels=order) for name, order in names])
    assert [row["name"] for row in found.ranking[:2]] == ["imagenet RGB", "caffe BGR"]
    assert found.sure == pytest.approx(8 / (8 + 4 + 2 + 1))
    assert "as accurate: " in found.note


def test_no_witness_alone_outvotes_the_others():
    base = np.random.default_rng(0).random(400)
    sure_of_anything = trial("raw RGB", base + 0.6, confidence=1.0, mismatch=8.0)
    found = detective.rank([sure_of_anything, trial("imagenet RGB", base, confidence=0.3,
                                                    mismatch=0.2)])  # fmt: skip
    assert found.name == "imagenet RGB"


# ── moments ──────────────────────────────────────────────────────────────────────────────────────


def remembering(folder, how):
    """A network whose BatchNormalization remembers these pictures, made into inputs by `how`."""
    proto = network(batchnorm=True)
    model = surgeon.load(proto)
    samples = open_data(folder, model.inputs, preprocess=how)
    whole = nw.with_outputs(proto, next(n for n in proto.graph.node
                                        if n.op_type == "BatchNormalization").input[0])  # fmt: skip
    name = whole.graph.output[-1].name
    values = nw.run(whole, samples.batch(range(samples.n)), [name])[name]
    stored = {t.name: t for t in proto.graph.initializer}
    for key, number in (("m", values.mean((0, 2, 3))), ("v", values.var((0, 2, 3)))):
        stored[f"bn.{key}"].CopyFrom(onnx.numpy_helper.from_array(number, f"bn.{key}"))
    return proto


def test_moments_are_those_of_the_value_in_front(tmp_path):
    folder = pictures(tmp_path / "photos")
    how = candidates_of(12)["zero-one RGB"]
    model = surgeon.load(remembering(folder, how))
    anatomy = model.anatomy()
    taps = add_taps(anatomy, [late_cut(anatomy)])
    (moments,) = add_moments(taps.model, anatomy.shapes)
    outputs = [moments.mean_output, moments.square_output]
    found = {}
    for name in ("zero-one RGB", "raw RGB"):
        samples = open_data(folder, model.inputs, preprocess=candidates_of(12)[name])
        chunk = Runner(taps.model, samples, outputs=outputs).run_at(np.arange(samples.n))
        found[name] = moments.mismatch(chunk.outputs)
    assert found["zero-one RGB"] == pytest.approx(0, abs=1e-5)
    assert found["raw RGB"] > 1


def candidates_of(side):
    return detective.preprocess_candidates(replace(RGB, shape=("N", 3, side, side)))


@pytest.mark.parametrize("true", ["zero-one RGB", "imagenet RGB", "raw BGR", "caffe BGR"])
def test_a_network_that_remembers_its_training_gives_it_away(tmp_path, true):
    folder = pictures(tmp_path / "photos")
    model = remembering(folder, candidates_of(12)[true])
    found = detective.detect_preprocess(surgeon.load(model), folder, Options.of({}))
    by_mismatch = min(found.ranking, key=lambda row: row["mismatch"])
    assert by_mismatch["name"] == true
    assert found.name == true


# ── the verb ─────────────────────────────────────────────────────────────────────────────────────


def test_unknown_preprocessing_is_measured_and_said(tmp_path):
    found = surgeon.advise(network(), pictures(tmp_path / "photos"))
    assert found.preprocess.source == "measured"
    assert found.detected.samples <= detective.SAMPLES
    beliefs = [row["belief"] for row in found.detected.ranking]
    assert beliefs == sorted(beliefs, reverse=True)
    assert any("measured" in line and "--preprocess" in line for line in found.warnings)


def test_at_most_256_pictures_are_looked_at(tmp_path):
    folder, to = pictures(tmp_path / "photos", each=110), Options.of({})
    assert detective.detect_preprocess(surgeon.load(network()), folder, to).samples <= 258
    few = detective.detect_preprocess(surgeon.load(network()), folder, to, most=30)
    assert few.samples <= 30


def test_what_leaves_nothing_open_is_not_measured(tmp_path):
    folder = pictures(tmp_path / "photos", grey=True)
    model = surgeon.load(network(dtype="uint8", channels=1))
    found = detective.detect_preprocess(model, folder, Options.of({}))
    assert (found.name, found.samples, found.sure) == ("raw L", 0, 1.0)
    assert found.preprocess.source == "graph"
    assert surgeon.advise(model, folder).detected.name == "raw L"


def test_values_need_no_detective():
    model = surgeon.load(network())
    data = nw.feeds(model.proto, batch=20) | {"labels": np.arange(20) % 2}
    assert detective.detect_preprocess(model, data, Options.of({})) is None


def test_finetune_writes_what_was_found_into_the_file(tmp_path):
    folder, out = pictures(tmp_path / "photos"), tmp_path / "tuned.onnx"
    model = remembering(folder, candidates_of(12)["caffe BGR"])
    outcome = surgeon.finetune(model, folder, out, case="auto", epochs=1)
    entries = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    kept = json.loads(entries["surgeon.preprocess"])
    assert (kept["channels"], kept["mean"], kept["source"]) == (
        "BGR", [104.0, 117.0, 123.0], "measured",
    )  # fmt: skip
    told = outcome.document()["advice"]["preprocess"]
    assert told["name"] == "caffe BGR"
    again = surgeon.predict(out, folder)
    assert len(again.labels) == 42
