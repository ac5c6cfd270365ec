"""Grades, without a model: a near one is less wrong than a far one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics

from surgeon.errors import DataError
from surgeon.tasks.find import find_task

TASK = find_task("ordinal")


def test_grades_are_whole_numbers_in_their_order():
    found = TASK.read(["10", "9", "-1"], "data")
    assert found.names == ("-1", "9", "10")
    with pytest.raises(DataError, match="'good'"):
        TASK.read(["good", "1"], "data")


def test_figures_are_scikit_learns():
    random = np.random.default_rng(0)
    codes = random.integers(0, 5, 300)
    scores = random.standard_normal((300, 5)) + 2 * np.eye(5)[codes]
    told = TASK.decode(scores, "Identity").answers
    said = told.argmax(axis=1)
    targets = TASK.read(codes + 1, "data")
    found = TASK.score([(told[:100], targets[:100]), (told[100:], targets[100:])])
    assert found.figures["weighted_kappa"] == pytest.approx(
        metrics.cohen_kappa_score(codes, said, weights="quadratic")
    )
    assert found.quality.mean() == pytest.approx(found.figures["quality"])
    assert found.figures["mae"] == pytest.approx(metrics.mean_absolute_error(codes, said))
    assert found.figures["accuracy"] == pytest.approx(metrics.accuracy_score(codes, said))
    confusion = TASK.details(told, targets)["confusion"]
    assert confusion == metrics.confusion_matrix(codes, said).tolist()


def test_what_is_minimised_tells_a_far_grade_from_a_near_one():
    from surgeon_losses.ordered import Ordered

    objective = Ordered()
    sure, right = 20 * torch.eye(3), torch.tensor([0, 0, 0])
    losses = [float(objective.loss(sure[[at]], right[[at]])) for at in range(3)]
    assert losses[2] > losses[1] + 0.9 > losses[0]
    _, quality, judged = objective.judge(sure, torch.tensor([0, 0, -100]))
    assert (float(quality), int(judged)) == (-1.0, 2)
