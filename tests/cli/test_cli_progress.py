"""Progress: lines where there is no terminal, a bar where there is one."""

from __future__ import annotations

import io

import pytest

from surgeon.cli import progress
from surgeon.cli.session import Session


def test_at_most_one_line_a_second_and_always_the_last(capsys, monkeypatch):
    clock = iter([0.0, 0.2, 0.9, 1.1, 1.2, 1.3])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    report = progress.LineProgress()
    for step in range(1, 6):
        accuracy = 0.5 if step == 2 else None
        report("train", step, 5, loss=1 / step, accuracy=accuracy, throughput=99.6)
    report("train", 5, 5)
    assert capsys.readouterr().err.splitlines() == [
        "train 1/5  loss 1.0000  100 samples/s",
        "train 4/5  loss 0.2500  accuracy 50.00%  100 samples/s",
        "train 5/5  loss 0.2000  accuracy 50.00%  100 samples/s",
    ]


def test_a_share_is_per_cent(capsys):
    report = progress.LineProgress()
    report("all", 0.42, 1.0, epoch=3, left=61.2)
    report("read", 7)
    assert capsys.readouterr().err.splitlines() == ["all 42%  epoch 3  61 s left", "read 7"]


def test_quiet(capsys):
    with progress.progress_for(Session(quiet=True)) as report:
        report("train", 1, 2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("total", [None, 4])
def test_a_bar_on_a_terminal(monkeypatch, total):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress.progress_for(Session()) as report:
        report("train", 1, total, loss=0.5, accuracy=0.25)
        report("train", 4, total, loss=0.25, accuracy=0.75)
    assert "loss 0.2500" in stream.getvalue()
    assert "accuracy 75.00%" in stream.getvalue()
