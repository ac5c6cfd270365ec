from __future__ import annotations

import json

import pytest

from surgeon.errors import UsageError
from surgeon.graph.preprocess import (
    PRESETS,
    from_json,
    infer_layout,
    parse_preprocess,
    parse_size,
    to_json,
)
from surgeon.records import Preprocess, TensorInfo

NCHW = TensorInfo("x", "float", ("N", 3, 32, 48), 0)
NHWC = TensorInfo("x", "float", (1, 32, 48, 3), 0)
OPEN = TensorInfo("x", "float", ("N", 3, "h", "w"), 0)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_takes_layout_and_size_from_the_graph(name):
    for info, layout in ((NCHW, "NCHW"), (NHWC, "NHWC")):
        found = parse_preprocess(name, info)
        assert (found.layout, found.size, found.source) == (layout, (32, 48), "option")


def test_the_values_of_the_presets():
    def span(name, pixel, channel=0):
        p = parse_preprocess(name, NCHW)
        mean, std = (p.mean * 3)[channel], (p.std * 3)[channel]
        return (pixel * p.scale - mean) / std

    assert span("imagenet", 255) == pytest.approx((1 - 0.485) / 0.229)
    assert span("tf", 0) == -1
    assert span("minus-one-one", 255) == 1
    assert span("zero-one", 255) == pytest.approx(1)
    assert span("raw", 255) == 255
    assert span("efficientnet-lite", 255) == 1
    assert span("caffe", 104) == 0
    assert parse_preprocess("caffe", NCHW).channels == "BGR"


def test_size_option_overrides_the_graph_and_the_document():
    assert parse_preprocess("raw", NCHW, "96x64").size == (96, 64)
    assert parse_preprocess({"preset": "raw", "size": [7, 9]}, NCHW).size == (7, 9)
    assert parse_preprocess({"preset": "raw", "size": [7, 9]}, NCHW, 5).size == (5, 5)


def test_json_text_and_file_mean_the_same(tmp_path):
    document = {"size": [4, 6], "scale": 1, "mean": [1, 2, 3], "std": 2, "resize": "nearest"}
    text = json.dumps(document)
    path = tmp_path / "p.json"
    path.write_text(text)
    found = parse_preprocess(text, OPEN)
    assert found == parse_preprocess(str(path), OPEN) == parse_preprocess(document, OPEN)
    assert (found.mean, found.std, found.resize) == ((1.0, 2.0, 3.0), (2.0,), "nearest")


def test_round_trip_through_the_metadata():
    found = parse_preprocess("imagenet", NHWC)
    again = from_json(to_json(found))
    assert again.source == "metadata"
    assert to_json(again) == to_json(found).replace('"option"', '"metadata"')


def test_a_grey_input_takes_grey_pictures():
    info = TensorInfo("x", "float", ("N", 1, 28, 28), 0)
    assert parse_preprocess("zero-one", info).channels == "L"
    with pytest.raises(UsageError, match="3"):
        parse_preprocess("imagenet", info)


@pytest.mark.parametrize(
    ("option", "info", "words"),
    [
        ("imagnet", NCHW, "unknown preprocessing"),
        ('{"scal": 1}', NCHW, "unknown preprocessing key"),
        ('{"scale": "1"}', NCHW, "scale"),
        ('{"scale": 1, "mean": [1, 2]}', NCHW, "mean"),
        ('{"scale": 1, "std": 0}', NCHW, "zero"),
        ('{"scale": NaN}', NCHW, "scale"),
        ('{"scale": 1, "layout": "HWC"}', NCHW, "layout"),
        ('{"scale": 1, "channels": "L"}', NCHW, "channels"),
        ('{"scale": 1, "size": [0, 4]}', NCHW, "size"),
        ('{"scale": 1, "size": true}', NCHW, "size"),
        ('{"scale": 1', NCHW, "not JSON"),
        ("{}", NCHW, "says nothing about the values"),
        ('{"mean": [0.485, 0.456, 0.406]}', NCHW, "scale is not given"),
        ("raw", OPEN, "size"),
        ("raw", None, "layout"),
        ("raw", TensorInfo("x", "float", (1, 3, 9, 3), 0), "layout"),
    ],
)
def test_bad_options_are_usage_errors(option, info, words):
    with pytest.raises(UsageError, match=words) as caught:
        parse_preprocess(option, info)
    assert caught.value.remedy


def test_an_open_size_names_the_option():
    with pytest.raises(UsageError) as caught:
        parse_preprocess("raw", OPEN)
    assert "--size" in caught.value.remedy


@pytest.mark.parametrize("size", ["0x4", "4x", "axb", "1x2x3", "-3", "4.5"])
def test_bad_sizes(size):
    with pytest.raises(UsageError):
        parse_size(size)


def test_sizes():
    assert parse_size("96") == (96, 96)
    assert parse_size("96X64") == (96, 64)
    assert parse_size(None) is None


def test_broken_metadata_is_one_error():
    for text in ("{", "[1]", '{"scale": []}'):
        with pytest.raises(UsageError):
            from_json(text, NCHW)


def test_layout_of_other_shapes_is_open():
    assert infer_layout(None) is None
    assert infer_layout(TensorInfo("x", "float", None, 0)) is None
    assert infer_layout(TensorInfo("x", "float", (1, 4, 4, 4), 0)) is None
    assert infer_layout(NHWC) == "NHWC"


def test_a_preprocess_object_is_checked_too():
    found = parse_preprocess(Preprocess(layout="NHWC", size=(3, 3), source="index"), NHWC)
    assert found.size == (3, 3)
    with pytest.raises(UsageError):
        parse_preprocess(Preprocess(std=(0.0,)), NCHW)
