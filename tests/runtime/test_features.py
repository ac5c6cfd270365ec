from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file

from surgeon.data import open_data
from surgeon.errors import CheckError, DataError, EnvironmentLacksError
from surgeon.records import TensorInfo
from surgeon.runtime import neighbours, stream
from surgeon.runtime.cache import cache_root, clear, list_entries
from surgeon.runtime.extract import extract
from surgeon.runtime.features import Request
from surgeon.runtime.sessions import OutOfMemoryError, Session

AXES = {"t": 1}


@pytest.fixture
def run(tmp_path):
    def extract_on_cpu(model, outputs, samples, indices=None, **options):
        options = {"cache_dir": tmp_path / "cache", "device": "cpu", "threads": 2, **options}
        progress = options.pop("progress", None)
        return extract(model, outputs, samples, indices, Request(**options), progress)

    return extract_on_cpu


@pytest.fixture
def doubled(build):
    return build(
        "g (float[N,4] x) => (float[N,4] y, int64[N,4] i) { y = Add(x, x) i = Cast <to=7> (y) }"
    )


def test_features_of_pictures_leave_out_what_cannot_be_read(photos, pooled, run):
    seen = []
    found = run(pooled, ["f", "t"], photos, axes=AXES, progress=lambda *at: seen.append(at))
    readable = np.array(
        [index for index in range(40) if not photos.names[index].endswith("a/06.png")]
    )
    wanted = photos.batch(readable)["x"].mean((2, 3)) * np.array([1, 2, 0.5], np.float32)
    np.testing.assert_allclose(found.array("f"), wanted, rtol=1e-5)
    np.testing.assert_array_equal(found.array("t"), found.array("f"))
    np.testing.assert_array_equal(found.rows, readable)
    assert found.skipped == photos.skipped
    assert len(found.skipped) == 1
    assert (found.hit, found.n, found.axes) == (False, 39, {"f": 0, "t": 1})
    assert seen[-1] == (40, 40)
    assert seen == sorted(seen)
    rows, kept = found.read([5, 0])
    assert rows["t"].shape == (3, 2)
    np.testing.assert_array_equal(rows["f"], found.array("f")[[5, 0]])
    assert kept.tolist() == [5, 0]


def test_the_entry_is_a_safetensors_file_and_is_found_again(photos, pooled, run):
    first = run(pooled, ["f", "t"], photos, axes=AXES)
    stored = load_file(first.path)
    np.testing.assert_array_equal(stored["f"], first.array("f"))
    again = run(pooled, ["f", "t"], photos, axes=AXES)
    assert again.hit
    assert again.path == first.path
    assert again.bytes == first.path.stat().st_size
    np.testing.assert_array_equal(again.array("t"), first.array("t"))
    np.testing.assert_array_equal(again.rows, first.rows)
    assert again.skipped == first.skipped
    assert isinstance(again.array("f"), np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        again.array("f")[0] = 1


def test_types_and_samples_chosen(numbers, doubled, run):
    samples, x = numbers
    found = run(doubled, ["i", "y"], samples, np.array([30, 2, 2, 11]))
    np.testing.assert_array_equal(found.array("y"), 2 * x[[30, 2, 2, 11]])
    assert found.array("i").dtype == np.int64
    assert found.rows.tolist() == [30, 2, 2, 11]
    assert run(doubled, ["i", "y"], samples, np.array([30, 2, 2, 11])).rows.tolist() == [
        30,
        2,
        2,
        11,
    ]
    assert not run(doubled, ["i", "y"], samples, np.array([30, 2, 11, 2])).hit


def test_whatever_decides_the_values_changes_the_key(numbers, doubled, build, run):
    samples, x = numbers
    keys = {run(doubled, ["y"], samples).key}
    info = samples.inputs
    other = open_data({"x": x + 1, "labels": np.arange(37) % 3}, info)
    keys.add(run(doubled, ["y"], other).key)
    keys.add(run(doubled, ["y"], samples, key_parts=["more"]).key)
    keys.add(run(doubled, ["i"], samples).key)
    scaled = build("g (float[N,4] x) => (float[N,4] y) <float[1] w = {2.0}> { y = Mul(x, w) }")
    keys.add(run(scaled, ["y"], samples).key)
    scaled.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([3.0], np.float32), "w"))
    keys.add(run(scaled, ["y"], samples).key)
    assert len(keys) == 6
    relabelled = open_data({"x": x, "labels": np.arange(37) % 2}, info)
    assert run(doubled, ["y"], relabelled).hit


@pytest.mark.parametrize("harm", ["cut", "grow", "header", "no json", "json", "other key", "rows"])
def test_a_broken_entry_is_never_used(harm, numbers, doubled, run):
    samples, x = numbers
    path = run(doubled, ["y"], samples).path
    about = path.with_suffix(".json")
    content = path.read_bytes()
    if harm == "cut":
        path.write_bytes(content[:-1])
    elif harm == "grow":
        path.write_bytes(content + b"x")
    elif harm == "header":
        path.write_bytes(b"\xff" * 8 + content[8:])
    elif harm == "no json":
        about.unlink()
    elif harm == "json":
        about.write_text(about.read_text()[:-5])
    else:
        changed = {"key": "other"} if harm == "other key" else {"rows": 36}
        about.write_text(json.dumps({**json.loads(about.read_text()), **changed}))
    again = run(doubled, ["y"], samples)
    assert not again.hit
    np.testing.assert_array_equal(again.array("y"), 2 * x)
    assert run(doubled, ["y"], samples).hit


def test_a_graph_that_mixes_its_batch_gets_samples_one_by_one(numbers, build, run):
    samples, x = numbers
    model = build(
        "g (float[N,4] x) => (float[N,4] y) "
        "{ m = ReduceMax <axes=[0], keepdims=1> (x) y = Add(x, m) }"
    )
    for hit in (False, True):
        found = run(model, ["y"], samples)
        assert (found.hit, found.alone) == (hit, True)
        assert any("one sample at a time" in note for note in found.notes)
        np.testing.assert_array_equal(found.array("y"), 2 * x)


@pytest.mark.parametrize("size", [1, 5, 64])
def test_a_fixed_batch_is_filled_up_and_cut(size, numbers, build, run):
    samples, x = numbers
    model = build(f"g (float[{size},4] x) => (float[{size},4] y) {{ y = Add(x, x) }}")
    np.testing.assert_array_equal(run(model, ["y"], samples).array("y"), 2 * x)
    mixing = build(
        f"g (float[{size},4] x) => (float[{size},4] y) "
        "{ m = ReduceMean <axes=[0], keepdims=1> (x) y = Sub(x, m) }"
    )
    if size > 1:
        with pytest.raises(CheckError):
            run(mixing, ["y"], samples)


def test_past_the_limit_halves_then_recomputes(numbers, doubled, run):
    samples, x = numbers
    full = 37 * 4 * 4
    half = run(doubled, ["y"], samples, limit_bytes=full - 1)
    assert half.stored == {"y": "float16"}
    assert half.array("y").dtype == np.float32
    np.testing.assert_allclose(half.array("y"), 2 * x, rtol=1e-3)
    assert half.read([3])[0]["y"].dtype == np.float32
    again = run(doubled, ["i"], samples, limit_bytes=10)
    assert again.recomputed
    assert again.path is None
    assert again.bytes == 37 * 4 * 8
    assert "computed again" in again.notes[-1]
    rows, kept = again.read([3, 1])
    np.testing.assert_array_equal(rows["i"], (2 * x[[3, 1]]).astype(np.int64))
    assert kept.tolist() == [3, 1]
    np.testing.assert_array_equal(again.array("i"), (2 * x).astype(np.int64))


def test_values_too_large_for_float16_are_recomputed(build, run):
    x = np.full((5, 4), 1e30, np.float32)
    samples = open_data(
        {"x": x, "labels": [0, 1, 0, 1, 0]}, [TensorInfo("x", "float", ("N", 4), 0)]
    )
    model = build("g (float[N,4] x) => (float[N,4] y) { y = Neg(x) }")
    found = run(model, ["y"], samples, limit_bytes=79)
    assert found.recomputed
    np.testing.assert_array_equal(found.array("y"), -x)


def test_recomputing_leaves_out_what_cannot_be_read(photos, pooled, run):
    found = run(pooled, ["f", "t"], photos, axes=AXES, limit_bytes=0)
    broken = next(i for i, name in enumerate(photos.names) if name.endswith("a/06.png"))
    rows, kept = found.read([broken - 1, broken, broken + 1])
    assert kept.tolist() == [broken - 1, broken + 1]
    assert rows["t"].shape == (3, 2)


def test_nothing_frozen_reads_the_samples(photos, numbers):
    found = extract(None, ["x"], photos)
    rows, kept = found.read([0, 6, 20])
    np.testing.assert_array_equal(rows["x"], photos.batch(found.rows[kept])["x"])
    assert found.recomputed
    assert found.shapes == {"x": (3, 8, 8)}
    with pytest.raises(DataError, match="nope"):
        extract(None, ["nope"], photos)


def test_streaming_reads_each_batch_in_turn(photos, numbers, doubled, run):
    found = run(doubled, ["y"], numbers[0])
    batches = [np.array([3, 1]), np.array([36]), np.arange(5)]
    for batch, (rows, kept) in zip(batches, found.stream(batches, 2), strict=True):
        np.testing.assert_array_equal(kept, batch)
        np.testing.assert_array_equal(rows["y"], 2 * numbers[1][batch])
    pictures = extract(None, ["x"], photos)
    sizes = [len(kept) for _, kept in pictures.stream([np.arange(20), np.arange(20, 40)], 2)]
    assert sum(sizes) == 39


def test_inputs_among_the_tensors_are_handed_through(build, run):
    inputs = [
        TensorInfo("x", "float", ("N", 2), 0),
        TensorInfo("mask", "int64", ("N", 2), 0),
        TensorInfo("h", "float", (1, "N", 2), 1),
        TensorInfo("scale", "float", (2,), None),
    ]
    data = {
        "x": np.arange(12, dtype=np.float32).reshape(6, 2),
        "mask": np.arange(12).reshape(6, 2),
        "h": np.arange(12, dtype=np.float32).reshape(1, 6, 2),
        "scale": np.array([1, 2], np.float32),
        "labels": np.arange(6) % 2,
    }
    samples = open_data(data, inputs)
    model = build("g (float[N,2] x) => (float[N,2] y) { y = Neg(x) }")
    for hit in (False, True):
        found = run(model, ["y", "mask", "h", "scale"], samples)
        assert found.hit is hit
        rows, _ = found.read([4, 1])
        assert rows["mask"].tolist() == [[8, 9], [2, 3]]
        assert rows["h"].tolist() == [[[8, 9], [2, 3]]]
        assert rows["scale"].tolist() == [1, 2]
        assert rows["y"].tolist() == [[-8, -9], [-2, -3]]
    plain = extract(None, ["x", "h", "scale"], samples).read([4, 1])[0]
    assert plain["h"].tolist() == [[[8, 9], [2, 3]]]
    assert plain["scale"].tolist() == [1, 2]


def test_running_out_of_memory_halves_the_batch(numbers, doubled, run, monkeypatch):
    samples, x = numbers
    real = Session.run
    lock = threading.Lock()
    sizes = []

    def tight(self, feeds, outputs=None):
        with lock:
            sizes.append(len(feeds["x"]))
        if len(feeds["x"]) > 2:
            message = "no room"
            raise OutOfMemoryError(message)
        return real(self, feeds, outputs)

    monkeypatch.setattr(Session, "run", tight)
    found = run(doubled, ["y"], samples, batch=16)
    np.testing.assert_array_equal(found.array("y"), 2 * x)
    assert any("halved to 2" in note for note in found.notes)
    assert max(sizes[20:]) <= 16
    monkeypatch.setattr(Session, "run", lambda *_: (_ for _ in ()).throw(OutOfMemoryError("none")))
    with pytest.raises(OutOfMemoryError):
        run(doubled, ["i"], samples)


def test_too_many_unreadable_pictures_leave_nothing(photos, pooled, run, tmp_path):
    for name in photos.names[:3]:
        Path(name).write_bytes(b"no picture")
    with pytest.raises(DataError, match="of 40 samples cannot be read"):
        run(pooled, ["f"], photos)
    assert not list((tmp_path / "cache").glob("*"))


def test_an_interruption_leaves_nothing(numbers, doubled, run, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(doubled, ["y"], numbers[0], progress=interrupt)
    assert not list((tmp_path / "cache").glob("*"))


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits of POSIX")
def test_a_full_disk_is_exit_3_and_leaves_nothing(tmp_path):
    code = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from onnx import parser
from surgeon.data import open_data
from surgeon.errors import EnvironmentLacksError
from surgeon.records import TensorInfo
from surgeon.runtime.extract import extract
from surgeon.runtime.features import Request
asked = Request(cache_dir=Path(sys.argv[1]), device="cpu")
text = '<ir_version: 8, opset_import: ["": 17]> g (float[N,64] x) => (float[N,64] y) { y = Neg(x) }'
data = {"x": np.zeros((1000, 64), np.float32), "labels": np.arange(1000) % 2}
samples = open_data(data, [TensorInfo("x", "float", ("N", 64), 0)])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    extract(parser.parse_model(text), ["y"], samples, None, asked)
except EnvironmentLacksError as error:
    print(error.exit, "no room" in error.message, len(list(Path(sys.argv[1]).iterdir())))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, check=True, text=True
    )
    assert done.stdout.split() == ["3", "True", "0"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000


def test_a_cache_that_cannot_be_written(numbers, doubled, run, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(EnvironmentLacksError) as caught:
        run(doubled, ["y"], numbers[0], cache_dir=tmp_path / "file" / "cache")
    assert "SURGEON_CACHE" in caught.value.remedy


def test_listing_and_clearing(numbers, doubled, run, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    assert list_entries(folder) == []
    assert clear(folder) == (0, 0)
    first = run(doubled, ["y"], numbers[0])
    run(doubled, ["i"], numbers[0])
    (folder / "x.part").write_bytes(b"12345")
    entries = list_entries(folder)
    assert entries[0].path == first.path
    assert entries[0].about["rows"] == 37
    assert entries[0].bytes == first.bytes
    files, size = clear(folder)
    assert files == 5
    assert size > first.bytes
    assert list(folder.iterdir()) == []
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "root"))
    assert cache_root() == tmp_path / "root"
    assert (
        run(doubled, ["y"], numbers[0], cache_dir=None).path.parent
        == tmp_path / "root" / "features"
    )


def test_the_graph_wants_an_input_the_data_lacks(numbers, build, run):
    model = build("g (float[N,4] x, float[N,4] z) => (float[N,4] y) { y = Add(x, z) }")
    with pytest.raises(DataError, match="z"):
        run(model, ["y"], numbers[0])
    with pytest.raises(DataError, match="no sample"):
        run(model, ["y"], numbers[0], np.array([], np.int64))


def test_rows_of_differing_shape_are_refused(run, build):
    samples = open_data(
        {"x": np.array([[0], [1], [2], [3], [9]]), "labels": [0, 1, 0, 1, 0]},
        [TensorInfo("x", "int64", ("N", 1), 0)],
    )
    model = build(
        "g (int64[N,1] x) => (int64[N,M] y) <int64[1] one = {1}, int64[1] zero = {0}> "
        "{ m = ReduceMax <keepdims=0> (x) more = Add(m, one) s = Concat <axis=0> (one, more) "
        "y = Expand(x, s) }"
    )
    with pytest.raises(CheckError):
        run(model, ["y"], samples)


def test_stream_gives_chunks_in_order(numbers, doubled):
    samples, x = numbers
    runner = stream.Runner(doubled, samples, device="cpu", threads=2, batch=3)
    chunks = list(runner.stream(np.arange(37)))
    np.testing.assert_array_equal(np.concatenate([c.positions for c in chunks]), np.arange(37))
    np.testing.assert_array_equal(np.concatenate([c.outputs["y"] for c in chunks]), 2 * x)


def test_a_run_is_filled_by_the_size_of_its_inputs(numbers, doubled, build):
    assert stream.Runner(doubled, numbers[0], device="cpu").batch == 256
    x = np.zeros((2, 3, 224, 224), np.float32)
    info = TensorInfo("x", "float", ("N", 3, "h", "w"), 0)
    large = open_data({"x": x, "labels": [0, 1]}, [info])
    model = build("g (float[N,3,h,w] x) => (float[N,3,h,w] y) { y = Neg(x) }")
    assert stream.Runner(model, large, device="cpu").batch == 2
    assert stream.Runner(model, large, device="cpu", batch=7).batch == 7


def test_relative_error_of_odd_values():
    error = neighbours.relative_error
    assert error(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == 0
    assert error(np.array([1.0, np.nan]), np.array([1.0, 1.0])) != 0
    assert error(np.array([True]), np.array([False])) == float("inf")
    assert error(np.array([0.0]), np.array([1e-9])) == pytest.approx(1e-3)


def test_the_number_of_cores_does_not_change_a_bit(photos, build, tmp_path):
    weights = np.random.default_rng(0).normal(size=(16, 3, 3, 3)).astype(np.float32)
    model = build(
        "g (float[N,3,8,8] x) => (float[N,16] f) "
        "{ c = Conv <pads=[1,1,1,1]> (x, w) p = GlobalAveragePool (c) f = Flatten (p) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    found = [
        extract(model, ["f"], photos, None, Request(
            cache_dir=tmp_path / str(threads), device="cpu", threads=threads, batch=2,
        ))
        for threads in (1, 2, 5)
    ]  # fmt: skip
    assert not any(each.hit for each in found)
    for each in found[1:]:
        np.testing.assert_array_equal(each.array("f"), found[0].array("f"))
        np.testing.assert_array_equal(each.rows, found[0].rows)


@pytest.mark.parametrize(("batch", "most"), [(2, 16), (7, 56), (1000, 1000)])
def test_blocks_are_whole_runs_and_small_towards_the_end(batch, most, photos, pooled):
    runner = stream.Runner(pooled, photos, device="cpu", threads=3, batch=batch)
    blocks = list(runner._blocks(1001))
    assert blocks[0][0] == 0
    assert blocks[-1][1] == 1001
    assert [first for first, _ in blocks[1:]] == [last for _, last in blocks[:-1]]
    sizes = [last - first for first, last in blocks]
    assert max(sizes) == most
    assert all(size % batch == 0 for size in sizes[:-1])
    assert sizes[-2] <= 2 * batch


def test_a_block_is_bounded_by_what_waits_in_memory(photos, pooled):
    runner = stream.Runner(pooled, photos, device="cpu", batch=2)
    runner._sample_bytes = 2_500_000  # two runs of 5 MB within 12 MB
    assert next(iter(runner._blocks(1000))) == (0, 4)
    runner._sample_bytes = 10**9
    assert next(iter(runner._blocks(1000))) == (0, 2)


def test_values_are_read_run_by_run(numbers, doubled):
    # A text is padded to the longest of those read with it.
    runner = stream.Runner(doubled, numbers[0], device="cpu", batch=2)
    assert [last - first for first, last in runner._blocks(7)] == [2, 2, 2, 1]
