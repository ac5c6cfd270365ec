"""`predict --out`: rows written as they come, in order, whole or kept as far as they came."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys

import jsonschema
import numpy as np
import onnx
import pytest
import tabular

import surgeon
from surgeon import answer_file, schemas
from surgeon.cli import main
from surgeon.data import table_parts
from surgeon.errors import EnvironmentLacksError, OutputError, UsageError


@pytest.fixture
def model(tmp_path):
    onnx.save(tabular.network(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    tabular.write_csv(path, tabular.values(40))
    return path


def rows_of(path):
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        return parquet.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_file_has_what_the_document_has(model, table, tmp_path, ending, monkeypatch):
    monkeypatch.setattr(table_parts, "ROWS", 16)
    whole = surgeon.predict(model, table)
    out = tmp_path / f"answers.{ending}"
    told = surgeon.predict(model, table, out=out)
    rows = rows_of(out)
    assert [row["input"] for row in rows] == whole.names
    assert [row["label"] for row in rows] == whole.labels
    if ending == "jsonl":
        found = [row["probabilities"] for row in rows]
    else:
        found = [[float(row[f"probability:{name}"]) for name in tabular.LABELS] for row in rows]
        assert told.written.columns == list(rows[0])
    np.testing.assert_allclose(found, whole.probabilities, atol=1e-6)
    assert (told.written.inputs, told.written.failed) == (40, 0)
    assert not list(tmp_path.glob("*.partial.*"))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_rows_that_cannot_be_read_keep_their_place(model, table, tmp_path, ending, monkeypatch):
    monkeypatch.setattr(table_parts, "ROWS", 16)
    lines = table.read_text().splitlines()
    lines[1], lines[20], lines[30] = "1,2", "a" + lines[20], '"1,2'
    lines[31] = '3"' + lines[31]
    lines[30] = lines[30].replace('"', "")
    table.write_text("\n".join(lines))
    out = tmp_path / f"answers.{ending}"
    written = surgeon.predict(model, table, out=out).written
    rows = rows_of(out)
    assert [row["input"] for row in rows] == [f"row {one}" for one in range(1, 41)]
    bad = [at for at, row in enumerate(rows) if row["error"]]
    assert bad == [0, 19, 29, 30]
    assert "2 fields" in rows[0]["error"]
    assert all(not row.get("label") for at, row in enumerate(rows) if at in bad)
    assert (written.inputs, written.failed) == (40, 4)
    assert [one["input"] for one in written.named] == ["row 1", "row 20", "row 30", "row 31"]


def test_the_document_counts_and_the_exit_code_says_whether_any_was_read(
    model, table, tmp_path, capsys
):
    out = tmp_path / "answers.csv"
    assert main(["predict", str(model), str(table), "--out", str(out), "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    jsonschema.validate(body, schemas.load("predict"))
    assert body["counts"] == {"inputs": 40, "answered": 40, "failed": 0}
    assert (body["out"], body["predictions"]) == (str(out), [])
    assert main(["predict", str(model), str(table), "--out", str(out)]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["predict", str(model), str(table), "--out", str(out), "--force"]) == 0
    assert "40 answers" in capsys.readouterr().out


def test_none_that_can_be_read_is_exit_2_and_the_file_names_all(tmp_path, capsys):
    import networks

    onnx.save(networks.convnet(), tmp_path / "net.onnx")
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "photos" / name).write_bytes(b"none")
    out = tmp_path / "answers.csv"
    asked = ["predict", str(tmp_path / "net.onnx"), str(tmp_path / "photos"), "--preprocess"]
    assert main([*asked, "zero-one", "--out", str(out)]) == 2
    assert [row["error"] != "" for row in rows_of(out)] == [True, True]


def test_what_was_written_is_kept_where_the_run_ends_before(model, table, tmp_path, caplog):
    out = tmp_path / "answers.parquet"
    out.write_bytes(b"old")

    def stop(_stage, done, _total, **_):
        if done >= 16:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_parts, "ROWS", 8)
        with pytest.raises(KeyboardInterrupt):
            surgeon.predict(model, table, out=out, force=True, progress=stop)
    assert out.read_bytes() == b"old"
    kept = tmp_path / "answers.partial.parquet"
    assert len(rows_of(kept)) >= 16
    assert kept.name in caplog.text


def test_a_full_disk_keeps_the_rows_so_far(model, table, tmp_path, monkeypatch):
    monkeypatch.setattr(table_parts, "ROWS", 16)
    before = answer_file._Csv.write

    def write(self, rows):
        if self._file.tell() > 1000:
            raise OSError(errno.ENOSPC, "no space left")
        before(self, rows)

    monkeypatch.setattr(answer_file._Csv, "write", write)
    with pytest.raises(EnvironmentLacksError) as told:
        surgeon.predict(model, table, out=tmp_path / "answers.csv")
    assert told.value.where == str(tmp_path / "answers.partial.csv")
    assert len(rows_of(tmp_path / "answers.partial.csv")) == 16
    assert not (tmp_path / "answers.csv").exists()


@pytest.mark.parametrize("name", ["answers.xlsx", "answers"])
def test_another_ending_is_refused(model, table, tmp_path, name):
    with pytest.raises(UsageError, match="csv"):
        surgeon.predict(model, table, out=tmp_path / name)


def test_a_file_that_is_there_is_refused_before_anything_runs(model, tmp_path):
    (tmp_path / "answers.csv").touch()
    with pytest.raises(OutputError):
        surgeon.predict(model, tmp_path / "none.csv", out=tmp_path / "answers.csv")


def test_the_likeliest_classes(model, table, tmp_path, capsys):
    whole = surgeon.predict(model, table, top_k=2)
    first = whole.document()["predictions"][0]
    order = np.argsort(first["probabilities"])[::-1][:2]
    assert [one["index"] for one in first["top"]] == order.tolist()
    assert first["top"][0]["label"] == first["label"]
    surgeon.predict(model, table, top_k=2, out=tmp_path / "answers.csv")
    row = rows_of(tmp_path / "answers.csv")[0]
    assert "probability:cat" not in row
    assert row["label_2"] == tabular.LABELS[order[1]]
    assert main(["predict", str(model), str(table), "--top-k", "2"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert first["label"] in shown


def test_labels_beside_the_values_are_no_values(model, table, tmp_path, capsys):
    head, *rows = table.read_text().splitlines()
    beside = tmp_path / "beside.csv"
    beside.write_text("\n".join([f"{head},kind", *(f"{row},cat" for row in rows)]))
    alike = surgeon.predict(model, beside).probabilities
    assert np.array_equal(alike, surgeon.predict(model, table).probabilities)
    beside.write_text("\n".join([f"{head},kind", *(f"{row},3" for row in rows)]))
    assert main(["predict", str(model), str(beside)]) == 2
    assert "--label-column" not in capsys.readouterr().err  # which `predict` does not have


def test_values_have_no_likeliest_class(tmp_path, table):
    plain = tabular.network("y")
    del plain.metadata_props[:]
    plain.graph.node[0].op_type = "MatMul"
    del plain.graph.node[0].input[2]
    onnx.save(plain, tmp_path / "plain.onnx")
    with pytest.raises(UsageError, match="top-k"):
        surgeon.predict(tmp_path / "plain.onnx", table, top_k=2, task="regression").document()


def test_vectors_are_lists_in_parquet_and_json_in_csv(model, table, tmp_path):
    vectors = surgeon.predict(model, table, cut="late").values
    for ending in ("parquet", "csv"):
        out = tmp_path / f"answers.{ending}"
        surgeon.predict(model, table, cut="late", out=out)
        found = [row["embedding"] for row in rows_of(out)]
        found = [json.loads(one) if isinstance(one, str) else one for one in found]
        np.testing.assert_allclose(found, vectors, atol=1e-6)


MEASURED = """
import sys, surgeon
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
seen = []
def told(stage, done, total, **_):
    seen.append((done, peak()))
surgeon.predict(sys.argv[1], sys.argv[2], out=sys.argv[3], threads=1, progress=told)
quarter = next(kb for done, kb in seen if done >= 20_000)
print(quarter, seen[-1][1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_memory_does_not_grow_with_rows(model, tmp_path, ending):
    table = tmp_path / "large.csv"
    tabular.write_csv(table, tabular.values(50_000))
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, model, table, tmp_path / f"answers.{ending}"],
        capture_output=True, text=True, check=True, env=os.environ,
    )  # fmt: skip
    quarter, end = map(int, done.stdout.split())
    assert end - quarter < 12_000, f"{end - quarter} kB more for 30,000 rows"
