"""A page tells a document: each number is the document's, and no name becomes markup."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

import surgeon
from surgeon.errors import DataError, OutputError, UsageError
from surgeon.reporting.sources import plain

HASH = "0" * 64
EVIL = '<script>alert("x")</script> & "co"'


def run(epochs=6, classes=3, label="class"):
    """The document of a run, with names that would be markup."""
    names = [f"{label} {k} {EVIL}" for k in range(classes)]
    figures = {"samples": 40, "loss": 0.31234567, "quality": 0.912345678, "accuracy": 0.912345678,
               "macro_f1": 0.8765432, "mae": None}  # fmt: skip
    row = {"validation_accuracy": 0.9, "validation_loss": 0.4, "seconds": 0.25, "step": 1}
    return {
        "schema": 1, "verb": "finetune", "surgeon": "0.1.0", "out": f"{EVIL}.onnx", "sha256": HASH,
        "case": "large-similar", "labels": names, "device": "cpu", "precision": "float32",
        "plan": {
            "case": "large-similar", "cut": f"pool {EVIL}", "depth": 0.61, "classes": classes,
            "outputs": classes, "init": "pretrained", "task": "classification", "loss": None,
            "head": {"kind": "gemm", "options": {}, "pool": "mean", "taps": []}, "adapter": None,
            "why": "many, alike", "trainable": ["a"],
            "stages": [{"name": "head", "method": "solve", "trains": "head"},
                       {"name": "all", "method": "adamw", "trains": "all"}],
        },
        "providers": ["CPUExecutionProvider"], "seed": 7,
        "data": {"samples": 200, "train": 160, "validation": 40, "test": 0, "groups": None,
                 "classes": {name: 10 + k for k, name in enumerate(names)}, "ignored": 2,
                 "skipped": [{"path": f"{EVIL}.png", "reason": "no picture"}], "sha256": HASH},
        "blocks": [
            {"name": f"c1 {EVIL}", "depth": [0.0, 0.3], "trained": False, "weights": ["c1"],
             "parameters": 1234567, "lr": None},
            {"name": "c2.*", "depth": [0.4, 0.6], "trained": True, "weights": ["c2"],
             "parameters": 4321, "lr": 0.000123456},
            {"name": "surgeon.head.*", "depth": [1.0, 1.0], "trained": True,
             "weights": ["surgeon.head.weight"], "parameters": 99, "lr": 0.001},
        ],
        "frontier": {"tensors": [], "nodes_frozen": 5, "nodes_trained": 3, "cache": None},
        "trained_parameters": 4420, "samples_seen": 1000, "peak_memory": 123456789,
        "metrics": {"validation": figures, "test": None, "train": figures},
        "history": [
            {"stage": "all" if k else "head", "epoch": k, "loss": 1 / (k + 1.5) if k else None,
             "lr": 0.001 / (k + 1), **row}
            for k in range(epochs)
        ],
        "guard": {"samples": 40, "probe": {"accuracy": 0.8}, "tuned": {"accuracy": 0.9},
                  "gain": 0.1, "error": 0.0212345, "expected": None},
        "race": None, "delivered": "tuned", "stopped": None, "tracked": [], "report": None,
        "seconds": {"total": 12.5, "features": 3.25, "train": 8.0, "write": 0.5},
        "asked": {"model": "net.onnx", "data": "my photos", "versions": {"torch": "2.13.0"},
                  "options": {"case": "large-similar", "lr_find": True, "size": [64, 48],
                              "freeze": ["c1*"], "out": "it's.onnx", "inputs": {"sr": "16000"}}},
        "proof": {"frozen": {"count": 1, "sha256": HASH}, "tuned": {"count": 2, "sha256": HASH},
                  "parity": {"samples": 4, "max_relative": 2.345678e-7, "bound": 1e-4},
                  "golden": [{}, {}], "source_sha256": HASH},
        "warnings": [f"look at {EVIL}"],
    }  # fmt: skip


def judged(classes=3):
    names = [f"class {k} {EVIL}" for k in range(classes)]
    return {
        "verb": "evaluate", "path": "tuned.onnx", "samples": 60, "labels": names, "skipped": [],
        "metrics": {"loss": 0.3, "quality": 0.91, "accuracy": 0.91, "macro_f1": 0.9, "r2": None,
                    "interval": [0.85, 0.95]},
        "top_k": [{"k": 1, "accuracy": 0.91}, {"k": 2, "accuracy": 0.97}],
        "per_class": [{"label": n, "precision": 0.9, "recall": 0.8, "f1": 0.84, "support": 20}
                      for n in names],
        "confusion": [[18 if i == j else (i + j) % 2 for j in range(classes)]
                      for i in range(classes)],
        "against": None, "providers": ["CPUExecutionProvider"], "seconds": 1.5, "warnings": [],
    }  # fmt: skip


class Page(HTMLParser):
    """What stands on a page: numbers with their places, tags, headings."""

    def __init__(self, text):
        super().__init__()
        self.numbers, self.tags, self.levels, self.ids, self.sources = [], [], [], [], []
        self.open = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        if tag == "data":
            self.numbers.append((given["data-of"], float(given["value"])))
        if tag in {"h1", "h2", "h3"}:
            self.levels.append(int(tag[1]))
        if "id" in given:
            self.ids.append(given["id"])
        self.sources += [given[key] for key in ("src", "href", "srcset") if key in given]


def at(document, pointer):
    for step in pointer.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        document = document[int(key)] if isinstance(document, list) else document[key]
    return document


def told(*documents):
    text = surgeon.report(list(documents))["html"]
    page = Page(text)
    by = {one["verb"]: one for one in documents}
    assert page.numbers
    for place, value in page.numbers:
        verb, pointer = place.split("#")
        assert value == at(by[verb], pointer), place
    return text, page


def test_every_number_is_that_of_the_document():
    _, page = told(run(), judged())
    places = {place for place, _ in page.numbers}
    for wanted in (
        "finetune#/metrics/validation/accuracy", "finetune#/blocks/1/lr", "finetune#/seed",
        "finetune#/proof/parity/max_relative", "finetune#/history/3/loss",
        "evaluate#/confusion/1/2", "evaluate#/per_class/2/f1", "evaluate#/metrics/interval/1",
    ):  # fmt: skip
        assert wanted in places


def test_names_are_text_and_nothing_comes_from_outside():
    text, page = told(run(), judged())
    assert "script" not in page.tags
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert all(one.startswith(("#", "data:")) for one in page.sources)
    assert "default-src 'none'" in text
    assert "@import" not in text
    assert "url(http" not in text


def test_the_page_is_in_order_for_those_who_do_not_see_it():
    text, page = told(run(), judged())
    assert page.levels[0] == 1
    assert page.levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(page.levels, page.levels[1:], strict=False))
    assert len(set(page.ids)) == len(page.ids)
    assert {"header", "main", "nav", "footer"} <= set(page.tags)
    assert text.count('role="img"') >= 5
    assert "<th>" not in text  # each has a scope


def test_a_large_run_is_a_page_that_can_be_sent():
    text, _ = told(run(epochs=3000, classes=1500, label="a class with a long name"), judged(1500))
    assert len(text.encode()) < 3_000_000


def test_a_plan_alone_is_told():
    document = run() | {"metrics": None, "history": [], "proof": None, "out": None, "guard": None}
    text, _ = told(document)
    assert "nothing was trained" in text


def test_the_command_can_be_run():
    text, _ = told(run())
    assert "surgeon finetune net.onnx &#39;my photos&#39; --case large-similar --lr-find" in text
    assert "--size 64x48" in text
    assert "--freeze &#39;c1*&#39;" in text
    assert "--input sr=16000" in text


def test_documents_of_older_versions_are_told():
    document = run()
    for key in ("asked", "report", "guard", "race", "tracked", "samples_seen", "peak_memory"):
        del document[key]
    told(document)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "no JSON"), ("[1]", "no document"), ('{"verb": "predict"}', "`predict`"),
        ('{"error": {"message": "no such file"}}', "no such file"),
        ('{"a": 1}', "no document"),
        ('{"history": 1, "plan": 2, "data": 3, "metrics": 4}', "not whole"),
    ],
)  # fmt: skip
def test_what_is_no_document_is_one_error(content, said, tmp_path):
    (tmp_path / "run.json").write_text(content, "utf-8")
    with pytest.raises(DataError, match=said) as caught:
        surgeon.report(tmp_path / "run.json", tmp_path / "out.html")
    assert caught.value.remedy
    assert not (tmp_path / "out.html").exists()


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    out = tmp_path / "out.html"
    body = surgeon.report(run(), out)
    assert body["bytes"] == out.stat().st_size
    with pytest.raises(OutputError, match="exists"):
        surgeon.report(run(), out)
    surgeon.report(run(), out, force=True)
    assert [one.name for one in tmp_path.iterdir()] == ["out.html"]


def test_one_of_each_kind():
    with pytest.raises(UsageError, match="two documents"):
        surgeon.report([run(), run()])
    with pytest.raises(UsageError, match="nothing"):
        surgeon.report([])


def test_numbers_that_are_none_are_said_so():
    document = plain(run() | {"trained_parameters": float("nan")})
    assert json.dumps(document, allow_nan=False)
    assert 'title="not known"' in surgeon.report(document)["html"]
