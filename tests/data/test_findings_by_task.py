"""What samples and probes say of the answers of each task, and where they say nothing."""

from types import SimpleNamespace

import numpy as np
import pytest

from surgeon.data import open_data, split
from surgeon.data.examine import copy_findings, examine_samples
from surgeon.probe.findings import doubtful_findings
from surgeon.records import TensorInfo
from surgeon.targets import ask_for

X = TensorInfo("x", "float", ("N", 3), 0)
N = 60


def arrays(labels):
    values = np.random.default_rng(0).normal(size=(len(labels), 3)).astype("f4")
    values[1] = values[0]
    return open_data({"x": values, "labels": labels}, [X])


def found(task, labels):
    samples = arrays(labels)
    asked = ask_for(task, samples, None)
    parts = split(np.zeros(len(labels), int))
    told = examine_samples(samples, asked.task, asked.targets, parts, 0)
    return {one.kind: one for one in told}, asked, samples, parts


def test_labels_are_counted_and_rare_ones_named():
    labels = np.zeros((N, 3), bool)
    labels[:40, 0], labels[:4, 1], labels[10:40, 2] = True, True, True
    told, *_ = found("multi-label", labels)
    assert "20 without any" in told["classes"].message
    assert "'1'" in told["rare-class"].message
    assert "conflict" not in told


def test_numbers_have_a_range_and_copies_that_disagree_are_named():
    told, asked, samples, parts = found("regression", np.linspace(0.5, 9.5, N))
    assert "0.5 to 9.5" in told["numbers"].message
    assert told["conflict"].samples == ("row 0", "row 1")
    assert [detail["label"] for detail in told["conflict"].details] == ["0.5", "0.652542372881356"]
    near = copy_findings(samples, [(3, 4)], asked.task, asked.targets, parts, 0, near=True)
    assert [one.kind for one in near][-1] != "conflict"  # what is alike may differ a little


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("tokens", np.arange(N * 4).reshape(N, 4) % 3),
        ("segmentation", np.arange(N * 16).reshape(N, 4, 4) % 3),
        ("embedding", np.arange(N) % 3),
        ("regression", np.random.default_rng(0).normal(size=(N, 2))),
    ],
)
def test_answers_of_every_form_are_examined(task, labels):
    told, asked, samples, _ = found(task, labels)
    assert told["conflict"].message.startswith("1 set")
    if asked.task.keeps:
        measured = probed(np.zeros((N, 2)))
        (note,) = doubtful_findings(measured, samples, asked.task, asked.targets)
        assert (note.level, note.kind) == ("note", "not-examined")


def probed(scores):
    """Return the evidence of one probe with held-out scores."""
    return SimpleNamespace(
        probes=[SimpleNamespace(scores=scores, quality=1.0)], rows=np.arange(len(scores))
    )


def standardised(values):
    return (values - values.mean(axis=0)) / values.std(axis=0)


def test_a_label_that_is_wrong_is_doubted_by_itself():
    """Those nearest to the border are the hard ones: what is far from it is an error."""
    latent = np.random.default_rng(0).normal(size=(400, 2))
    right = latent > 0
    sure = np.flatnonzero(np.abs(latent[:, 1]) > 1.2)[:5]
    wrong = right.copy()
    wrong[sure, 1] ^= True
    samples = arrays(wrong)
    asked = ask_for("multi-label", samples, None)
    (doubt,) = doubtful_findings(probed(latent), samples, asked.task, asked.targets)
    assert {f"row {row}" for row in sure} <= set(doubt.samples)
    assert len(doubt.samples) <= 8
    assert {about["label"].removeprefix("not ") for about in doubt.details} == {"1"}


def test_a_number_far_from_what_is_expected_is_doubted():
    random = np.random.default_rng(0)
    right = random.normal(10, 3, (400, 1))
    wrong = right.copy()
    wrong[7] = 30.0
    samples = arrays(wrong)
    asked = ask_for("regression", samples, None)
    scores = standardised(right + 0.3 * random.normal(size=right.shape)) * (
        right.std() / wrong.std()
    )
    (doubt,) = doubtful_findings(probed(scores), samples, asked.task, asked.targets)
    assert doubt.samples == ("row 7",)
    assert float(doubt.details[0]["suggested"]) == pytest.approx(right[7, 0], abs=2)
