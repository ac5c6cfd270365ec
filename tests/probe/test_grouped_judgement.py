"""What is judged in folds is judged on patients that were not learnt from."""

from __future__ import annotations

import json

import networks as nw
import numpy as np
import pytest

import surgeon
from surgeon.probe import evidence
from surgeon.probe.evidence import Sought
from surgeon.probe.solver import solve
from surgeon.records import CutPoint

CUT = CutPoint("t", 0.5, ("N", 8), "float", 0, 0, 0, 0)


def patients(count=40, each=6, width=64, seed=0):
    """Return features that tell who it is and nothing of the illness, the illness, and who."""
    random = np.random.default_rng(seed)
    person = np.repeat(np.arange(count), each)
    own = random.normal(size=(count, width))
    x = own[person] + 0.05 * random.normal(size=(len(person), width))
    ill = random.permutation(np.arange(count) % 2)[person]
    order = random.permutation(len(person))
    return x[order].astype(np.float32), ill[order], person[order]


def test_the_solved_head_is_judged_on_others():
    x, ill, person = patients()
    fooled, honest = solve(x, ill, 2), solve(x, ill, 2, groups=person)
    assert (fooled.out_of_fold == ill).mean() > 0.95
    assert (honest.out_of_fold == ill).mean() < 0.75
    held = np.isin(person, np.arange(8))
    refitted = solve(x, ill, 2, groups=person, held=held)
    assert (refitted.out_of_fold[held] == ill[held]).mean() < 0.9


def test_the_probes_are_judged_on_others():
    x, ill, person = patients()
    values = evidence.project(x, 0)
    asked = {"seed": 0, "repetitions": 2}
    fooled = evidence.probe(values, Sought.classes(ill), CUT, 64, **asked)
    honest = evidence.probe(values, Sought.classes(ill), CUT, 64, **asked, groups=person)
    assert fooled.quality > 0.95
    assert honest.quality < 0.75
    curve = evidence.learning_curve(values, Sought.classes(ill), 0, groups=person)
    assert curve[-1][1] < 0.75


@pytest.fixture
def table(tmp_path):
    x, ill, person = patients(count=24, each=3, width=8)
    rows = [
        {**{f"x{i}": float(value) for i, value in enumerate(row)}, "label": int(y), "who": f"p{p}"}
        for row, y, p in zip(x, ill, person, strict=True)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path, x, ill, person


def test_the_option_and_the_array_say_the_same(table):
    path, x, ill, person = table
    told = surgeon.finetune(nw.mlp(), path, case="small-similar", group_column="who").document()
    array = surgeon.finetune(
        nw.mlp(), {"x": x, "labels": ill, "groups": person}, case="small-similar"
    ).document()
    assert told["data"]["groups"] == array["data"]["groups"] == 24
    assert told["data"]["validation"] == array["data"]["validation"]
    figures = [one["metrics"]["validation"]["accuracy"] for one in (told, array)]
    assert figures[0] == pytest.approx(figures[1], abs=0.1)
    plain = surgeon.finetune(nw.mlp(), {"x": x, "labels": ill}, case="small-similar").document()
    assert plain["data"]["groups"] is None
    advice = surgeon.advise(nw.mlp(), path, group_column="who")
    assert advice.evidence.samples == 72


def test_a_split_that_tears_groups_is_a_warning_of_the_run(table):
    _, x, ill, person = table
    split = np.where(np.arange(len(ill)) % 3 == 0, "validation", "train")
    data = {"x": x, "labels": ill, "groups": person, "split": split}
    outcome = surgeon.finetune(nw.mlp(), data, case="small-similar", dry_run=True)
    assert any("groups lie in more than one" in line for line in outcome.document()["warnings"])
