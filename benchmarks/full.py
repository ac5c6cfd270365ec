"""One whole training step, forward, backward and optimiser, against the networks' own torch code.

    python benchmarks/full.py                          # some 25 minutes on two idle cores
    python benchmarks/full.py --models mobilenetv2 --size 64 --batch 4 --pairs 5   # a quick look

ResNet-50, MobileNetV2, EfficientNet-Lite0 and ViT-S/16 as timm writes them, with random weights and
statistics, exported by torch once with BatchNormalization kept and once folded into the
convolutions. Needs the extra `bench`, timm and torchvision.

surgeon         the exported file, trained by `surgeon.train.loop.fit` as `finetune` calls it:
                loading in a thread, AdamW (fused) in its groups,
                clipping of the gradient, progress.
native          timm's module in a plain loop: cross entropy, backward, AdamW (fused), no clipping.
                *kept*: in training mode. *folded*: its convolutions hold the normalization, as in
                the file. In three modes: eager, channels_last, channels_last under torch.compile.
onnx2torch, onnx2pytorch   what they make of the same file, in the same plain loop; weights that
                they hold as buffers learn, too.

A process per contestant, all alive at once, one step at a time in turn; a round gives one ratio,
the table its median and the 95 % interval of the median (bootstrap). A few rounds before that find
the best mode of `native`; where it is ahead of `surgeon` as it is, or `surgeon` takes more than 0.9
of a peer's time, `surgeon` is compiled too and the faster of its two forms goes on. The
first loss of all contestants has to be the same. Memory: the most a process ever held, libraries,
weights and the file included.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from frozen import import_timm

MODELS = {
    "resnet50": "resnet50",
    "mobilenetv2": "mobilenetv2_100",
    "efficientnet-lite0": "efficientnet_lite0",
    "vit-s16": "vit_small_patch16_224",
}
NATIVE = ("native eager", "native channels_last", "native compile")
PEERS = ("onnx2torch", "onnx2pytorch")
RESULTS = Path(__file__).parent / "results" / "full.json"
WARM, TRIAL = 2, 3
PEER_SHARE = 0.9
CLOCK = time.perf_counter


def main() -> None:
    """Measure every model in both forms, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--forms", nargs="+", choices=["kept", "folded"])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--peer-pairs", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--by-cpu", action="store_true", help="CPU seconds: on a busy machine")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        serve(*arguments.child, arguments)
        return
    begun, rows, loads = time.perf_counter(), [], [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models:
            forms = ["folded"] if model.startswith("vit") else ["kept", "folded"]
            for form in arguments.forms or forms:
                file = Path(folder) / f"{model}-{form}.onnx"
                subprocess.run(command("export", model, form, file, arguments), check=True)
                rows.append(measure(model, form, file, arguments))
                show([rows[-1]], head=len(rows) == 1)
                loads.append(os.getloadavg()[0])
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
        "versions": {name: installed(name) for name in
                     ("torch", "timm", "onnx2torch", "onnx2pytorch", "onnx")},
        "load": loads,
        "settings": {key: getattr(arguments, key) for key in
                     ("batch", "size", "threads", "pairs", "peer_pairs", "no_compile", "by_cpu")},
        "seconds": time.perf_counter() - begun,
        "rows": rows,
    }  # fmt: skip
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(f"\n{result['seconds'] / 60:.0f} minutes; {arguments.out}")


# ── the rounds ───────────────────────────────────────────────────────────────────────────────────


class Contestant:
    """A process that takes one step when told."""

    def __init__(self, name: str, model: str, form: str, file: Path, arguments) -> None:
        self.name = name
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        self.process = subprocess.Popen(
            command(name, model, form, file, arguments),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, text=True,
        )  # fmt: skip

    def ask(self, word: str) -> dict | None:
        """Send a word and return the answer, or None where the process has died."""
        try:
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        return None

    def reason(self) -> str:
        """Return the last line of what a dead process had to say."""
        self.process.wait(60)
        self.said.seek(0)
        lines = self.said.read().strip().splitlines()
        return lines[-1][:200] if lines else "no word"

    def step(self) -> float:
        """Take one step; return its seconds."""
        answer = self.ask("step")
        if answer is None:
            raise SystemExit(f"{self.name} died: {self.reason()}")
        self.loss = answer.get("loss")
        return answer["seconds"]

    def end(self) -> int:
        """End the process and return its peak memory in bytes."""
        answer = self.ask("end") or {}
        self.process.stdin.close()
        self.process.wait(60)
        return answer.get("peak", 0)


def measure(model: str, form: str, file: Path, arguments) -> dict:
    """Find each side's best mode, then take the rounds."""
    failed, alive = {}, {}

    def start(name: str) -> None:
        contestant = Contestant(name, model, form, file, arguments)
        begun = time.perf_counter()
        answer = contestant.ask("step")
        if answer is None:
            failed[name] = contestant.reason()
            return
        contestant.first, contestant.start = answer["loss"], time.perf_counter() - begun
        for _ in range(WARM - 1):
            contestant.step()
        alive[name] = contestant

    modes = [name for name in NATIVE if not (arguments.no_compile and "compile" in name)]
    for name in ("surgeon", *modes, *PEERS):
        start(name)
    trial = {name: best(contestant) for name, contestant in alive.items()}
    native = min((n for n in trial if n.startswith("native")), key=trial.get)
    behind = trial["surgeon"] > trial[native] or any(
        trial["surgeon"] > PEER_SHARE * trial[name] for name in PEERS if name in trial
    )
    if behind and not arguments.no_compile:
        start("surgeon compiled")
        if "surgeon compiled" in alive:
            trial["surgeon compiled"] = best(alive["surgeon compiled"])
    ours = min((n for n in trial if n.startswith("surgeon")), key=trial.get)
    peaks = {n: alive.pop(n).end() for n in list(alive) if n not in {ours, native, *PEERS}}
    others = [native, *(n for n in PEERS if n in alive)]
    taken: dict[str, list[float]] = {n: [] for n in (ours, *others)}
    for number in range(arguments.pairs):
        turn = [n for n in (ours, *others) if n not in PEERS or number < arguments.peer_pairs]
        for name in turn if number % 2 else reversed(turn):
            taken[name].append(alive[name].step())
    first = {name: contestant.first for name, contestant in alive.items()}
    for name, loss in first.items():
        if not math.isclose(loss, first[native], rel_tol=1e-3):
            failed[name] = f"another loss: {loss:.5f}, not {first[native]:.5f}"
    peaks |= {name: contestant.end() for name, contestant in alive.items()}
    ratios = {}
    for name in others:
        pairs = [a / b for a, b in zip(taken[ours], taken[name], strict=False)]
        ratios[name] = {
            "median": float(np.median(pairs)),
            "interval": interval(pairs),
            "n": len(pairs),
        }
    return {
        "model": model, "form": form, "ours": ours, "native": native, "trial_seconds": trial,
        "start_seconds": {n: c.start for n, c in alive.items()}, "seconds": taken,
        "ratios": ratios, "peak_bytes": peaks, "first_loss": first, "failed": failed,
    }  # fmt: skip


def best(contestant: Contestant) -> float:
    """Return the least of a few steps."""
    return min(contestant.step() for _ in range(TRIAL))


def interval(values: list[float]) -> list[float]:
    """Return the 95 % interval of the median, by bootstrap."""
    draws = np.random.default_rng(0).choice(values, (4000, len(values)))
    return [float(v) for v in np.quantile(np.median(draws, axis=1), [0.025, 0.975])]


def show(rows: list[dict], *, head: bool) -> None:
    """Print rows of the table."""
    if head:
        columns = (
            "model", "BatchNormalization", "seconds per step", "native's best", "surgeon ÷ native",
            "÷ onnx2torch", "÷ onnx2pytorch", "peak memory: surgeon, native",
        )  # fmt: skip
        print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for row in rows:
        cells = [row["model"], row["form"] if not row["model"].startswith("vit") else "none"]
        cells += [
            f"{np.median(row['seconds'][row['ours']]):.3g} ({row['ours']})",
            row["native"][7:],
        ]
        for name in (row["native"], *PEERS):
            ratio = row["ratios"].get(name)
            text = "fails" if name in row["failed"] or ratio is None else None
            cells.append(
                text or "{:.3f} ({:.3f} to {:.3f})".format(ratio["median"], *ratio["interval"])
            )
        memory = [row["peak_bytes"].get(n, 0) / 2**30 for n in (row["ours"], row["native"])]
        cells.append(", ".join(f"{gib:.2f} GiB" for gib in memory))
        print("| " + " | ".join(cells) + " |", flush=True)
        for name, reason in row["failed"].items():
            print(f"  {name}: {reason}", file=sys.stderr)


def command(name: str, model: str, form: str, file: Path, arguments) -> list[str]:
    """Return the command line of one process."""
    settings = {"batch": arguments.batch, "size": arguments.size, "threads": arguments.threads}
    options = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    options += ["--by-cpu"] if arguments.by_cpu else []
    return [sys.executable, __file__, "--child", name, model, form, str(file), *options]


def installed(name: str) -> str | None:
    """Return a distribution's version, None where it is missing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


# ── the contestants, each in a process of its own ────────────────────────────────────────────────


def serve(name: str, model: str, form: str, file: str, arguments) -> None:
    """Export, or take steps as told on standard input."""
    warnings.simplefilter("ignore")
    import torch

    global CLOCK  # noqa: PLW0603 - one process, one clock
    CLOCK = time.process_time if arguments.by_cpu else time.perf_counter
    torch.set_num_threads(arguments.threads)
    if name == "export":
        export(model, form, file, arguments.size)
        return
    torch.manual_seed(0)
    pictures = torch.randn(arguments.batch, 3, arguments.size, arguments.size)
    if name.startswith("surgeon"):
        fit(file, pictures, compiled=name.endswith("compiled"))
        return
    if name.startswith("native"):
        module = native(model, form, arguments.size)
    else:
        import_timm()  # declares what torchvision's import asks for
        module = peer(name, file)
    module.train()
    if name in NATIVE[1:]:
        module = module.to(memory_format=torch.channels_last)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
    if name == NATIVE[2]:
        module = torch.compile(module)
    weights = learning(module)
    optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=True)
    target = torch.zeros(len(pictures), dtype=torch.int64)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(module(pictures), target)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    while wait():
        begun = CLOCK()
        loss = step()
        tell({"seconds": CLOCK() - begun, "loss": loss})
    end()


def learning(module) -> list:
    """Return the weights of a module; where it holds some as buffers, they are made to learn.

    onnx2torch keeps the weights of a MatMul so, which its users' optimisers never see.
    """
    statistics = {"running_mean", "running_var"}
    held = [
        buffer.requires_grad_(True)
        for name, buffer in module.named_buffers()
        if name.rpartition(".")[2] not in statistics
        and buffer.is_floating_point()
        and buffer.numel() > 1
    ]
    return [*module.parameters(), *held]


def fit(file: str, pictures, *, compiled: bool) -> None:
    """Train by surgeon's own loop, held after every step until the next is wanted."""
    import surgeon
    from surgeon.train.loop import fit as train
    from surgeon.train.objective import CrossEntropy
    from surgeon.train.settings import FitSettings

    class Batches:
        n = len(pictures) * 100_000
        targets = np.zeros(n, np.int64)

        def load(self, _):
            return (pictures,)

    module = surgeon.to_torch(file)
    names = [name for name, p in module.named_parameters() if p.numel() > 1]
    clock = {"begun": None}

    def report(progress) -> None:
        if progress.note is not None or progress.row is not None:
            return
        tell({"seconds": CLOCK() - clock["begun"], "loss": progress.loss})
        hold()

    def hold() -> None:
        if not wait():
            end()
            raise KeyboardInterrupt
        clock["begun"] = CLOCK()

    settings = FitSettings(
        device="cpu", epochs=1, batch=len(pictures), lr=1e-5,
        compile="on" if compiled else "off",
    )  # fmt: skip
    hold()
    train(
        module, Batches(), None, objective=CrossEntropy(), trainable=names, settings=settings,
        progress=report,
    )  # fmt: skip


def wait() -> bool:
    """Tell whether another step is wanted."""
    return sys.stdin.readline().strip() == "step"


def tell(document: dict) -> None:
    print(json.dumps(document), flush=True)


def end() -> None:
    """Say how much memory the process ever held, and end it."""
    import torch

    from surgeon.train.device import peak_memory

    tell({"peak": peak_memory(torch.device("cpu"))})


def native(model: str, form: str, size: int):
    """Return timm's module with seeded weights and statistics."""
    import torch

    timm = import_timm()

    torch.manual_seed(0)
    more = {"img_size": size} if model.startswith("vit") else {}
    module = timm.create_model(MODELS[model], pretrained=False, **more)
    for part in module.modules():  # equal tensors would be exported as one
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensor = getattr(part, name, None)
            if isinstance(tensor, torch.Tensor) and tensor.ndim == 1:
                tensor.data.add_(0.02 * torch.randn_like(tensor))
    if form == "folded":
        fold(module, torch.randn(1, 3, size, size))
    return module


def fold(module, picture) -> None:
    """Put every BatchNormalization into the convolution in front of it."""
    import torch
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    module.eval()
    made, pairs = {}, {}

    def convolved(part, _, output):
        made[output.data_ptr()] = part

    def normalizes(part, inputs):
        pairs[part] = made[inputs[0].data_ptr()]

    hooks = [p.register_forward_hook(convolved) for p in module.modules()
             if isinstance(p, nn.Conv2d)]  # fmt: skip
    hooks += [p.register_forward_pre_hook(normalizes) for p in module.modules()
              if isinstance(p, nn.BatchNorm2d)]  # fmt: skip
    with torch.no_grad():
        module(picture)
    for hook in hooks:
        hook.remove()
    for parent in list(module.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, nn.BatchNorm2d):
                convolution = pairs[part]
                folded = fuse_conv_bn_eval(convolution, part)
                convolution.weight, convolution.bias = folded.weight, folded.bias
                rest = [getattr(part, n) for n in ("drop", "act") if hasattr(part, n)]
                setattr(parent, name, nn.Sequential(*rest) if rest else nn.Identity())


def export(model: str, form: str, file: str, size: int) -> None:
    """Write the ONNX file, BatchNormalization kept or folded."""
    import torch

    module = native(model, "kept", size).eval()
    kept = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    torch.onnx.export(
        module, (torch.randn(2, 3, size, size),), file, dynamo=False, opset_version=17,
        input_names=["x"], output_names=["logits"],
        dynamic_axes={"x": {0: "n"}, "logits": {0: "n"}}, **(kept if form == "kept" else {}),
    )  # fmt: skip


def peer(name: str, file: str):
    """Return another converter's module."""
    import onnx

    if name == "onnx2torch":
        import onnx2torch

        return onnx2torch.convert(file)
    from onnx2pytorch import ConvertModel

    return ConvertModel(onnx.load(file), experimental=True)


if __name__ == "__main__":
    main()
