"""`surgeon cuts --time`, and what it promises: an early cut is small and fast."""

from __future__ import annotations

import json

import jsonschema
import networks as nw
import onnx
import pytest

import surgeon
from surgeon import schemas

LAYERS, WIDTH = 12, 1024


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    net = nw.Net()
    value = net.input("x", ["N", WIDTH])
    for _ in range(LAYERS):
        weight = net.weight(f"w{len(net.weights)}", WIDTH, WIDTH)
        value = net.node("Relu", net.node("MatMul", value, weight))
    net.node("MatMul", value, net.weight("head", WIDTH, 10), out="y")
    path = tmp_path_factory.mktemp("deep") / "deep.onnx"
    onnx.save(net.model("y", shape=["N", 10]), path)
    return path


def test_every_cut_is_timed(run, deep):
    done = run("cuts", deep, "--time", "--threads", 1, "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    jsonschema.Draft202012Validator(schemas.load("cuts")).validate(document)
    seconds = [cut["seconds"] for cut in document["cuts"]]
    assert len(seconds) == 2 * LAYERS
    assert all(value > 0 for value in seconds)


def test_people_see_the_time_and_documents_without_it_stay_as_they_were(run, deep):
    shown = run("cuts", deep, "--time", "--threads", 1)
    assert shown.code == 0, shown.err
    assert " ms" in shown.out
    assert "median" in shown.out
    plain = json.loads(run("cuts", deep, "--json").out)
    assert all("seconds" not in cut for cut in plain["cuts"])


def test_only_so_many_cuts_are_timed(run, deep, monkeypatch):
    from surgeon import operation

    monkeypatch.setattr(operation, "MOST_TIMED", 5)
    cuts = json.loads(run("cuts", deep, "--time", "--json").out)["cuts"]
    assert sum(cut["seconds"] is not None for cut in cuts) == 5
    assert cuts[0]["seconds"] is not None
    assert cuts[-1]["seconds"] is not None


def test_an_early_cut_is_as_small_and_computes_as_little_as_its_depth_says(run, deep, tmp_path):
    sizes, macs = {}, {}
    for depth in (0.25, 1.0):
        patient = surgeon.operate(deep, case="small-similar", classes=10, cut=f"@{depth}")
        out = patient.save(tmp_path / f"{depth}.onnx")
        sizes[depth] = out.stat().st_size
        macs[depth] = json.loads(run("inspect", out, "--json").out)["macs"]
    assert sizes[0.25] == pytest.approx(0.25 * sizes[1.0], rel=0.02)
    assert macs[0.25] == pytest.approx(0.25 * macs[1.0], rel=0.02)
