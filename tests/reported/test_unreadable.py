"""Samples that cannot be read: named one by one, counted as what they are, and never waited for."""

from __future__ import annotations

import csv
import io
import json
import os
import struct

import networks as nw
import numpy as np
import onnx
import pytest
from PIL import Image

import surgeon
from surgeon.cli.entry import main
from surgeon.data import open_data
from surgeon.data.media.sounds import read_wav
from surgeon.data.sources import UnreadableError
from surgeon.errors import DataError
from surgeon.graph.preprocess import parse_preprocess
from surgeon.records import TensorInfo
from surgeon_tasks.classification import Classification

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 17\n"
PAGE = b"<!DOCTYPE html><html><body>404</body></html>"
PIXELS = TensorInfo("x", "float", ("N", 3, 12, 12), 0)
ROW = TensorInfo("x", "float", ("N", 3), 0)
SERIES = TensorInfo("x", "float", ("N", 2, 6), 0)


def png(colour=(200, 10, 10), mode="RGB", size=(12, 12)):
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, "PNG")
    return out.getvalue()


def model(path, kind="convnet"):
    onnx.save(getattr(nw, kind)(), path)
    return str(path)


# ── predict ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("content", [b"broken", b"", POINTER, PAGE, png()[:40]])
def test_the_only_picture_is_listed_where_it_cannot_be_read(tmp_path, content):
    (tmp_path / "bad.png").write_bytes(content)
    found = surgeon.predict(nw.convnet(), [tmp_path / "bad.png"], preprocess="zero-one")
    assert [one["input"] for one in found.failed] == [str(tmp_path / "bad.png")]
    assert found.document()["predictions"] == []


def test_a_folder_is_told_of_file_by_file(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png())
    for name in ("bad.png", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"text")
    found = surgeon.predict(nw.convnet(), tmp_path, preprocess="zero-one")
    assert len(found.labels) == 2
    told = {os.path.basename(one["input"]): one["reason"] for one in found.failed}  # noqa: PTH119 - names as text
    assert set(told) == {"bad.png", "notes.txt", ".hidden.png"}
    assert all(told.values())


def test_series_and_tables_and_arrays_are_listed_too(tmp_path):
    np.save(tmp_path / "a.npy", np.full((2, 6), np.nan, "f4"))
    net = nw.Net()
    x = net.input("x", ["N", 2, 6])
    y = net.node("GlobalAveragePool", x)
    small = net.model(net.node("Flatten", y, out="y"), shape=["N", 2])
    assert surgeon.load(small).known is None  # a graph without weights is nobody's
    np.save(tmp_path / "b.npy", np.zeros((2, 6), "f4"))
    found = surgeon.predict(small, [tmp_path / "a.npy"])
    assert len(found.failed) == 1
    found = surgeon.predict(small, [tmp_path / "a.npy", tmp_path / "b.npy"])
    assert [one["input"] for one in found.failed] == [str(tmp_path / "a.npy")]
    values = np.zeros((3, 2, 6), "f4")
    values[1, 0, 0] = np.nan
    found = surgeon.predict(small, {"x": values})
    assert [one["input"] for one in found.failed] == ["row 1"]
    assert len(found.probabilities) == 2
    found = surgeon.predict(small, {"x": values[1:2]})
    assert (len(found.failed), len(found.probabilities)) == (1, 0)
    rows = [list("abcdefgh"), *([str(i)] * 8 for i in range(3)), ["oops", *"1234567"]]
    (tmp_path / "n.csv").write_text("\n".join(map(",".join, rows)))
    found = surgeon.predict(nw.mlp(), tmp_path / "n.csv")
    assert [one["input"] for one in found.failed] == ["row 4"]
    assert len(found.probabilities) == 3
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path"], ["gone.png"], ["a\0b.png"], ["/dev/zero"]])
    found = surgeon.predict(nw.convnet(), tmp_path / "t.csv", preprocess="zero-one")
    assert len(found.failed) == 3


def test_labels_that_are_missing_do_not_matter_to_predict():
    found = open_data(
        {"x": np.zeros((2, 3), "f4"), "labels": np.ones((2, 4))}, [ROW], labelled=False
    )
    assert found.answers is None
    with pytest.raises(DataError, match="NaN"):
        open_data({"x": np.full((2, 3), np.nan, "f4"), "labels": [0, 1]}, [ROW])


def test_the_command_line_lists_it_and_fails(tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"broken")
    file = model(tmp_path / "m.onnx")
    code = main(["predict", file, str(tmp_path / "bad.png"), "--preprocess", "zero-one", "--json"])
    out, err = capsys.readouterr()
    assert code == 2
    assert len(json.loads(out)["failed"]) == 1
    assert "bad.png" in err
    assert "Traceback" not in err


def test_the_only_text_and_the_only_sound_are_listed(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]")
    tokenizers.Tokenizer(words).save(str(tmp_path / "t.json"))
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    found = surgeon.predict(nw.transformer(), tmp_path / "a.txt", tokenizer=tmp_path / "t.json")
    assert len(found.failed) == 1
    net = nw.Net()
    x = net.input("x", ["N", 1, 160])
    small = net.model(net.node("Flatten", x, out="y"), shape=["N", 160])
    (tmp_path / "a.wav").write_bytes(PAGE)
    found = surgeon.predict(small, tmp_path / "a.wav", audio="16000,0.01")
    assert "web page" in found.failed[0]["reason"]


# ── training ─────────────────────────────────────────────────────────────────────────────────────


def table(tmp_path, form):
    (tmp_path / "a").mkdir()
    for i in range(16):
        (tmp_path / "a" / f"{i}.png").write_bytes(png((i * 9, 0, 99)))
    lines = "\n".join(f"{form.format(i)},{'ab'[i % 2]}" for i in range(16))
    (tmp_path / "t.csv").write_text(f"path,label\n{lines}\n")
    return str(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("a\\{}.png", "written with"),
        ("a/{}", "ending"),
        ("http://x/a/{}.png", "URL"),
        ("no/{}.png", "no such file"),
    ],
)
def test_what_is_wrong_with_all_is_said_of_all(tmp_path, form, said):
    given = {"case": "small-similar", "preprocess": "raw", "dry_run": True}
    with pytest.raises(DataError, match="all 16") as caught:
        surgeon.finetune(nw.convnet(), table(tmp_path, form), **given)
    assert said in caught.value.where


def test_some_that_cannot_be_read_are_counted(tmp_path):
    for i in range(40):
        path = tmp_path / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png() if i % 4 else POINTER)
    samples = open_data(tmp_path, [PIXELS], preprocess=parse_preprocess("raw", PIXELS))
    with pytest.raises(DataError, match="10 of 40") as caught:
        samples.read(range(40))
    assert "Git LFS" in caught.value.where


@pytest.mark.parametrize("name", ["d.csv", "d.npz", "d.jsonl", "d.parquet"])
@pytest.mark.parametrize(("content", "said"), [(POINTER, "Git LFS"), (PAGE, "web page")])
def test_pointers_and_pages_in_place_of_data(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        open_data(tmp_path / name, [ROW])


def test_pipes_and_devices_among_the_samples_are_named(tmp_path):
    for i in range(60):
        path = tmp_path / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png((i, 2, 3)))
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "b" / "zero.png").symlink_to("/dev/zero")
    samples = open_data(tmp_path, [PIXELS], preprocess=parse_preprocess("raw", PIXELS))
    samples.read(range(samples.n))
    assert len(samples.digests()) == 62
    assert sorted(reason for _, reason in samples.skipped) == [
        "it is a device, not a regular file",
        "it is a named pipe, not a regular file",
    ]


@pytest.mark.parametrize("name", ["d.csv", "d.npz", "d"])
def test_a_pipe_as_data_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="named pipe"):
        open_data(tmp_path / name, [ROW])
    with pytest.raises(DataError, match="named pipe"):
        surgeon.finetune(
            nw.mlp(), {"x": np.zeros((8, 8), "f4"), "labels": [0, 1] * 4}, case="small-similar",
            validation=str(tmp_path / name),
        )  # fmt: skip


def test_deep_and_odd_lines_of_json(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"x": [1, 2, 3], "label": "a"}\n{"x": ' + "[" * 9000 + "]" * 9000 + "}\n")
    with pytest.raises(DataError, match="line 2: it is nested"):
        open_data(path, [ROW])
    rows = [{"x": [1, 2, 3], "label": label} for label in ("a\u2028b", "\ud800", "c")]
    path.write_text(
        "\n".join(json.dumps(row, ensure_ascii="\ud800" in row["label"]) for row in rows)
    )
    samples = open_data(path, [ROW])
    assert samples.answers[0] == "a\u2028b"
    told = Classification().read(samples.answers, "labels")
    assert all(name.isascii() for name in told.names if "a" not in name)
    assert len(samples.sha256) == 64
    assert samples.sha256


def test_absurd_rates_in_a_header_are_refused():
    body = np.zeros(100, "<i2").tobytes()
    for rate in (4_294_967_291, 0):
        form = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate % 2**32, 2, 16)
        chunks = (
            b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", 200) + body
        )
        with pytest.raises(UnreadableError):
            read_wav(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    with pytest.raises(UnreadableError, match="web page"):
        read_wav(PAGE)


# ── names ────────────────────────────────────────────────────────────────────────────────────────


def test_names_that_are_no_utf8_are_kept_and_shown_escaped(tmp_path, capsys):
    root = os.fsencode(tmp_path / "data")
    for number in range(40):
        folder = os.path.join(root, (b"caf\xe9", b"plain")[number % 2])  # noqa: PTH118 - bytes
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103 - bytes
        noise = np.random.default_rng(number).integers(0, 99, (12, 12, 3)) + 99 * (number % 2)
        out = io.BytesIO()
        Image.fromarray(noise.astype("u1")).save(out, "PNG")
        with open(os.path.join(folder, b"\xff%d.png" % number), "wb") as file:  # noqa: PTH118, PTH123 - bytes
            file.write(out.getvalue())
    with open(os.path.join(root, b"plain", b"\xfe.png"), "wb") as file:  # noqa: PTH118, PTH123 - bytes
        file.write(b"broken")
    out = tmp_path / "o.onnx"
    given = ["--case", "small-similar", "--preprocess", "zero-one", "-o", str(out), "--json"]
    assert main(["finetune", model(tmp_path / "m.onnx"), str(tmp_path / "data"), *given]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["labels"] == ["caf\\xe9", "plain"]
    assert found["data"]["samples"] == 40
    assert [one["path"].endswith("\\xfe.png") for one in found["data"]["skipped"]] == [True]
    assert surgeon.load(out).labels == found["labels"]
    assert main(["predict", str(out), str(tmp_path / "data"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["predictions"]) == 40
    assert all("\\xff" in one["input"] for one in told["predictions"])
    assert main(["evaluate", str(out), str(tmp_path / "data")]) == 0


# ── grey of twelve bits ──────────────────────────────────────────────────────────────────────────


def grey(folder, top, count=4):
    values = np.linspace(0, top, 144).reshape(12, 12).astype(np.uint16)
    for i in range(count):
        path = folder / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(values, i)).save(path)


def opened(folder, option):
    return open_data(folder, [PIXELS], preprocess=parse_preprocess(option, PIXELS))


def test_twelve_bits_in_sixteen_are_said_and_can_be_told(tmp_path):
    grey(tmp_path, 4095)
    samples = opened(tmp_path, "raw")
    (note,) = samples.notes
    assert '"bits": 12' in note
    told = opened(tmp_path, {"preset": "raw", "bits": 12})
    assert told.notes == []
    assert samples.images([0]).max() < 20
    assert told.images([0]).max() == 255


def test_whole_sixteen_bits_and_eight_are_not_said(tmp_path):
    grey(tmp_path / "deep", 65535)
    assert opened(tmp_path / "deep", "raw").notes == []
    for name in "ab":
        (tmp_path / "flat" / name).mkdir(parents=True)
        (tmp_path / "flat" / name / "1.png").write_bytes(png((3, 3, 3)))
    assert opened(tmp_path / "flat", "raw").notes == []


@pytest.mark.parametrize("bits", [8, 17, 12.0, "12", True])
def test_bits_that_cannot_be_meant(bits):
    with pytest.raises(surgeon.errors.UsageError):
        parse_preprocess({"preset": "raw", "bits": bits}, PIXELS)
