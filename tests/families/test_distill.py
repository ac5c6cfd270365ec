"""A student learns from another file: what it is told, what it minimises, what is refused."""

from __future__ import annotations

import networks as nw
import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional

import surgeon
from surgeon.errors import SurgeonError, UsageError
from surgeon.train.losses import asked, with_loss
from surgeon.train.objective import BinaryCrossEntropy, CrossEntropy, SquaredError
from surgeon_distill.loss import Distill

N = 36


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    codes = np.arange(N) % 3
    values = random.normal(0, 1, (N, 3, 12, 12)) + codes[:, None, None, None] / 2
    return {"x": values.astype(np.float32), "labels": np.array(["a", "b", "c"])[codes]}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SURGEON_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    """Return a tuned file with the same labels in another order, and one label more."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.onnx"
    order = dict(zip("abc", ("z", "c", "b"), strict=True))
    other = dict(data, labels=np.array([order[one] for one in data["labels"]]))
    other["labels"][:6] = ["a", "b", "c"] * 2
    surgeon.finetune(nw.convnet(), other, path, case="small-similar", device="cpu")
    return path


def student(data, loss, out=None, **options):
    options = {"case": "large-different", "cut": "@0.5", "epochs": 1, "seed": 1} | options
    return surgeon.finetune(nw.convnet(), data, out, loss=loss, device="cpu", **options)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def minimised(own, outputs, targets, teacher, given=None, **settings):
    """Return a loss, and what it is by its definition in torch."""
    shapes = {"teacher": tuple(teacher.shape[1:]), "features": (4,)}
    made = Distill(own, shapes, teacher="x", **settings)
    features = random(len(outputs), 4, seed=9) if given is None else given
    return made, made.loss(outputs, targets, teacher=teacher, features=features)


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 1.0), (4.0, 0.3)])
def test_classes_are_learnt_by_the_divergence_of_softened_answers(temperature, weight):
    outputs, right, targets = random(6, 3), random(6, 3, seed=1).detach(), torch.arange(6) % 3
    _, loss = minimised(
        CrossEntropy(), outputs, targets, right, temperature=temperature, weight=weight
    )
    wanted = weight * temperature**2 * functional.kl_div(
        (outputs / temperature).log_softmax(1), (right / temperature).softmax(1), reduction="sum"
    ) + (1 - weight) * functional.cross_entropy(outputs, targets, reduction="sum")
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    ours, theirs = (torch.autograd.grad(one, outputs)[0] for one in (loss, wanted))
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_student_that_says_the_same_has_nothing_to_learn():
    outputs = random(4, 3)
    _, loss = minimised(
        CrossEntropy(), outputs, torch.zeros(4).long(), outputs.detach() + 5, weight=1.0
    )
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert torch.autograd.grad(loss, outputs)[0].abs().max() < 1e-5


def test_positions_without_an_answer_are_left_out():
    outputs, right = random(2, 5, 3), random(2, 5, 3, seed=1).detach()
    targets = torch.tensor([[0, 1, 2, -100, -100], [2, -100, 0, 1, 1]])
    _, loss = minimised(CrossEntropy(axis=-1), outputs, targets, right, weight=1.0, temperature=1)
    each = functional.kl_div(
        outputs.log_softmax(-1), right.log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    assert loss.item() == pytest.approx(each[targets >= 0].sum().item(), rel=1e-5)


def test_labels_and_numbers_are_learnt_each_by_itself():
    outputs, right = random(4, 3), random(4, 3, seed=1).detach()
    targets = torch.tensor([[0.0, 1, 1], [1, 0, float("nan")]] * 2)
    known = ~targets.isnan()
    _, loss = minimised(BinaryCrossEntropy(), outputs, targets, right, weight=1.0, temperature=2)
    soft = (right / 2).sigmoid()
    each = functional.binary_cross_entropy((outputs / 2).sigmoid(), soft, reduction="none")
    least = functional.binary_cross_entropy(soft, soft, reduction="none")
    assert loss.item() == pytest.approx((4 * (each - least))[known].sum().item(), rel=1e-4)
    _, loss = minimised(SquaredError([1.0] * 3), outputs, targets, right, weight=1.0)
    assert loss.item() == pytest.approx((outputs - right)[known].square().sum().item(), rel=1e-5)


def test_features_tell_the_teachers_at_once_through_the_best_projection():
    features, outputs = random(200, 4, seed=2), random(200, 3)
    right = (features @ random(4, 7, seed=3) + 1).detach()
    targets = torch.zeros(200).long()
    made, before = minimised(
        CrossEntropy(), outputs, targets, right, features, features="late", weight=1.0
    )
    made.begin(outputs.detach(), targets, teacher=right, features=features.detach())
    after = made.loss(outputs, targets, teacher=right, features=features)
    assert after < 0.01 * before
    assert {name for name, _ in made.named_parameters()} == {"projection.weight", "projection.bias"}
    apart = (made.projection(features) - right).square().mean(1).sum()
    assert after.item() == pytest.approx(apart.item(), rel=1e-5)
    assert torch.autograd.grad(after, features)[0].abs().sum() > 0


def test_the_loss_asks_for_what_the_teacher_says_and_for_features():
    assert asked(Distill) == ("teacher", "features")
    shapes = {"teacher": (3,), "features": (4,)}
    made = with_loss(
        CrossEntropy(), "distill:teacher=f,weight=0.25", "classification", np.zeros(3), 3,
        shapes=shapes,
    )  # fmt: skip
    assert (made.asks, made.weight) == (("teacher", "features"), 0.25)
    assert "0.25" in repr(made)


def test_a_student_says_what_its_teacher_says(data, teacher):
    options = {
        "case": "small-similar",
        "cut": "features",
        "epochs": 15,
        "lr": 0.1,
        "init": "random",
    }
    known = list(surgeon.load(teacher).labels)
    said = surgeon.predict(teacher, {"x": data["x"]}).probabilities
    far = []
    for loss in (f"distill:teacher={teacher},weight=1,temperature=1", "smoothing:amount=0"):
        tuned = student(data, loss, **options).model
        order = [known.index(one) for one in tuned.labels]
        right = said[:, order] / said[:, order].sum(axis=1, keepdims=True)
        far.append(np.abs(surgeon.predict(tuned, {"x": data["x"]}).probabilities - right).mean())
    assert far[0] < 0.85 * far[1]


def test_the_file_is_that_of_any_other_loss(data, teacher, tmp_path):
    losses = (f"distill:teacher={teacher}", "distill:teacher=original,features=late", None)
    files = []
    for name, loss in enumerate(losses):
        path = tmp_path / f"{name}.onnx"
        body = student(data, loss, path, cut="features", freeze=["c1*"], init="random").body
        assert set(body["changed"]) <= set(body["trainable"]) | set(body["statistics"])
        assert body["frontier"]["nodes_frozen"]
        assert surgeon.verify(path).passed
        files.append(onnx.load(path).graph)
    for other in files[:2]:
        assert list(other.node) == list(files[2].node)
        assert [t.name for t in other.initializer] == [t.name for t in files[2].initializer]
        frozen = [t for t in other.initializer if t.name not in body["trainable"]]
        assert len(frozen) == 2
        assert all(t in files[2].initializer for t in frozen)


@pytest.mark.parametrize("more", ["", ",features=late", ",features=logits", ",features=@0.6"])
def test_the_same_seed_gives_the_same_bits_from_the_cache(data, teacher, more, monkeypatch):
    loss = f"distill:teacher={'original' if more else teacher}{more}"
    first = student(data, loss)
    from surgeon.runtime import extract

    ran = []
    went = extract._Extraction.go
    monkeypatch.setattr(extract._Extraction, "go", lambda self, *a: ran.append(1) or went(self, *a))
    second = student(data, loss)
    assert not ran
    assert first.model.proto == second.model.proto
    assert [r["loss"] for r in first.history] == [r["loss"] for r in second.history]


def test_a_run_that_went_on_gives_the_same_bits(data, tmp_path):
    options = {"epochs": 5, "init": "random", "batch": 8}
    loss, path = "distill:teacher=original,features=late", tmp_path / "resumed.onnx"
    whole = student(data, loss, **options)

    def stop(stage, *_, epoch=None, **__):
        if stage == "all" and epoch == 3:
            raise KeyboardInterrupt

    assert student(data, loss, path, progress=stop, **options).body["stopped"] == "interrupt"
    again = student(data, loss, path, resume=True, **options)
    assert again.body["resumed"]["stage"] == "all"
    assert again.model.proto.graph == whole.model.proto.graph


def test_a_run_does_not_go_on_with_another_teacher(data, teacher, tmp_path):
    path, own = tmp_path / "resumed.onnx", tmp_path / "teacher.onnx"
    own.write_bytes(teacher.read_bytes())
    options = {"epochs": 5, "init": "random", "batch": 8, "case": "small-similar"}

    def stop(stage, *_, epoch=None, **__):
        if stage == "head" and epoch == 3:
            raise KeyboardInterrupt

    student(data, f"distill:teacher={own}", path, progress=stop, **options)
    other = surgeon.load(own)
    bias = {"surgeon.head.bias": np.ones(len(other.labels), np.float32)}
    other.with_weights(bias).save(own, force=True)
    with pytest.raises(UsageError, match="another run"):
        student(data, f"distill:teacher={own}", path, resume=True, **options)


@pytest.mark.parametrize(
    ("network", "task"),
    [("convnet", "regression"), ("convnet", "multi-label"), ("convnet", "segmentation"),
     ("transformer", "tokens")],
)  # fmt: skip
def test_a_teacher_of_another_task_teaches_that(network, task, tmp_path):
    random, positions = np.random.default_rng(0), {"segmentation": (12, 12), "tokens": (6,)}
    given = {"x": random.normal(0, 1, (24, 3, 12, 12)).astype(np.float32)}
    model = nw.convnet()
    if network == "transformer":
        model = nw.transformer(length=6)
        given = {"input_ids": random.integers(0, 14, (24, 6))}
        given["attention_mask"] = np.ones((24, 6), np.int64)
    right = random.integers(0, 2, (24, *positions.get(task, (2,))))
    given["labels"] = {"regression": right * 50.5 + 1000, "multi-label": right == 1}.get(
        task, right
    )
    options = {"case": "small-similar", "task": task, "epochs": 1, "device": "cpu"}
    path, text = tmp_path / "teacher.onnx", "distill:weight=1,teacher="
    surgeon.finetune(model, given, path, **options)
    taught = surgeon.finetune(model, given, loss=f"{text}{path}", init="random", **options)
    alone = surgeon.finetune(
        path, given, loss=f"{text}{other(path, tmp_path)}", device="cpu", epochs=1
    )
    losses = [row["loss"] for row in taught.history if row["stage"] == "head" and row["loss"]]
    assert np.isfinite(losses).all()
    assert losses
    # A student that is its teacher but for the name has next to nothing to learn.
    first = next(row["loss"] for row in alone.history if row["stage"] != "probe" and row["loss"])
    assert first < 0.5 * losses[0]


def other(path, folder):
    """Return the same file under another hash."""
    model = onnx.load(path)
    model.doc_string = "another"
    onnx.save(model, folder / "other.onnx")
    return folder / "other.onnx"


def test_a_teacher_need_not_be_convertible(data, tmp_path):
    """Distances to a point of each class, by an operator that only ONNX Runtime has."""
    net = nw.Net()
    x = net.input("pixels", ["N", 3, 12, 12])
    pooled = net.node("Flatten", net.node("GlobalAveragePool", x))
    means = data["x"].mean(axis=(2, 3))
    points = np.stack([means[data["labels"] == name].mean(axis=0) for name in "abc"])
    far = net.node(
        "CDist", pooled, net.weight("points", 3, 3, values=points), domain="com.microsoft"
    )
    net.node("Softmax", net.node("Neg", far), axis=1, out="y")
    model = net.model("y", shape=["N", 3])
    model.metadata_props.add(key="surgeon.labels", value='["a", "b", "c"]')
    onnx.save(model, tmp_path / "points.onnx")
    outcome = student(data, f"distill:teacher={tmp_path / 'points.onnx'}", case="small-similar")
    assert [row["loss"] for row in outcome.history]
    with pytest.raises(SurgeonError, match="CDist"):
        surgeon.to_torch(tmp_path / "points.onnx")


BAD = [
    ("distill", {}, "teacher"),
    ("distill:teacher=nowhere.onnx", {}, "nowhere.onnx"),
    ("distill:teacher=TEACHER,temperature=0", {}, "temperature"),
    ("distill:teacher=TEACHER,weight=1.5", {}, "weight"),
    ("distill:teacher=original", {}, "features=logits"),
    ("distill:teacher=original,features=late", {"case": "small-similar", "cut": None}, "features"),
    ("distill:teacher=original,features=nowhere", {}, "nowhere"),
    ("distill:teacher=MLP", {}, "x"),
    ("distill:teacher=CUSTOM", {}, "Unheard"),
    ("distill:teacher=NAN,features=logits", {}, "NaN"),
    ("distill:teacher=NUMBERS", {}, "features"),
]


@pytest.mark.parametrize(("loss", "options", "words"), BAD, ids=[one[0] for one in BAD])
def test_what_cannot_teach_says_why(data, teacher, tmp_path, loss, options, words):
    for name, made in (("MLP", nw.mlp), ("CUSTOM", custom), ("NAN", broken), ("NUMBERS", numbers)):
        if name in loss:
            onnx.save(made(), tmp_path / f"{name}.onnx")
            loss = loss.replace(name, str(tmp_path / f"{name}.onnx"))
    with pytest.raises(SurgeonError) as caught:
        student(data, loss.replace("TEACHER", str(teacher)), **options)
    assert words in str(caught.value)
    assert caught.value.remedy


def custom():
    """Return a network with an operator that nobody has."""
    model = nw.convnet()
    model.graph.node[0].domain, model.graph.node[0].op_type = "org.example", "Unheard"
    model.opset_import.append(onnx.helper.make_opsetid("org.example", 1))
    return model


def broken():
    """Return a network that gives no numbers."""
    model = nw.convnet()
    tensor = model.graph.initializer[-1]
    values = onnx.numpy_helper.to_array(tensor) * np.nan
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return model


def numbers():
    """Return a network whose labels nobody knows."""
    return nw.convnet()


def test_a_file_does_not_teach_itself(data, tmp_path):
    path = tmp_path / "tuned.onnx"
    surgeon.finetune(nw.convnet(), data, path, case="small-similar", device="cpu")
    for name in (path, "original"):
        with pytest.raises(UsageError, match="very file"):
            surgeon.finetune(path, data, loss=f"distill:teacher={name}", device="cpu")


def test_pictures_are_not_varied(tmp_path):
    write(tmp_path)
    options = {"case": "large-similar", "device": "cpu", "preprocess": '{"size": [12, 12]}'}
    loss = "distill:teacher=original,features=late"
    with pytest.raises(UsageError, match="as they are"):
        surgeon.finetune(nw.convnet(), tmp_path, loss=loss, augment="light", **options)


def write(folder):
    from PIL import Image

    for name in "ab":
        (folder / name).mkdir(parents=True)
        for number in range(8):
            pixels = np.random.default_rng(number).integers(0, 255, (12, 12, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
