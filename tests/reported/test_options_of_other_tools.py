"""Options and words of other tools are answered with the right one of ours."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import surgeon
from surgeon.cli import main
from surgeon.cli.entry import VERBS, command_tree
from surgeon.cli.suggest import OPTIONS
from surgeon.errors import UsageError

HELD = {
    "--val": "--validation", "--val-split": "--validation", "--test-size": "--validation",
    "--imgsz": "--size", "--img-size": "--size", "--image-size": "--size", "--resolution": "--size",
    "--batch-size": "--batch", "--bs": "--batch", "--per-device-train-batch-size": "--batch",
    "--learning-rate": "--lr", "--learning_rate": "--lr", "--lr0": "--lr", "--base-lr": "--lr",
    "--workers": "--threads", "--num-workers": "--threads", "--n-jobs": "--threads",
    "--freeze-backbone": "--case small-similar",
    "--unfreeze": "--case large-similar", "--strategy": "--case",
    "--output-dir": "-o OUT", "--save-dir": "-o OUT", "--project": "-o OUT",
    "--model": "MODEL is the first argument", "--weights": "MODEL is the first argument",
    "--data": "DATA is the second argument", "--train-dir": "DATA is the second argument",
    "--num-classes": "--classes", "--nc": "--classes", "--num-labels": "--classes",
    "--gpu": "--device cuda", "--gpus": "--device cuda", "--accelerator": "--device",
    "--no-cuda": "--device cpu",
    "--fp16": "--precision fp16", "--amp": "--precision fp16", "--half": "--precision fp16",
    "--bf16": "--precision bf16", "--dtype": "--precision",
    "--pretrained": "--init pretrained", "--from-scratch": "--init random",
    "--n-epochs": "--epochs", "--num-epochs": "--epochs", "--num_train_epochs": "--epochs",
    "--number-of-epochs": "--epochs", "--epoch": "--epochs", "--epocs": "--epochs",
    "--patience": "--epochs and --budget", "--early-stopping": "--epochs and --budget",
    "--weight-decay": "the method chooses", "--optimizer": "the method chooses",
    "--gradient-accumulation-steps": "--accumulate", "--gradient-checkpointing": "--memory low",
    "--random-state": "--seed", "--overwrite": "--force", "--max-seq-length": "--max-length",
    "--target": "--label-column", "--layer": "--cut", "--time-limit": "--budget",
    "--resume-from-checkpoint": "--resume", "--augmentation": "--augment",
    "--ignore-unknown": "`surgeon evaluate`", "-epochs": "--epochs", "-b": "--batch",
}  # fmt: skip


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "m.onnx"
    random = np.random.default_rng(0)
    weights = {"W": random.normal(size=(4, 6)), "V": random.normal(size=(6, 3))}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "W"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "V"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def answered(capsys, *arguments: object) -> str:
    """Return what is said of a command that cannot be meant."""
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    return said.err


@pytest.mark.parametrize(("given", "meant"), HELD.items())
def test_an_unknown_option_is_answered_with_the_right_one(capsys, model, given, meant):
    said = answered(capsys, "finetune", model, "data", given, "3")
    assert f"to do: {meant}" in said or (meant in said and "to do" in said)
    assert meant in said.partition("to do: ")[2]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_answers_an_unknown_option(capsys, verb):
    assert "to do: " in answered(capsys, verb, "--no-such-thing")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("cut=0.5", "--cut @0.5"),
        ("cut=50%", "--cut @0.5"),
        ("epochs=3", "--epochs 3"),
        ("imgsz=64", "--size 64x64"),
        ("device=0", "--device cuda:0"),
        ("half=True", "--precision fp16"),
        ("batch_size=8", "--batch 8"),
    ],
)
def test_an_assignment_is_answered_with_the_option(capsys, model, given, meant):
    assert f"to do: {meant}\n" in answered(capsys, "finetune", model, "data", given)


@pytest.mark.parametrize(
    ("option", "word", "meant"),
    [
        ("precision", "float16", "fp16"),
        ("precision", "fp32", "float32"),
        ("precision", "bfloat16", "bf16"),
        ("init", "scratch", "random"),
        ("init", "imagenet", "pretrained"),
        ("augment", "no", "none"),
        ("compile", "true", "on"),
        ("memory", "lowst", "lowest"),
        ("device", "gpu", "cuda"),
        ("device", "0", "cuda:0"),
        ("device", "cuda1", "cuda:1"),
        ("size", "64", "64x64"),
        ("size", "32,48", "32x48"),
        ("validation", "20%", "0.2"),
        ("validation", "20", "0.2"),
        ("budget", "10m", "600"),
        ("budget", "90s", "90"),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_one(capsys, model, option, word, meant):
    said = answered(capsys, "finetune", model, "data", f"--{option}", word)
    assert f"to do: --{option} {meant}\n" in said


@pytest.mark.parametrize("cut", ["0.5", ".5", "50%", "@50%", "1/2"])
def test_a_number_as_a_cut_is_answered_with_the_depth(capsys, model, tmp_path, cut):
    out = tmp_path / "out.onnx"
    command = ["operate", model, "--case", "small-similar", "--classes", 2, "-o", out]
    assert "@0.5" in answered(capsys, *command, "--cut", cut).partition("to do: ")[2]
    with pytest.raises(UsageError) as caught:
        surgeon.operate(model, "small-similar", 2, cut=cut)
    assert "@0.5" in caught.value.remedy


@pytest.mark.parametrize("case", ["small-similar", "auto"])
def test_a_float_as_a_cut_is_answered_with_the_depth(model, case):
    data = {"x": np.zeros((8, 4), np.float32), "labels": np.arange(8) % 2}
    with pytest.raises(UsageError) as caught:
        surgeon.finetune(model, data, case=case, cut=0.25)
    assert "'@0.25'" in caught.value.remedy


@pytest.mark.parametrize(
    ("given", "meant"),
    [("train", "finetune"), ("eval", "evaluate"), ("infer", "predict"), ("info", "inspect"),
     ("finetun", "finetune"), ("predct", "predict")],
)  # fmt: skip
def test_an_unknown_verb_is_answered_with_the_right_one(capsys, given, meant):
    assert f"did you mean {meant}" in answered(capsys, given)


def test_the_table_names_options_there_are_and_no_word_twice():
    tree = command_tree()
    context = tree.make_context("surgeon", ["doctor"])
    known = {
        name
        for verb in VERBS
        for parameter in tree.get_command(context, verb).params
        for name in parameter.opts
    }
    assert {form.split()[0] for form in OPTIONS} <= known
    words = [word for text in OPTIONS.values() for word in text.split()]
    assert sorted(words) == sorted(set(words))
