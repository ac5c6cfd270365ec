"""Training and feature extraction on one GPU, against the networks' own torch code and the chip.

    python benchmarks/gpu.py                              # under eight minutes on an H100 or H200
    python benchmarks/gpu.py --models resnet50 --sections ceilings full     # one network
    python benchmarks/gpu.py --device cpu --quick         # no figures: does the script run?

timm's networks with random weights, exported by torch; BatchNormalization kept for tuning, folded
into the convolutions for the frozen cases, as exporters write it. Needs timm and torchvision; runs
from a bare checkout, too.

ceilings    of this chip: a copy on the device (bytes read + written), products of matrices of
            random numbers, a copy from pinned memory. Every row below is held against them.
full        a step (forward, backward, optimiser) in bf16. *surgeon*: the exported file in
            `surgeon.train.loop.fit` as `finetune` calls it: pictures (uint8, in memory) gathered,
            moved and normalised ahead of the step, AdamW (fused) in groups by depth, clipping,
            progress after every step, `--compile on`. *native*: timm's module, channels_last,
            torch.compile, bf16 autocast, AdamW (fused), no clipping; batches that lie ready in
            pinned memory, moved and normalised ahead on a stream of their own. Two processes, a
            block of steps in turn; the clock is read after the device has finished, at both ends of
            a block. A pair of blocks gives one ratio, the table its median and the 95 % interval of
            the median (bootstrap). Before that both must give the same logits on the CPU.
profile     ten steps of surgeon under torch.profiler: calls that make the host wait for the device,
            and the share of the time in which no kernel ran.
frozen      features of pictures in memory, surgeon against the compiled forward pass (bf16 weights,
            channels_last); and features + head to its optimum against ten epochs of a frozen loop.
            Starting up (compiling) is a column of its own.
epoch       1,281,167 pictures at the speed of the steps measured above.

FLOPs of a step = 3 × 2 × multiply-adds of the products (convolutions, linear layers, attention) in
the forward pass. Fewest bytes of a step: each product reads its factors and writes its result once
in the forward pass and for both of its gradients, in bf16, and everything between products costs
nothing; AdamW reads 4 and writes 3 numbers of 4 bytes per weight.

Every section has its share of `--minutes` and is cut rather than late; what was cut is said. The
figures are written after every section.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from full import installed, interval
from gpu_contestants import REAL, TINY

RESULTS = Path(__file__).parent / "results" / "gpu.json"
CONTESTANTS = Path(__file__).with_name("gpu_contestants.py")

# Neighbours are measured together: a network with much memory beside one with less.
MODELS = ("resnet50", "vit_base_patch16_224", "efficientnet_lite0", "convnext_tiny")
FROZEN = ("resnet50", "vit_base_patch16_224")
ANCHOR = "vit_small_patch16_224"
QUICK = ("efficientnet_lite0", "vit_small_patch16_224")
SECTIONS = ("ceilings", "full", "frozen", "anchor")
#: Data sheets of the H100 and H200 (SXM): dense bf16, and the memory of the H200.
SHEET_FLOPS, SHEET_BYTES = 989e12, 4.8e12
PICTURES_OF_IMAGENET = 1_281_167
#: Published figures, each with its source: images/s of training on one chip.
PUBLISHED = (
    {
        "model": "ViT-5-Small, 22 M weights, 224×224, batch 256, bf16",
        "like": ANCHOR,
        "chip": "H100 SXM",
        "images_per_second": 8003,
        "utilisation": 0.229,
        "how": "torch.compile max-autotune, synthetic data (default mode: 7,716, 22.0 %)",
        "source": "https://nvidia-bionemo.github.io/nvSubquadratic/benchmarks.html",
    },
    {
        "model": "ResNet-50 v1.5, mixed precision",
        "like": "resnet50",
        "chip": "A100 80 GB (no figure of one H100 was found)",
        "images_per_second": 2711,
        "utilisation": None,
        "how": "PaddlePaddle/Classification/RN50v1.5, one GPU",
        "source": "https://github.com/NVIDIA/DeepLearningExamples",
    },
)


def main() -> None:
    """Run the sections, print their tables, write the figures after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu with --quick")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, few steps, no compiling")
    parser.add_argument("--models", nargs="+", help="of timm; default: the four of the table")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--anchor", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--minutes", type=float, default=7.5, help="for everything")
    parser.add_argument("--pairs", type=int, help="of blocks, at most")
    parser.add_argument("--together", type=int, help="networks started at the same time")
    parser.add_argument("--out", type=Path, help="JSON file; a quick look's goes to a scratch file")
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.quick:
        parser.error("a CPU would take days: add --quick")
    scratch = Path(tempfile.gettempdir()) / "gpu-quick.json"
    arguments.out = arguments.out or (scratch if arguments.quick else RESULTS)
    # A time limit from outside ends the children, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(arguments, Path(folder))
        try:
            benchmark.run()
        finally:
            benchmark.save()
            show(benchmark.result)
            for child in Child.alive.copy():
                child.kill()
    print(f"\n{benchmark.result['seconds']:.0f} s; {arguments.out}")


# ── the order of things ──────────────────────────────────────────────────────────────────────────


class Benchmark:
    """The sections in their order, with their shares of the time."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder = arguments, folder
        self.sizes = TINY if arguments.quick else REAL
        self.begun = time.monotonic()
        quick = arguments.quick
        self.models = list(arguments.models or (QUICK if quick else MODELS))
        self.frozen = [name for name in (QUICK[:1] if quick else FROZEN) if name in self.models]
        self.anchor = [ANCHOR] if arguments.anchor and ANCHOR not in self.models else []
        wanted = set(arguments.sections)
        self.models = self.models if "full" in wanted else []
        self.frozen = self.frozen if "frozen" in wanted else []
        self.anchor = self.anchor if "anchor" in wanted else []
        self.pairs = arguments.pairs or self.sizes.pairs
        self.result: dict[str, Any] = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "ran_on_gpu": arguments.device != "cpu",
            "device": chip(),
            "versions": {name: installed(name) for name in
                         ("torch", "timm", "torchvision", "onnx", "onnxruntime-gpu",
                          "onnxruntime", "numpy", "triton")},
            "settings": {"minutes": arguments.minutes, "quick": quick, "pairs": self.pairs,
                         "batch": self.sizes.batch, "size": self.sizes.size,
                         "data_sheet": {"flops": SHEET_FLOPS, "bytes": SHEET_BYTES}},
            "seconds": 0.0,
            "cut": [],
            "counted": {},
            "ceilings": {"reason": "not run"},
            "full": [], "profile": [], "frozen": [], "anchor": [], "epoch": [],
            "published": list(PUBLISHED),
        }  # fmt: skip

    def left(self, share: float) -> float:
        """Return the seconds until a share of all the time is over."""
        return self.begun + share * 60 * self.arguments.minutes - time.monotonic()

    def save(self) -> None:
        """Write what there is."""
        self.result["seconds"] = round(time.monotonic() - self.begun, 1)
        out = self.arguments.out
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(self.result, indent=2) + "\n", "utf-8")

    def cut(self, text: str) -> None:
        """Note what there was no time for."""
        self.result["cut"].append(text)
        print(f"  cut: {text}", file=sys.stderr, flush=True)

    def child(self, role: str, model: str) -> Child:
        return Child(role, model, self.arguments)

    def run(self) -> None:
        """Everything, in order."""
        on = "" if self.result["ran_on_gpu"] else ": not run on a GPU, the figures mean nothing"
        print(f"{self.result['date']}, {self.arguments.device}{on}")
        chip = self.child("ceilings", "-") if "ceilings" in self.arguments.sections else None
        exports = {}
        for name in dict.fromkeys([*self.models, *self.frozen, *self.anchor]):
            exports[name] = self.child("export", name)
            exports[name].send("export", folder=str(self.folder), frozen=name in self.frozen)
        # Started early, so that they have imported what they need when it is their turn; a child
        # touches neither the device nor a file before its first word.
        started = self.start(self.models[: self.arguments.together or 2])
        if chip is not None:
            self.ceilings(chip)
        self.exported(exports)
        waves = self.waves()
        last = bool(self.frozen or self.anchor)
        each = (0.62 if last else 0.9) / max(len(waves), 1)
        for number, wave in enumerate(waves):
            started |= self.start([model for model in wave if model not in started])
            if number + 1 < len(waves):
                started |= self.start([m for m in waves[number + 1] if m not in started])
            else:
                frozen, anchor = self.start_frozen(), self.start(self.anchor)
            pairs = {model: started[model] for model in wave}
            until = 0.07 + each * (number + 1)
            self.warm([*pairs.values()], until)
            self.compare_all(pairs, until, "full")
        if not waves:
            frozen, anchor = self.start_frozen(), self.start(self.anchor)
        if last and self.left(0.97) < 30 and not self.arguments.quick:
            for name, pairs in (("frozen", frozen), ("anchor", anchor)):
                self.result[name] = [{"model": m, "reason": "no time was left"} for m in pairs]
                self.cut(f"{name}: no time was left")
        elif last:
            self.warm([*frozen.values(), *anchor.values()], 0.97)
            self.freeze(frozen, 0.97, others=len(anchor))
            self.compare_all(anchor, 0.97, "anchor")
        self.epochs()

    def waves(self) -> list[list[str]]:
        """Divide the networks into those that are started together."""
        together = self.arguments.together
        if together is None:  # two at once take up to 120 GB
            memory = self.result["device"].get("memory_bytes") or 0
            together = 2 if memory > 120 * 2**30 or self.arguments.quick else 1
        return [self.models[i : i + together] for i in range(0, len(self.models), together)]

    def start(self, models: list[str]) -> dict[str, tuple[Child, Child]]:
        """Start both contestants of each network."""
        return {m: (self.child("surgeon", m), self.child("native", m)) for m in models}

    def start_frozen(self) -> dict[str, tuple[Child, Child]]:
        """Start both contestants of each frozen network."""
        names = ("surgeon-frozen", "native-frozen")
        return {m: tuple(self.child(name, m) for name in names) for m in self.frozen}

    # ------------------------------------------------------------------------ chip and files

    def ceilings(self, child: Child) -> None:
        """What the chip can do."""
        try:
            found = child.ask("measure", max(self.left(0.12), 60))
            self.result["device"] |= found.pop("device")
            self.result["ceilings"] = found
        except ChildError as error:
            self.result["ceilings"] = {"reason": str(error)}
            print(f"ceilings: {error}")
        child.end()
        self.save()

    def exported(self, exports: dict[str, Child]) -> None:
        """Wait for the files; a network that is not exported is left out, and that is said."""
        for name, child in exports.items():
            try:
                self.result["counted"][name] = child.answer(max(self.left(0.25), 60))
            except ChildError as error:
                self.result["counted"][name] = {"reason": f"not exported: {error}"}
                print(f"{name}: not exported: {error}")
            child.end()
        self.save()

    # ---------------------------------------------------------------------------- full tuning

    def warm(self, pairs: list[tuple[Child, Child]], until: float) -> None:
        """Let children build, compile and take their first steps, all at the same time."""
        children = [child for pair in pairs for child in pair]
        for child in children:
            child.failed = self.result["counted"].get(child.model, {}).get("reason")
            if child.failed is None:
                child.send("warm", folder=str(self.folder))
        # Late is better than lost: what comes behind is cut, and that is said.
        for child in children:
            with suppress(ChildError):
                if child.failed is None:
                    child.warmed = child.answer(max(self.left(min(until + 0.2, 0.93)), 30))

    def compare_all(
        self, pairs: dict[str, tuple[Child, Child]], until: float, section: str
    ) -> None:
        """Measure networks that are warm, one after the other."""
        rows = self.result[section]
        for number, (model, (ours, native)) in enumerate(pairs.items()):
            end = time.monotonic() + self.left(until) / (len(pairs) - number)
            try:
                row = self.compare(model, ours, native, end)
                ratio, step = row["ratio"]["median"], row["surgeon"]["step_seconds"]
                print(f"{model}: {1e3 * step:.2f} ms a step, {ratio:.3f} of native", flush=True)
            except Exception as error:  # noqa: BLE001 - a row that fails must not end the others
                row = {"model": model, "reason": reason(error)}
                print(f"{model}: {row['reason']}", flush=True)
            rows.append(row)
            self.save()
        for model, (ours, native) in pairs.items():
            row = next(row for row in rows if row["model"] == model)
            self.second_mode(model, row, ours, native, until)
            ours.end()
            native.end()
            self.save()

    def compare(self, model: str, ours: Child, native: Child, until: float) -> dict[str, Any]:
        """Take pairs of blocks."""
        for child in (ours, native):
            if child.failed is not None:
                raise ChildError(f"{child.role}: {child.failed}")
        apart = difference(ours.warmed["logits"], native.warmed["logits"])
        if not apart < 1e-3:
            raise ChildError(f"not the same network: logits differ by {apart:.2g}")
        same_work(ours.warmed["notes"])
        steps = self.steps_of(ours, native)
        ours.ask("rest", 30)
        native.ask("rest", 30)
        taken = self.rounds(model, ours, native, steps, until - 12)
        row = self.row(model, ours, native, taken, steps) | {"logits_differ_by": apart}
        same_work(row["surgeon"]["notes"])
        row["profile"] = self.profiled(model, ours)
        for child in (ours, native):  # the memory is for the next
            child.ask("rest", 30)
        return row

    def steps_of(self, ours: Child, native: Child) -> int:
        """Return how many steps make a block of about half a second."""
        slowest = max(child.block(3, untimed=1) for child in (ours, native)) / 3
        steps = round(self.sizes.block_seconds / slowest)
        return min(max(steps, 2), self.sizes.most_steps)

    def rounds(
        self, model: str, ours: Child, native: Child, steps: int, until: float
    ) -> dict[str, list[float]]:
        """Return seconds per step of every block, ours and native's in turn."""
        taken: dict[str, list[float]] = {"surgeon": [], "native": []}
        sides = (("surgeon", ours), ("native", native))
        for number in range(self.pairs):
            if number >= 3 and time.monotonic() > until:
                self.cut(f"{model}: {number} of {self.pairs} pairs of blocks")
                break
            for name, child in sides if number % 2 else reversed(sides):
                taken[name].append(child.block(steps, untimed=1) / steps)
        return taken

    def row(
        self, model: str, ours: Child, native: Child, taken: dict[str, list[float]], steps: int
    ) -> dict[str, Any]:
        """Return the figures of one network."""
        counted = self.result["counted"][model]
        ceilings = self.result["ceilings"]
        flops, moved = (counted[key] * self.sizes.batch for key in ("flops", "bytes"))
        moved += counted["bytes_once"]
        ratios = [a / b for a, b in zip(taken["surgeon"], taken["native"], strict=True)]
        row: dict[str, Any] = {
            "model": model, "reason": None, "batch": self.sizes.batch, "size": self.sizes.size,
            "steps_per_block": steps,
            "ratio": {"median": float(np.median(ratios)), "interval": interval(ratios),
                      "n": len(ratios)},
            "flops_per_step": flops, "bytes_per_step": moved,
            "floor_seconds": {
                "flops": share(flops, ceilings.get("bf16_flops")),
                "bytes": share(moved, ceilings.get("copy_bytes")),
            },
            "seconds": taken,
        }  # fmt: skip
        for name, child in (("surgeon", ours), ("native", native)):
            step = float(np.median(taken[name]))
            memory = child.ask("peak", 30)
            row[name] = {
                "step_seconds": step,
                "images_per_second": self.sizes.batch / step,
                "utilisation_of_measured": share(flops / step, ceilings.get("bf16_flops")),
                "utilisation_of_data_sheet": flops / step / SHEET_FLOPS,
                "share_of_copy": share(moved / step, ceilings.get("copy_bytes")),
                "start_seconds": child.warmed["seconds"],
                "peak_bytes": memory["peak"],
                "reserved_bytes": memory["reserved"],
                "mode": child.mode,
                "notes": memory["notes"],
            }
        return row

    def profiled(self, model: str, ours: Child) -> dict[str, Any]:
        """What the host waits for, and how long the device does."""
        count = self.sizes.profiled
        try:
            found = ours.ask("profile", 60, count=count, untimed=2)["profile"]
            found |= {"where": ours.ask("waits", 30, count=3, untimed=1)["where"]}
        except ChildError as error:
            found = {"reason": str(error)}
        self.result["profile"].append({"model": model, **found})
        return found

    def second_mode(
        self, model: str, row: dict[str, Any], ours: Child, native: Child, until: float
    ) -> None:
        """Try native as CUDA graphs, too, where there is time; the faster mode is the opponent."""
        if row["reason"] is not None or self.arguments.quick:
            return
        needed = native.warmed["seconds"] + 30
        if self.left(until) < needed:
            self.cut(f"{model}: native with mode reduce-overhead not tried")
            return
        other = self.child("native", model)
        other.mode = "reduce-overhead"
        try:
            other.send("warm", folder=str(self.folder), mode=other.mode)
            other.warmed = other.answer(max(self.left(until) - 15, 10))
            steps = row["steps_per_block"]
            best = min(other.block(steps, untimed=1) / steps for _ in range(3))
            row["native"]["reduce_overhead_step_seconds"] = best
            if best < min(row["seconds"]["native"]):
                end = time.monotonic() + self.left(until)
                taken = self.rounds(model, ours, other, steps, end)
                kept = {key: row[key] for key in ("logits_differ_by", "profile")}
                default = row["native"]
                row |= self.row(model, ours, other, taken, steps) | kept
                row["native"]["default_step_seconds"] = default["step_seconds"]
        except ChildError as error:
            row["native"]["reduce_overhead"] = str(error)
        other.end()

    # --------------------------------------------------------------- frozen cases, the anchor

    def freeze(self, pairs: dict[str, tuple[Child, Child]], until: float, *, others: int) -> None:
        """Measure the frozen cases, one after the other."""
        for number, (model, (ours, native)) in enumerate(pairs.items()):
            end = time.monotonic() + self.left(until) / (len(pairs) - number + others)
            try:
                row = self.frozen_row(model, ours, native, end)
                print(f"{model}, frozen: {row['ratio']['median']:.2f} of native", flush=True)
            except Exception as error:  # noqa: BLE001 - as above
                row = {"model": model, "reason": reason(error)}
                print(f"{model}, frozen: {row['reason']}", flush=True)
            self.result["frozen"].append(row)
            ours.end()
            native.end()
            self.save()

    def frozen_row(self, model: str, ours: Child, native: Child, until: float) -> dict[str, Any]:
        """Features, and features with the head, against native."""
        for child in (ours, native):
            if child.failed is not None:
                raise ChildError(f"{child.role}: {child.failed}")
        pictures = self.sizes.frozen_pictures
        taken: dict[str, list[float]] = {"surgeon": [], "native": []}
        sides = (("surgeon", ours), ("native", native))
        for number in range(self.sizes.feature_pairs):
            if number and time.monotonic() > until - 25:
                self.cut(f"{model}, frozen: {number} of {self.sizes.feature_pairs} pairs")
                break
            for name, child in sides if number % 2 else reversed(sides):
                taken[name].append(child.ask("features", 120)["seconds"])
        ratios = [b / a for a, b in zip(taken["surgeon"], taken["native"], strict=True)]
        whole = [ours.ask("whole", 120)]
        while len(whole) < 3 and time.monotonic() < until - 15:
            whole.append(ours.ask("whole", 120))
        # Ten epochs, or as many as there is time for, and that is said.
        epochs, each = self.sizes.epochs, float(np.median(taken["native"]))
        possible = int((until - time.monotonic()) / max(each, 1e-3))
        if possible < epochs:
            epochs = max(possible, 2)
            self.cut(f"{model}, frozen: {epochs} of {self.sizes.epochs} epochs of the native loop")
        loop = native.ask("loop", 180, epochs=epochs)
        loop_seconds = loop["seconds"] * self.sizes.epochs / epochs
        whole_seconds = float(np.median([one["seconds"] for one in whole]))
        return {
            "model": model, "reason": None, "pictures": pictures, "seconds": taken,
            "engine": ours.warmed["engine"], "engines": ours.warmed["engines"],
            "images_per_second": {n: pictures / float(np.median(s)) for n, s in taken.items()},
            "ratio": {"median": float(np.median(ratios)), "interval": interval(ratios),
                      "n": len(ratios)},
            "whole": {
                "surgeon_seconds": whole_seconds, "parts": whole,
                "native_seconds": loop_seconds, "epochs": self.sizes.epochs,
                "epochs_measured": epochs, "ratio": loop_seconds / whole_seconds,
                "accuracy": {"surgeon": whole[-1]["accuracy"], "native": loop["accuracy"]},
            },
            "cold": {
                "surgeon": ours.warmed["cold"], "native_start_seconds": native.warmed["seconds"],
                "ratio": (loop_seconds + native.warmed["seconds"]) / ours.warmed["seconds"],
            },
        }  # fmt: skip

    # ------------------------------------------------------------------------------ arithmetic

    def epochs(self) -> None:
        """An epoch of ImageNet's size at the speed of the measured steps."""
        for row in (*self.result["full"], *self.result["anchor"]):
            minutes = {
                name: PICTURES_OF_IMAGENET / row[name]["images_per_second"] / 60
                for name in ("surgeon", "native")
                if row["reason"] is None
            }
            like = [one for one in PUBLISHED if one["like"] == row["model"]]
            self.result["epoch"].append(
                {"model": row["model"], "reason": row["reason"], "minutes": minutes or None,
                 "published": like}
            )  # fmt: skip
        self.save()


def environment() -> dict[str, str]:
    """Return the variables of a child: several compile at the same time, each with its share."""
    workers = str(max(2, (os.cpu_count() or 4) // 3))
    return {"TORCHINDUCTOR_COMPILE_THREADS": workers, **os.environ}


def difference(ours: list[float], native: list[float]) -> float:
    """Return the largest difference, relative to the largest number."""
    a, b = np.array(ours), np.array(native)
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-6))


def same_work(notes: list[str]) -> None:
    """Refuse a contestant that has made its passes smaller: its steps are others then.

    Raises:
        ChildError: with its own words.
    """
    for note in notes:
        if "passes of" in note:
            raise ChildError(f"surgeon: not the same steps: {note}")


def share(part: float, whole: float | None) -> float | None:
    """Return part ÷ whole, None where the whole is not known."""
    return part / whole if whole else None


def reason(error: Exception) -> str:
    """Return an error in a line."""
    return str(error) if isinstance(error, ChildError) else f"{type(error).__name__}: {error}"


def chip() -> dict[str, Any]:
    """Return what the driver says of the first GPU, as far as it says anything."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total",
               "--format=csv,noheader,nounits"]  # fmt: skip
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        name, driver, memory = said.stdout.strip().splitlines()[0].split(", ")
        return {"name": name, "driver": driver, "memory_bytes": int(memory) * 2**20}
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return {"name": None, "driver": None, "memory_bytes": None}


# ── the tables ───────────────────────────────────────────────────────────────────────────────────


def show(result: dict[str, Any]) -> None:
    """Print every table that has a row."""
    device, ran = result["device"], result["ran_on_gpu"]
    print(f"\n{device['name']}, driver {device['driver']}, CUDA {device.get('cuda')}, "
          f"torch {result['versions']['torch']}, {result['date']}")  # fmt: skip
    print("" if ran else "not run on a GPU: the figures mean nothing")
    if result["ceilings"]["reason"] is None:
        table(("ceiling", "measured"), ceiling_rows(result["ceilings"]))
    tuned = [*result["full"], *result["anchor"]]
    table(FULL_COLUMNS, [full_row(row) for row in tuned])
    for row in tuned:
        for note in (row.get("surgeon") or {}).get("notes", []):
            print(f"  {row['model']}: {note}")
    table(PROFILE_COLUMNS, [profile_row(row) for row in result["profile"]])
    table(FROZEN_COLUMNS, [frozen_row(row) for row in result["frozen"]])
    table(EPOCH_COLUMNS, [epoch_row(row) for row in result["epoch"]])
    for text in result["cut"]:
        print(f"cut: {text}")


def table(columns: tuple[str, ...], rows: list[list[str]]) -> None:
    """Print a table, nothing without rows; a row may be shorter: its last cell is a reason."""
    if not rows:
        return
    print("\n| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for row in rows:
        print("| " + " | ".join([*row, *[""] * (len(columns) - len(row))]) + " |", flush=True)


def percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"


def ratio(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['median']:.3f} ({low:.3f} to {high:.3f})"


CEILINGS = {
    "copy_bytes": ("copy on the device, read + written", 1e12, "TB/s"),
    "bf16_flops": ("product of matrices, bf16", 1e12, "TFLOP/s"),
    "tf32_flops": ("product of matrices, TF32", 1e12, "TFLOP/s"),
    "float32_flops": ("product of matrices, float32", 1e12, "TFLOP/s"),
    "pinned_bytes": ("copy from pinned memory", 1e9, "GB/s"),
}


def ceiling_rows(found: dict[str, Any]) -> list[list[str]]:
    return [
        [text, f"{found[key] / unit:.3g} {word}" if found[key] else found["reasons"][key]]
        for key, (text, unit, word) in CEILINGS.items()
    ]


FULL_COLUMNS = (
    "full tuning", "ms a step: surgeon, native", "surgeon ÷ native (95 %)", "pairs",
    "images/s: surgeon, native", "FLOPs ÷ measured product", "FLOPs ÷ 989 TFLOP/s",
    "fewest bytes ÷ measured copy", "peak GiB: surgeon, native",
)  # fmt: skip


def full_row(row: dict[str, Any]) -> list[str]:
    if row["reason"] is not None:
        return [row["model"], row["reason"]]
    ours, native = row["surgeon"], row["native"]
    steps = [f"{1e3 * side['step_seconds']:.2f}" for side in (ours, native)]
    return [
        row["model"],
        f"{steps[0]}, {steps[1]} ({native['mode']})",
        ratio(row["ratio"]),
        str(row["ratio"]["n"]),
        f"{ours['images_per_second']:,.0f}, {native['images_per_second']:,.0f}",
        percent(ours["utilisation_of_measured"]),
        percent(ours["utilisation_of_data_sheet"]),
        percent(ours["share_of_copy"]),
        f"{ours['peak_bytes'] / 2**30:.1f}, {native['peak_bytes'] / 2**30:.1f}",
    ]


PROFILE_COLUMNS = (
    "profile of surgeon", "steps", "kernels a step", "waiting calls in all steps",
    "where torch waited", "time without a kernel",
)  # fmt: skip


def profile_row(row: dict[str, Any]) -> list[str]:
    if row["reason"] is not None:
        return [row["model"], row["reason"]]
    calls = ", ".join(f"{name} {count}" for name, count in row["calls"].items() if count)
    return [
        row["model"],
        str(row["steps"]),
        f"{row['kernels_per_step']:.0f}",
        f"{calls or 'none'} ({1e3 * row['calls_seconds']:.2f} ms)",
        ", ".join(row["where"]) or "nowhere",
        percent(row["without_kernel"]),
    ]


FROZEN_COLUMNS = (
    "frozen", "features, images/s: surgeon, native", "surgeon ÷ native (95 %)",
    "features + head, s", "epochs of native ÷ that", "first time, all starting up included",
    "engine (others: images/s)", "chosen for features + head",
)  # fmt: skip


def frozen_row(row: dict[str, Any]) -> list[str]:
    if row["reason"] is not None:
        return [row["model"], row["reason"]]
    rate, whole, cold = row["images_per_second"], row["whole"], row["cold"]
    others = "; ".join(
        f"{name}: {one['reason'] or format(one['images_per_second'], ',.0f')}"
        for name, one in row["engines"].items()
        if name != row["engine"]
    )
    return [
        row["model"],
        f"{rate['surgeon']:,.0f}, {rate['native']:,.0f}",
        ratio(row["ratio"]),
        f"{whole['surgeon_seconds']:.2f}",
        f"{whole['ratio']:.1f} ({whole['epochs']} epochs, {whole['epochs_measured']} measured)",
        f"{cold['surgeon']['seconds']:.1f} s, {cold['ratio']:.1f}",
        f"{row['engine']} ({others})",
        ", ".join(whole["parts"][-1]["providers"]),
    ]


EPOCH_COLUMNS = (
    f"minutes for {PICTURES_OF_IMAGENET:,} pictures", "surgeon, native", "published for one chip",
)  # fmt: skip


def epoch_row(row: dict[str, Any]) -> list[str]:
    if row["reason"] is not None:
        return [row["model"], row["reason"]]
    minutes = row["minutes"]
    published = "; ".join(
        f"{PICTURES_OF_IMAGENET / one['images_per_second'] / 60:.1f} ({one['model']}, "
        f"{one['chip']}: {one['images_per_second']:,} images/s)"
        for one in row["published"]
    )
    return [
        row["model"],
        f"{minutes['surgeon']:.2f}, {minutes['native']:.2f}",
        published or "none found",
    ]


# ── processes ────────────────────────────────────────────────────────────────────────────────────


class ChildError(Exception):
    """What a child said when it failed, in a line."""


@dataclass
class Child:
    """A process that does what it is told, word by word."""

    role: str
    model: str
    arguments: argparse.Namespace
    mode: str | None = None
    failed: str | None = None
    warmed: dict[str, Any] = field(default_factory=dict)

    alive = []  # noqa: RUF012 - all that may have to be ended

    def __post_init__(self) -> None:
        self.mode = "default" if self.role == "native" else None
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        options = ["--device", self.arguments.device]
        options += ["--quick"] if self.arguments.quick else []
        self.process = subprocess.Popen(
            [sys.executable, str(CONTESTANTS), self.role, self.model, *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, text=True,
            start_new_session=True, env=environment(),
        )  # fmt: skip
        self.answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        Child.alive.append(self)

    def _listen(self) -> None:
        for line in self.process.stdout:
            if line.startswith("{"):
                self.answers.put(json.loads(line))
        self.answers.put(None)

    def send(self, word: str, **more: Any) -> None:
        """Say a word; what goes wrong shows in the answer."""
        with suppress(BrokenPipeError, ValueError):
            self.process.stdin.write(json.dumps({"word": word, **more}) + "\n")
            self.process.stdin.flush()

    def answer(self, seconds: float) -> dict[str, Any]:
        """Wait for the answer to a word.

        Raises:
            ChildError: it failed, died, or took longer; it is ended then.
        """
        try:
            found = self.answers.get(timeout=max(seconds, 0.1))
        except queue.Empty:
            self.failed = self.failed or f"no answer in {seconds:.0f} s"
            self.kill()
            raise ChildError(self.failed) from None
        if found is None or "error" in found:
            self.failed = self.failed or (found or {}).get("error") or self._last_words()
            self.kill()
            raise ChildError(self.failed)
        return found

    def ask(self, word: str, seconds: float, **more: Any) -> dict[str, Any]:
        """Say a word and wait for the answer."""
        if self.failed is not None:
            raise ChildError(self.failed)
        self.send(word, **more)
        return self.answer(seconds)

    def block(self, steps: int, *, untimed: int) -> float:
        """Take steps; return the seconds of those that are timed."""
        return float(self.ask("steps", 120, count=steps, untimed=untimed)["seconds"])

    def end(self) -> None:
        """Let the process end by itself, and see that it does."""
        if self not in Child.alive:
            return
        self.send("end")
        with suppress(OSError, ValueError):
            self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.kill()

    def kill(self) -> None:
        """End the process and what it started (a compiler's workers)."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        if self in Child.alive:
            Child.alive.remove(self)

    def _last_words(self) -> str:
        self.said.seek(0)
        lines = self.said.read().strip().splitlines()
        return lines[-1][:200] if lines else "died without a word"


if __name__ == "__main__":
    main()
