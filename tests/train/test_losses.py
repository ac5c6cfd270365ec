"""Losses that people name: what they compute, what they leave out, which tasks they fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from surgeon.errors import UsageError
from surgeon.train.losses import OtherLoss, check_loss, with_loss
from surgeon.train.objective import BinaryCrossEntropy, CrossEntropy, SquaredError

CODES = np.array([0, 2, 1, 2, 2, -100])
NAN = float("nan")


@pytest.fixture
def outputs():
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)


def minimised(text, outputs, targets, base=CrossEntropy, task="classification", **more):
    objective = with_loss(base(), text, task, targets, 3, **more)
    return objective, objective.loss(outputs, torch.from_numpy(targets)), objective.total(targets)


def test_focal_loss_is_cross_entropy_that_forgets_what_is_easy(outputs):
    objective, loss, total = minimised("focal:gamma=2", outputs, CODES)
    told = outputs.softmax(1)[torch.arange(5), torch.tensor(CODES[:5])]
    assert loss.item() == pytest.approx((-((1 - told) ** 2) * told.log()).sum().item(), rel=1e-5)
    assert total == 5
    assert "gamma=2" in repr(objective)
    plain = minimised("focal:gamma=0", outputs, CODES)[1]
    assert plain.item() == pytest.approx(CrossEntropy().loss(outputs, torch.tensor(CODES)).item())


def test_focal_loss_of_labels_leaves_out_what_is_not_known(outputs):
    targets = np.array([[1, 0, NAN]] * 5 + [[NAN] * 3], np.float32)
    _, loss, total = minimised("focal:gamma=0", outputs, targets, BinaryCrossEntropy, "multi-label")
    each = functional.binary_cross_entropy_with_logits(
        outputs[:5, :2], torch.tensor(targets[:5, :2]), reduction="none"
    )
    assert loss.item() == pytest.approx(each.mean(1).sum().item(), rel=1e-5)
    assert total == 5
    loss.backward()
    assert outputs.grad.isfinite().all()
    assert (outputs.grad[:, 2] == 0).all()
    assert (outputs.grad[5] == 0).all()


def test_smoothing_is_torchs(outputs):
    _, loss, _ = minimised("smoothing:amount=0.2", outputs, CODES)
    wanted = functional.cross_entropy(
        outputs, torch.tensor(CODES), label_smoothing=0.2, reduction="sum"
    )
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 3, 4, 5)])
def test_positions_and_pixels_are_means_of_each_sample(shape):
    outputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    places = (shape[0], *(shape[1:2] if len(shape) == 3 else shape[2:]))
    targets = np.random.default_rng(0).integers(0, 3, places)
    targets[0, 0], targets[1] = -100, -100
    _, loss, total = minimised("focal:gamma=0", outputs, targets, task="tokens")
    wanted = functional.cross_entropy(
        outputs if len(shape) == 4 else outputs.movedim(-1, 1), torch.tensor(targets)
    )
    assert (loss.item(), total) == (pytest.approx(wanted.item(), rel=1e-5), 1)


def test_huber_loss_is_half_a_square_near_by_and_linear_far_away():
    outputs, targets = torch.tensor([[0.5], [3.0], [9.0]]), np.array([[0.0], [0.0], [NAN]])
    _, loss, _ = minimised("huber:delta=1", outputs, targets, SquaredError, "regression")
    assert loss.item() == pytest.approx(0.125 + 2.5)


def test_ordinal_loss_tells_a_far_class_from_a_near_one():
    sure = 20 * torch.eye(3)[[0, 1, 2]]
    targets = np.array([0, 0, 0])
    each = [minimised("ordinal", sure[[at]], targets[[at]])[1].item() for at in range(3)]
    cross = [minimised("ordinal:weight=0", sure[[at]], targets[[at]])[1].item() for at in range(3)]
    assert np.subtract(each, cross) == pytest.approx([0, 1, 2], abs=1e-5)
    assert cross[1] == pytest.approx(cross[2])


def test_classes_are_weighed_alike_or_as_told(outputs):
    balanced, loss, total = minimised("weighted", outputs, CODES)
    assert balanced.weights == pytest.approx([5 / 3, 5 / 3, 5 / 9])
    assert total == pytest.approx(5)
    named, loss, total = minimised(
        "weighted:weights=dog:3|a:b:0.5", outputs, CODES, names=("cat", "dog", "a:b")
    )
    assert named.weights == (1.0, 3.0, 0.5)
    entropy = functional.cross_entropy(outputs[:5], torch.tensor(CODES[:5]), reduction="none")
    assert loss.item() == pytest.approx(
        (entropy * torch.tensor([1, 0.5, 3, 0.5, 0.5])).sum().item()
    )
    assert total == 5.5


@pytest.mark.parametrize("text", ["focal", "huber:delta=0.5"])
def test_the_judgement_stays_the_tasks(outputs, text):
    base, task = (
        (CrossEntropy, "classification") if text == "focal" else (SquaredError, "regression")
    )
    targets = CODES if task == "classification" else np.zeros((6, 3), np.float32)
    objective, _, _ = minimised(text, outputs, targets, base, task)
    wanted = base().judge(outputs, torch.from_numpy(targets))
    assert objective.judge(outputs, torch.from_numpy(targets)) == wanted


@pytest.mark.parametrize(
    ("text", "task", "words"),
    [
        ("focl", "classification", "focal"),
        ("huber", "classification", "focal"),
        ("focal:gama=2", "classification", "gamma"),
        ("focal:gamma=x", "classification", "gamma"),
        ("weighted:weights=0.5", "classification", "cat:3"),
        ("weighted:weights=bird:2", "classification", "bird"),
        ("weighted:weights=cat:-1", "classification", "cat:3"),
    ],
)
def test_what_cannot_be_meant_says_what_can(outputs, text, task, words):
    with pytest.raises(UsageError) as caught:
        minimised(text, outputs, CODES, task=task, names=("cat", "dog", "cow"))
    assert words in str(caught.value)
    if "weights" not in text:
        with pytest.raises(UsageError):
            check_loss(text, task, None)


def test_a_loss_of_another_shape_is_refused(outputs):
    objective = OtherLoss(CrossEntropy(), lambda told, right: told.mean() + right.sum(), "mine")
    with pytest.raises(UsageError, match=r"\[n\]"):
        objective.loss(outputs, torch.from_numpy(CODES))
