"""Average precision is COCO's; assignment and overlap are what their papers say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surgeon.errors import DataError, UnsupportedError
from surgeon.tasks.base import Targets
from surgeon_detect import boxes, loss
from surgeon_detect.task import Detection


def some(random, count, classes=3):
    """Return boxes that are there, and boxes that are said: near ones, and others."""
    low = random.random((count, 2)) * 40
    there = np.column_stack(
        [random.integers(0, classes, count), low, low + 8 + 16 * random.random((count, 2))]
    )
    near = there[random.random(count) < 0.8]
    near = near + np.column_stack([np.zeros(len(near)), random.normal(0, 2, (len(near), 4))])
    near[:, 3:] = np.maximum(near[:, 3:], near[:, 1:3] + 1)
    other = some(random, 2, classes)[0] if count > 2 else near[:0]
    said = np.concatenate([near, other])
    return there, np.column_stack([said[:, 0], random.random(len(said)).round(2), said[:, 1:]])


def padded(rows, columns):
    found = np.full((len(rows), max(map(len, rows), default=0) + 1, columns), np.nan)
    for place, row in enumerate(rows):
        if len(row):
            found[place, : len(row)] = row
    return found


def by_cocos_tools(there, said):
    """Return AP and AP at 0.5 as pycocotools computes them."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, number = COCO(), 0
    entries = []
    for picture, rows in enumerate(there):
        for kind, x0, y0, x1, y1 in rows.tolist():
            number += 1
            entries.append({"id": number, "image_id": picture, "category_id": int(kind) + 1,
                            "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0,
                            "area": (x1 - x0) * (y1 - y0)})  # fmt: skip
    truth.dataset = {"images": [{"id": n} for n in range(len(there))], "annotations": entries,
                     "categories": [{"id": n + 1} for n in range(3)], "info": {}}  # fmt: skip
    truth.createIndex()
    found = truth.loadRes([
        {"image_id": picture, "category_id": int(kind) + 1, "score": score,
         "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for picture, rows in enumerate(said) for kind, score, x0, y0, x1, y1 in rows.tolist()
    ])  # fmt: skip
    judge = COCOeval(truth, found, "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge.stats[:2]


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_that_of_cocos_own_tools(seed, capsys):
    pytest.importorskip("pycocotools")
    random = np.random.default_rng(seed)
    there, said = zip(*(some(random, int(random.integers(1, 7))) for _ in range(30)), strict=True)
    targets = Targets(padded(there, 5).astype(np.float32), ("a", "b", "c"))
    scores = Detection().score([(padded(said, 6), targets)])
    ap, ap_50 = by_cocos_tools([one.astype(np.float32) for one in there], said)
    capsys.readouterr()
    assert scores.figures["map"] == pytest.approx(ap, abs=1e-6)
    assert scores.figures["map_50"] == pytest.approx(ap_50, abs=1e-6)
    assert 0.05 < ap < 0.9


def test_figures_of_one_class_by_hand():
    """Two are there; said are one right (0.9), one wrong (0.8), one right (0.7)."""
    there = padded([[(0, 0, 0, 10, 10), (0, 20, 20, 30, 30)]], 5)
    said = padded([[(0, 0.9, 0, 0, 10, 10), (0, 0.8, 40, 0, 50, 9), (0, 0.7, 20, 20, 30, 30)]], 6)
    scores = Detection().score([(said, Targets(there.astype(np.float32), ("a", "b")))])
    wanted = (51 * 1 + 50 * 2 / 3) / 101
    assert scores.figures["map_50"] == pytest.approx(wanted)
    assert scores.quality.tolist() == pytest.approx([wanted])
    first, second = scores.details["per_class"]
    assert (first["precision"], first["recall"], first["support"]) == (2 / 3, 1.0, 2)
    assert second["support"] == 0


def test_pictures_without_boxes_are_right_where_nothing_is_told():
    nothing = np.full((2, 1, 5), np.nan, np.float32)
    said = padded([[], [(0, 0.9, 0, 0, 10, 10)]], 6)
    scores = Detection().score([(said, Targets(nothing, ("a",)))])
    assert scores.quality.tolist() == [1, 0]
    assert scores.figures["map_50"] is None
    with pytest.raises(DataError, match="none of 2 pictures"):
        Detection().check(Targets(nothing, ("a",)))


@pytest.mark.parametrize("form", ["v8", "v5"])
def test_outputs_are_decoded_and_what_overlaps_is_left_out(form):
    first = 4 if form == "v8" else 5
    rows = np.zeros((30, first + 2))
    rows[:3, :4] = [(10, 10, 8, 8), (11, 10, 8, 8), (40, 40, 10, 20)]
    rows[:3, first] = (0.6, 0.9, 0.3)
    rows[1, first + 1] = 0.2
    if form == "v5":
        rows[:, 4] = 0.5
        rows[:, first:] *= 2
    raw = rows.T[None] if form == "v8" else rows[None]
    (found,) = Detection().decode(raw, "Identity", ["a", "b"]).answers
    told = found[~np.isnan(found[:, 0])]
    np.testing.assert_allclose(told[:, 1], [0.9, 0.3, 0.2])
    np.testing.assert_allclose(told[0, 2:], [7, 6, 15, 14])
    (row,) = Detection().rows(found[None], ["a", "b"])
    assert [one["label"] for one in row["boxes"]] == ["a", "a"]
    assert row["boxes"][1]["box"] == [35, 30, 45, 50]


def test_the_best_fitting_boxes_are_assigned_and_an_overlapped_one_to_its_own():
    there = torch.tensor([[[0.0, 0, 0, 16, 16], [1, 32, 32, 64, 64], [torch.nan] * 5]])
    points = torch.from_numpy(loss.points(64, 64, 80))
    said = torch.cat([points - 8, points + 8], 1)[None]
    owner, fit = loss.assign(said, torch.full((1, 80, 2), 0.5), there, points)
    taken = points[owner[0] == 0]
    assert len(taken)
    assert ((taken > 0) & (taken < 16)).all()
    assert (owner[0] == 1).sum() <= loss.NEAREST
    best = int(fit[0][owner[0] == 0].argmax())
    assert fit[0][owner[0] == 0][best] == pytest.approx(1, abs=0.05)
    nothing, _ = loss.assign(said, torch.full((1, 80, 2), 0.5), there[:, :0], points)
    assert (nothing == -1).all()


def test_a_box_smaller_than_a_cell_is_assigned_the_nearest():
    there = torch.tensor([[[0.0, 8.5, 8.5, 10.5, 10.5]]])
    points = torch.from_numpy(loss.points(64, 64, 80))
    said = torch.cat([points - 8, points + 8], 1)[None]
    owner, _ = loss.assign(said, torch.full((1, 80, 2), 0.5), there, points)
    assert (owner == 0).any()


def test_complete_overlap_falls_with_distance_and_form():
    box = torch.tensor([[0.0, 0, 10, 10]])
    same, apart, far, long = (
        float(loss.complete_overlap(box, torch.tensor([other], dtype=torch.float32)))
        for other in ([0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [0, 0, 10, 5])
    )
    assert same == pytest.approx(1, abs=1e-3)
    assert same > long > apart > far
    assert long < 0.5  # less than plain overlap


def test_boxes_of_a_picture_that_no_pyramid_has_are_refused():
    with pytest.raises(UnsupportedError, match="pyramid"):
        loss.points(64, 64, 79)
    assert len(loss.points(640, 640, 25200)) == 25200
    assert len(loss.points(640, 384, 5040)) == 5040


@pytest.mark.parametrize("columns", [6, 7])
def test_the_loss_falls_to_where_the_boxes_are(columns):
    """Boxes and probabilities themselves are moved: both forms learn one box and its class."""
    torch.manual_seed(0)
    points = torch.from_numpy(loss.points(64, 64, 80))
    there = torch.tensor([[[-1.0, 0, 0, 64, 64], [1, 10, 12, 34, 40]]])
    place = torch.cat([points, torch.full((80, 2), 14.0)], 1)[None].requires_grad_()
    scores = torch.full((1, 80, columns - 4), -2.0, requires_grad=True)
    objective = loss.Aligned.of(there.numpy(), 2)
    steps = torch.optim.Adam([{"params": [place], "lr": 0.5}, {"params": [scores], "lr": 0.1}])
    for _ in range(60):
        output = torch.cat([place, scores.sigmoid()], 2)
        output = output.transpose(1, 2) if columns == 6 else output
        steps.zero_grad()
        objective.loss(output, there).backward()
        steps.step()
    _, quality, count = objective.judge(output.detach(), there)
    assert float(count) == 1
    assert float(quality) == 1
    (told,) = boxes.decode(output.detach().numpy(), 2)
    assert told[0, 0] == 1
    np.testing.assert_allclose(told[0, 2:], [10, 12, 34, 40], atol=3)
