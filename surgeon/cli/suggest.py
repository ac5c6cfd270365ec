"""What was meant by an option or a word that surgeon does not know: other tools' names for ours.

Three ways, in this order: a table of synonyms, the same name in another form (`--n-epochs`), and
the nearest spelling. What must not enter: guesses that run; a suggestion is only ever said.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

import click

from surgeon.options import depth_meant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# our option, perhaps with the value that is meant: names other tools have for it
OPTIONS = {
    "--accumulate": (
        "gradient-accumulation gradient-accumulation-steps accumulation-steps accum-iter "
        "grad-accum accumulate-grad-batches nbs"
    ),
    "--audio": ("sample-rate sampling-rate sr duration"),
    "--augment": (
        "augmentation augmentations aug auto-augment aa randaugment mixup cutmix hflip flip "
        "fliplr flipud degrees mosaic color-jitter transforms"
    ),
    "--batch": (
        "batch-size bs batchsize minibatch mini-batch train-batch-size eval-batch-size "
        "per-device-train-batch-size per-device-eval-batch-size"
    ),
    "--budget": (
        "time max-time time-limit timeout max-seconds max-minutes max-hours hours minutes "
        "seconds limit"
    ),
    "--cache-limit": ("cache cache-size cache-max disk"),
    "--case": ("strategy mode method transfer transfer-learning scenario"),
    "--case small-similar": (
        "freeze-backbone freeze-base freeze-encoder frozen "
        "feature-extract feature-extraction feature-extractor linear-probe linear-probing "
        "head-only train-head last-layer"
    ),
    "--case large-similar": (
        "unfreeze full-finetune full-finetuning finetune-all train-all all-layers"
    ),
    "--classes": (
        "num-classes n-classes nb-classes class-count nc num-labels n-labels output-size outputs"
    ),
    "--compile": ("torch-compile torchcompile jit"),
    "--cut": (
        "layer cut-layer cut-at cut-point cutpoint truncate truncate-at split-at depth tensor "
        "layer-name output-layer"
    ),
    "--deterministic": ("reproducible cudnn-deterministic use-deterministic-algorithms"),
    "--device": ("accelerator provider providers execution-provider"),
    "--device cpu": ("no-cuda no-gpu use-cpu cpu-only"),
    "--device cuda": ("gpu gpus cuda use-gpu use-cuda gpu-id gpu-ids"),
    "--dry-run": ("dryrun simulate no-write plan plan-only"),
    "--epochs": (
        "epoch max-epochs n-epochs num-epochs nb-epochs num-train-epochs n-epoch max-steps "
        "steps iterations iters num-steps"
    ),
    "--force": ("overwrite overwrite-output overwrite-output-dir exist-ok yes clobber replace"),
    "--freeze": ("freeze-layers freeze-layer freeze-weights freeze-parameters frozen-layers"),
    "--from": ("train-from unfreeze-from fine-tune-at freeze-until freeze-to"),
    "--group-column": (
        "group groups group-col groups-column group-by patient-column subject-column"
    ),
    "--ignore-unknown": ("skip-unknown drop-unknown"),
    "--init": ("initialization initialisation weight-init"),
    "--init pretrained": ("pretrained use-pretrained imagenet"),
    "--init random": ("scratch from-scratch no-pretrained random-init train-from-scratch"),
    "--input": ("constant constants const feed feeds set"),
    "--json": ("format output-format as-json"),
    "--label-column": (
        "label label-col labels-column target target-column target-col y y-column "
        "class-column label-field"
    ),
    "--lr-find": ("lr-finder lr-range-test find-lr auto-lr auto-lr-find range-test"),
    "--lr": (
        "learning-rate learningrate lr0 base-lr init-lr initial-lr max-lr eta step-size rate lrf"
    ),
    "--max-length": (
        "max-len max-seq-length max-seq-len max-sequence-length seq-len seq-length "
        "sequence-length max-tokens truncation"
    ),
    "--memory low": (
        "gradient-checkpointing activation-checkpointing grad-checkpointing low-memory "
        "low-mem save-memory"
    ),
    "-o": (
        "out output output-dir out-dir outdir output-file out-file output-path save save-to "
        "save-path save-dir save-as export-to project name dest destination target-file "
        "result write"
    ),
    "--precision": ("dtype mixed-precision mixed torch-dtype"),
    "--precision bf16": ("bf16 bfloat16"),
    "--precision float32": ("fp32 float32 full-precision no-amp tf32"),
    "--precision fp16": ("fp16 amp half float16 use-amp use-fp16"),
    "--preprocess": (
        "preprocessing preprocessor normalize normalise normalization mean std transform "
        "image-mean image-std scale image-processor"
    ),
    "--quiet": ("silent no-progress no-verbose"),
    "--resume": (
        "continue continue-training restart resume-from resume-from-checkpoint checkpoint "
        "ckpt ckpt-path from-checkpoint"
    ),
    "--seed": ("random-seed random-state manual-seed rng-seed rng"),
    "--size": (
        "imgsz img-size image-size input-size resolution img res resize crop crop-size "
        "input-shape height width"
    ),
    "--source": ("original reference base base-model"),
    "--threads": (
        "workers num-workers n-workers n-jobs jobs cpus cores num-threads n-threads nproc "
        "num-cpus dataloader-num-workers"
    ),
    "--tokenizer": ("tokenizer-name tokenizer-file tokenizer-path vocab vocabulary"),
    "--traceback": ("debug stacktrace stack-trace trace"),
    "--train": ("train-layers trainable trainable-layers unfreeze-layers unfrozen-layers"),
    "--validation": (
        "val val-split val-size val-data val-dir val-ratio val-set val-fraction valid "
        "valid-split validation-split validation-data validation-size validation-dir "
        "validation-file dev dev-set eval eval-data eval-dir test-size holdout hold-out split"
    ),
    "--verbose": ("verbosity log-level loglevel info"),
    "--views": ("tta augment-views n-views"),
}

ARGUMENTS = {
    "model": (
        "model model-name model-path model-name-or-path model-file weights arch architecture "
        "backbone onnx onnx-path onnx-file net network"
    ),
    "data": (
        "data dataset datasets data-dir data-path data-set dataset-name train train-dir "
        "train-data train-file train-path training-data input-dir images image-dir img-dir "
        "folder root source-dir csv"
    ),
    "inputs": ("source image images input-file file files img-path data dataset folder"),
    "file": ("model weights path onnx"),
}

# Nothing to give: what the method does instead.
NONE = {
    ("patience early-stopping early-stop early-stopping-patience"): (
        "training stops by itself where validation no longer improves; --epochs and --budget "
        "limit it"
    ),
    (
        "optimizer optim momentum weight-decay wd betas nesterov scheduler lr-scheduler "
        "lr-schedule lr-scheduler-type warmup warmup-steps warmup-ratio warmup-epochs cos-lr "
        "dropout drop-rate label-smoothing clip-grad max-grad-norm grad-clip ema loss "
        "criterion class-weights"
    ): ("there is no option: the method chooses it"),
    ("shuffle drop-last pin-memory persistent-workers"): (
        "there is no option: batches are drawn anew in every epoch, by --seed"
    ),
    "topk top-k top5": ("there is no option: --json lists the probabilities of all classes"),
    "opset opset-version": ("there is no option: the file keeps its opset"),
    ("log-dir logdir tensorboard wandb mlflow report-to track"): (
        "there is no option: --json gives the history of every epoch"
    ),
}

EXPLAINED = {
    "--case small-similar": "trains the new head alone; all else is frozen",
    "--case large-similar": "trains everything; nothing is frozen",
    "--device cuda": "or cuda:0, cuda:1 …",
    "--init pretrained": "starts from the file's weights",
    "--init random": "starts from random weights",
    "--memory low": "less memory, in about a third more time",
    "--precision fp16": "autocast; weights stay float32",
    "--precision bf16": "autocast; weights stay float32",
}

VERBS = {
    "advise": "recommend suggest choose select which auto",
    "apply": "merge-adapter fold lora peft fuse",
    "export": "convert save deploy onnx-export",
    "blend": "average merge soup wise-ft interpolate mix",
    "cuts": "layers layer list-layers depth points cut-points",
    "diff": "compare difference delta changes",
    "doctor": "env environment info-env system diagnose health",
    "evaluate": "eval val validate test score benchmark accuracy metrics",
    "finetune": "train fit tune fine-tune transfer learn retrain training",
    "inspect": "info show describe summary print view stats",
    "models": "download zoo hub get pretrained",
    "operate": "cut truncate split surgery prune new-head head",
    "predict": "infer inference classify run detect label",
    "verify": "prove proof check-proof validate-file",
}

VALUES = {
    "augment": {
        "none": "no off false 0 never", "auto": "yes on true 1 default",
        "light": "weak basic simple standard flip",
        "strong": "heavy hard randaugment trivialaugment autoaugment augmix full",
    },
    "compile": {"on": "yes true 1 always", "off": "no false 0 never none"},
    "init": {
        "pretrained": "imagenet weights file default finetune warm",
        "random": "scratch from-scratch none no false new fresh kaiming xavier he glorot",
        "race": "both try compare auto",
    },
    "memory": {"low": "small less checkpointing", "lowest": "min minimal minimum 8bit tiny",
               "normal": "default high full auto"},
    "precision": {
        "float32": "fp32 32 single full tf32 float f32 high 32-true",
        "fp16": "float16 half 16 f16 amp mixed 16-mixed",
        "bf16": "bfloat16 bf16-mixed brain b16",
    },
    "case": {
        "small-similar": "freeze frozen head head-only linear linear-probe probe "
        "feature-extraction feature-extractor",
        "large-similar": "full full-finetune finetune fine-tune fine-tuning all unfreeze",
        "large-different": "scratch from-scratch random",
    },
}  # fmt: skip


def verb_meant(name: str) -> str | None:
    """Return the verb that was meant by another tool's name for it, or None."""
    words = {word: verb for verb, text in VERBS.items() for word in text.split()}
    near = get_close_matches(_plain(name), words, n=1, cutoff=0.75)
    return words[near[0]] if near else None


def option_meant(name: str, command: click.Command, others: Iterable[click.Command] = ()) -> str:
    """Say which option of a command was meant by an unknown one; empty if nothing comes near.

    Args:
        name: the unknown option, with its dashes.
        command: whose option it was given as.
        others: the other verbs, asked if this one has nothing like it.
    """
    wanted = _plain(name)
    said = next((text for words, text in NONE.items() if wanted in words.split()), "")
    said = said or _argument(wanted, command)
    if said:
        return said
    if len(wanted) == 1:  # -e, or what a single dash made of -epochs
        named = [text for text in _long(command) if text.startswith(f"--{wanted}")]
        return "did you mean " + ", ".join(named) + "?" if named else ""
    form, option = _found(wanted, command)
    if option is not None:
        takes = "" if option.is_flag or " " in form else f" {_metavar(option)}"
        text = EXPLAINED.get(form, option.help)
        return f"{form}{takes}: {text}" if text else f"{form}{takes}"
    owners = [verb.name for verb in others if f"--{wanted}" in _long(verb)]
    return f"--{wanted} is an option of `surgeon {owners[0]}`" if owners else ""


def assignment_meant(text: str, command: click.Command) -> str:
    """Say which option was meant by an argument `name=value`; empty if it is none."""
    name, equals, value = text.partition("=")
    wanted = _plain(name)
    if not equals or not re.fullmatch(r"-{0,2}[A-Za-z][\w-]*", name):
        return ""
    form, option = (f"--{wanted}", _long(command).get(f"--{wanted}"))
    if option is None:
        form, option = _found(wanted, command)
    if option is None:
        return option_meant(name, command)
    return form if " " in form else f"{form} {_value(option, value)}"


def word_meant(option: str | None, value: str, known: Iterable[str]) -> str | None:
    """Return the word of an option that was meant by another, or None."""
    words = {word.lower(): word for word in known}
    text = value.strip().lower().replace("_", "-")
    if text in words:
        return words[text]
    for word, synonyms in VALUES.get(option or "", {}).items():
        if text in synonyms.split() and word.lower() in words:
            return word
    near = get_close_matches(text, words, n=1, cutoff=0.6)
    return words[near[0]] if near else None


def _plain(name: str) -> str:
    return name.lstrip("-").lower().replace("_", "-")


def _argument(wanted: str, command: click.Command) -> str:
    names = [p for p in command.params if isinstance(p, click.Argument)]
    for place, argument in enumerate(names):
        if wanted in ARGUMENTS.get(argument.name or "", "").split():
            form = " ".join(p.make_metavar(click.Context(command)) for p in names)
            which = ("first", "second", "third")[place] if len(names) > 1 else "only"
            return (
                f"{(argument.name or '').upper()} is the {which} argument, without an option: "
                f"`surgeon {command.name} {form} …`"
            )
    return ""


def _found(wanted: str, command: click.Command) -> tuple[str, click.Option | None]:
    """Return the option that was meant, and how it is given: its name, perhaps with a value."""
    names = _long(command)
    names |= {text: o for o in _options(command) for text in o.opts if text == "-o"}
    ours = _first(wanted, {form: w for form, w in OPTIONS.items() if form.split()[0] in names})
    if ours is not None:
        return ours, names[ours.split()[0]]
    parts = set(wanted.split("-"))  # the same words, and some more
    near = [text for text in names if set(_plain(text).split("-")) <= parts]
    near += get_close_matches(f"--{wanted}", names, n=1, cutoff=0.6)
    near += [text for text in names if text.startswith(f"--{wanted}")]
    return (near[0], names[near[0]]) if near else ("", None)


def _first(wanted: str, table: Mapping[str, str]) -> str | None:
    return next((ours for ours, words in table.items() if wanted in words.split()), None)


def _metavar(option: click.Option) -> str:
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    return option.type.name.upper()


def _value(option: click.Option, value: str) -> str:
    """Return the value as the option takes it, or what was meant by it."""
    meant = depth_meant(value) if option.name == "cut" else None
    if meant is None:
        try:
            option.type.convert(value, option, None)
        except click.BadParameter as error:
            meant = getattr(error, "remedy", "").rpartition(" ")[2]
    return meant or value


def _options(command: click.Command) -> list[click.Option]:
    return [p for p in command.params if isinstance(p, click.Option)]


def _long(command: click.Command) -> dict[str, click.Option]:
    """Return {--name: option}."""
    return {text: o for o in _options(command) for text in o.opts if text.startswith("--")}
