"""What people say trains: by names and by depth, in every case; nothing else moves."""

from __future__ import annotations

import networks as nw
import numpy as np
import pytest
from networks import Net, conv

import surgeon
from surgeon.cli import main
from surgeon.errors import UsageError
from surgeon.graph.weights import changed_tensors

HEAD = ["surgeon.head.weight", "surgeon.head.bias"]
CASES = ("small-similar", "small-different", "large-similar", "large-different")


def pictures(n=60, side=8):
    random = np.random.default_rng(0)
    labels = np.arange(n) % 3
    x = random.standard_normal((n, 3, side, side)).astype(np.float32)
    for index, label in enumerate(labels):
        x[index, label, 1:5, 1:5] += 1.0
    return {"x": x, "labels": labels}


def tune(model=None, **settings):
    model = nw.residual() if model is None else model
    settings = {"case": "small-similar", "device": "cpu", "epochs": 1, **settings}
    return surgeon.finetune(model, pictures(), **settings)


def trained(model=None, **settings):
    model = nw.residual() if model is None else model
    settings = {"case": "small-similar", **settings}
    return surgeon.operate(model, classes=3, **settings).trainable


# ── which ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("case", CASES)
def test_patterns_take_the_place_of_what_the_case_trains(case):
    assert trained(case=case, train="stem.*", freeze="*.bias") == ["stem.weight", *HEAD]
    stages = tune(case=case, train="stem.weight").body["plan"]["stages"]
    assert [stage["trains"] for stage in stages] == ["head", "all"]


@pytest.mark.parametrize("case", ["large-similar", "large-different"])
def test_freezing_takes_away_from_what_the_case_trains(case):
    everything = trained(case=case)
    assert trained(case=case, freeze=["stem.*", "b1.c?.bias"]) == [
        one for one in everything if one[:4] != "stem" and one not in ("b1.c1.bias", "b1.c2.bias")
    ]


def test_what_lies_behind_a_cut_trains():
    model = surgeon.load(nw.residual())
    depths = {cut.tensor: cut.depth for cut in model.cuts()}
    behind = trained(train_from="b1.out")
    assert behind == trained(train_from=f"@{depths['b1.out']}")
    assert behind == [
        name for name in trained(case="large-similar") if name[:2] not in ("st", "b1")
    ]
    assert trained(train_from="@0") == trained(train_from="x") == trained(case="large-similar")
    assert trained(train_from="@1") == HEAD
    assert trained(train_from="b1.out", train="stem.bias", freeze="b2.c1.*") == [
        "stem.bias", "b2.c2.weight", "b2.c2.bias", *HEAD
    ]  # fmt: skip


def test_the_head_trains_unless_it_is_named():
    assert trained(case="large-similar", freeze="*") == HEAD
    assert trained(case="large-similar", freeze="*.bias")[-2:] == HEAD
    assert trained(train="b2.c2.bias", freeze=HEAD[0]) == ["b2.c2.bias", HEAD[1]]
    with pytest.raises(UsageError, match="nothing is left") as caught:
        trained(freeze="surgeon.head.*")
    assert caught.value.exit == 2


@pytest.mark.parametrize(
    ("settings", "where", "said"),
    [
        ({"train": ["b3.*", "b2.*", "stm.weight"]}, "--train", "stem.weight"),
        ({"freeze": "B2.*"}, "--freeze", "b2.c1"),
        ({"train": "fc.w"}, "--train", "behind the cut"),
        ({"train_from": "@2"}, "--from", "@x"),
        ({"train_from": "b1.outt"}, "--from", "b1.out"),
    ],
)
def test_what_matches_nothing_is_refused_with_what_comes_near(settings, where, said):
    with pytest.raises(UsageError) as caught:
        trained(**settings)
    assert caught.value.where == where
    assert said in caught.value.remedy
    assert all(name in caught.value.message for name in settings.get("train", ())[::2][:1])


@pytest.mark.parametrize("value", [3, [3], {"a": None, 2: None}])
def test_patterns_are_text(value):
    with pytest.raises(UsageError, match="not text"):
        trained(train=value)


# ── what moves ───────────────────────────────────────────────────────────────────────────────────


def normalised():
    """Two convolutions, each with a BatchNormalization, and a head."""
    net = Net()
    x = net.input("x", ["N", 3, 8, 8])
    for name, into in (("one", 3), ("two", 6)):
        x = conv(net, x, f"{name}.conv", 6, into, bias=False)
        scale, bias, mean = (
            net.weight(f"{name}.norm.{part}", 6, values=np.full(6, value))
            for part, value in (("scale", 1.0), ("bias", 0.0), ("mean", 0.0))
        )
        variance = net.weight(f"{name}.norm.var", 6, values=np.ones(6))
        x = net.node("BatchNormalization", x, scale, bias, mean, variance)
        x = net.node("Relu", x, out=f"{name}.out")
    x = net.node("Flatten", net.node("GlobalAveragePool", x), out="features")
    net.node("Gemm", x, net.weight("fc.w", 6, 4), net.weight("fc.b", 4), out="y")
    return net.model("y", shape=["N", 4])


def test_statistics_move_with_their_layer_only():
    outcome = tune(normalised(), train="*.conv.weight", train_from="one.out")
    moved = {name for name in outcome.body["changed"] if "norm" in name}
    assert outcome.body["statistics"] == ["two.norm.mean", "two.norm.var"]
    assert moved <= {f"two.norm.{part}" for part in ("scale", "bias", "mean", "var")}
    still = tune(normalised(), train="two.conv.weight")
    assert still.body["statistics"] == []
    assert not any("norm" in name for name in still.body["changed"])


def test_patterns_that_name_statistics_are_told_what_moves_them():
    with pytest.raises(UsageError) as caught:
        trained(normalised(), train="*.mean")
    assert "statistics" in caught.value.remedy


@pytest.mark.parametrize("frozen", [HEAD, HEAD[:1], HEAD[1:]])
def test_a_frozen_head_stays_as_it_is(frozen):
    outcome = tune(case="large-similar", freeze=frozen)
    assert [stage["method"] for stage in outcome.body["plan"]["stages"]] == ["adamw"]
    assert not set(frozen) & set(outcome.body["changed"])
    assert set(outcome.body["changed"]) <= set(outcome.body["trainable"])


def test_a_tuned_file_goes_on_with_other_weights_and_proves_them(tmp_path):
    original, first, second = (tmp_path / f"{name}.onnx" for name in ("original", "one", "two"))
    surgeon.load(nw.residual()).save(original)
    tune(original, out=first, train="b2.*")
    outcome = tune(first, out=second, case=None, train="stem.*", freeze="stem.bias")
    assert outcome.body["trainable"] == ["stem.weight", *HEAD]
    moved = changed_tensors(surgeon.load(first).proto, surgeon.load(second).proto)
    assert set(moved) <= {"stem.weight", *HEAD}
    assert surgeon.verify(second, source=first).passed  # what froze is as that file had it
    assert surgeon.load(second).trainable == ["stem.weight", *HEAD]
    wider = tmp_path / "wider.onnx"
    tune(first, out=wider, case=None, train=["b*", "stem.*"])
    assert surgeon.verify(wider, source=original).passed


# ── what is told ─────────────────────────────────────────────────────────────────────────────────


def test_blocks_hold_every_weight_once_by_depth():
    body = tune(train="*.weight", freeze="b1.*", dry_run=True).body
    blocks = body["blocks"]
    held = [name for block in blocks for name in block["weights"]]
    assert sorted(held) == sorted(trained(case="large-similar"))
    trains = {name for block in blocks if block["trained"] for name in block["weights"]}
    assert trains == set(body["trainable"])
    assert sum(b["parameters"] for b in blocks if b["trained"]) == body["trained_parameters"]
    assert all((block["lr"] is not None) == block["trained"] for block in blocks)
    rates = [block["lr"] for block in blocks if block["trained"]]
    assert rates == sorted(rates)
    assert blocks[-1]["weights"] == HEAD
    assert body["lr_find"] is None


def test_a_head_that_is_solved_has_no_rate():
    frozen, head = tune(dry_run=True).body["blocks"]
    assert (frozen["trained"], head["trained"], head["lr"]) == (False, True, None)
    assert frozen["depth"][0] == 0.0


def test_the_rate_that_was_found_is_told_and_trained_with():
    settings = {"case": "large-similar", "lr_find": True}
    told = tune(dry_run=True, **settings).body
    chosen = told["lr_find"]["chosen"]
    assert told["blocks"][-1]["lr"] == chosen
    assert told["delivered"] is None
    body = tune(**settings).body
    assert body["lr_find"] == told["lr_find"]
    rates = [row["lr"] for row in body["history"] if row["stage"] == "all"]
    assert max(rates) <= chosen


@pytest.mark.parametrize("settings", [{"lr": 1e-3}, {"case": "large-different", "init": "race"}])
def test_a_rate_is_looked_for_where_one_is_wanted_only(settings):
    with pytest.raises(UsageError) as caught:
        tune(**{"case": "large-similar", "lr_find": True, "dry_run": True, **settings})
    assert caught.value.where == "--lr-find"


def test_a_solved_head_needs_no_rate():
    for dry_run in (True, False):
        body = tune(lr_find=True, dry_run=dry_run).body
        assert any("--lr-find" in one for one in body["warnings"])
        assert body["lr_find"] is None


def test_the_table_keeps_within_80_columns(tmp_path, capsys):
    long = Net()
    x = long.input("x", ["N", 3, 8, 8])
    name = "a_rather_long_prefix_of_a_module.layers.{}.self_attention.output_projection"
    for number in range(3):
        into = 6 if number else 3
        x = long.node("Relu", conv(long, x, name.format(number), 6, into), out=f"out{number}")
    x = long.node("Flatten", long.node("GlobalAveragePool", x), out="features")
    long.node("Gemm", x, long.weight("fc.w", 6, 4), long.weight("fc.b", 4), out="y")
    surgeon.load(long.model("y", shape=["N", 4])).save(tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", **pictures())
    arguments = ["--case", "large-similar", "--from", "@0.3", "--lr-find", "--device", "cpu"]
    files = [str(tmp_path / "m.onnx"), str(tmp_path / "d.npz")]
    assert main(["finetune", *files, *arguments, "--dry-run", "-q"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("frozen" in line for line in lines)
    assert any(line.startswith("learning rate") for line in lines)
