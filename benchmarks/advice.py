"""Is the advice right? An exhaustive search over case × cut by real training, and the regret.

    python benchmarks/advice.py --cells FOLDER            # every cell that is not finished yet
    python benchmarks/advice.py --cells FOLDER PATTERN    # those whose name has PATTERN in it
    python benchmarks/advice.py --collect FOLDER          # cells → results/advice.json
    python benchmarks/advice.py --write                   # results → the table in docs/advice.md
    python benchmarks/advice.py --cost                    # what the pass and the probes cost

A pair is a model, a data set and a number of samples to learn from (a fifth of them validates).
Its test samples are set aside before `advise` or `finetune` see anything, and are the same for
every size. The candidates of a pair, each a run of `surgeon.finetune` on the same samples:

head      the new head alone, at each cut the advice looks at (`small-similar` at the late one,
          `small-different` at the others);
similar   everything, pretrained, `large-similar`;
different everything, pretrained, `large-different`;
early     everything in front of the cut that the probes choose;
random    everything, from random weights, `large-different --init random`.

`auto` is the advised plan, a run of `surgeon finetune --case auto` as users have it. All that train
everything get the same epochs (fewer than surgeon's own choice: stated in the page). Of `similar`
and `different`, which differ in learning rates alone, the one that fits the evidence is run first;
the other where time allows. Regret is the best candidate's test accuracy less the advised one's;
its error is that of the paired difference over the test samples. The best of a dozen on a test set
is a little better there than it really is; `honest` chooses it on one half of the test samples and
judges on the other, both ways round.

A cell is a process of its own with one thread, and leaves one JSON file; what is finished is not
done again. Seconds are CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = Path(__file__).parent / "results" / "advice.json"
PAGE = Path(__file__).parent.parent / "docs" / "advice.md"
HELD = 0.2  # of the samples to learn from, for validation
SIZE = (64, 64)
KINDS = ("advise", "heads", "similar", "different", "early", "random", "auto")


@dataclass(frozen=True)
class Data:
    """One data set, as one model takes it.

    Attributes:
        labels: class of each sample, [n].
        test: how many are set aside.
        give: (positions, labelled or not, folder) → what `finetune` or `predict` take.
        groups: samples of one group are all set aside or all not, [n]; None = each on its own.
    """

    labels: np.ndarray
    test: int
    give: Callable[[np.ndarray, np.ndarray | None, Path], Any]
    groups: np.ndarray | None = None


@dataclass(frozen=True)
class Pair:
    """A model on so many samples of a data set; `tuned`: whether its rule's constants saw it."""

    model: str
    data: str
    samples: int
    epochs: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What its cells are called."""
        return f"{self.model}.{self.data}.{self.samples}"


# ── the data ─────────────────────────────────────────────────────────────────────────────────────


def pictures(name: str, test: int) -> Data:
    """PNG files, resized by surgeon; of Fashion-MNIST the first 10,000."""
    from surgeon_models import datasets

    found = datasets.fashion_mnist("test") if name == "fashion-mnist" else datasets.load(name)

    def give(rows: np.ndarray, parts: np.ndarray | None, folder: Path) -> str:
        for part in ("test",) if parts is None else ("train", "validation"):
            chosen = rows if parts is None else rows[parts == part]
            place = folder if parts is None else folder / part
            datasets.write_folder(
                found.images[chosen], found.labels[chosen], place, classes=found.classes
            )
        return str(folder)

    return Data(found.labels, test, give)


def arrays(labels: np.ndarray, test: int, values: dict, groups: np.ndarray | None = None) -> Data:
    """Arrays named like the model's inputs, samples along axis 0 (1 of a recurrent state)."""

    def give(rows: np.ndarray, parts: np.ndarray | None, _: Path) -> dict:
        found = {}
        for key, value in values.items():
            axis = {"state": 1, "sr": None}.get(key, 0)
            found[key] = value if axis is None else np.take(value, rows, axis)
        return found if parts is None else found | {"labels": labels[rows], "split": parts}

    return Data(labels, test, give, groups)


def mail() -> Data:
    """E-mails, 32 tokens of each."""
    from surgeon_models import datasets, text

    found = datasets.mail()
    chosen = np.random.default_rng(1).permutation(len(found.labels))[:2500]
    features = text.text_features([found.texts[row] for row in chosen], max_length=32)
    return arrays(found.labels[chosen], 1000, features)


def files() -> Data:
    """Files of 16 types."""
    from surgeon_models import datasets, encodings

    found = datasets.file_types()
    return arrays(found.labels, 500, {"bytes": encodings.bytes_features(found.contents)})


def series(name: str, test: int) -> Data:
    """One channel, taken for 10 s of brain waves."""
    from surgeon_models import datasets, encodings

    found = datasets.series(name)
    return arrays(found.labels, test, encodings.seizure_features(found.values[:, 0], 10))


def _clips() -> tuple[np.ndarray, np.ndarray]:
    from surgeon_models import datasets, encodings

    found = datasets.sounds()
    values = found.values[:, 0].astype(np.float32) / 32768
    return np.clip(encodings.to_rate(values, 8000, 16_000), -1, 1), found.labels


def chunks() -> Data:
    """Speech or music in 36 ms: of each clip the louder half of its chunks."""
    values, labels = _clips()
    cut = values[:, : values.shape[1] // 576 * 576].reshape(len(values), -1, 576)
    energy = np.square(cut).sum(axis=2)
    loud = energy >= np.median(energy, axis=1, keepdims=True)
    clip, _ = np.nonzero(loud)
    chosen = cut[loud]
    state = np.zeros((2, len(chosen), 128), np.float32)
    given = {"input": chosen, "state": state, "sr": np.array(16_000, np.int64)}
    return arrays(labels[clip], 2000, given, clip)


def packets() -> Data:
    """One second of sound, whole or with every fourth packet of 20 ms lost."""
    from surgeon_models import encodings

    values, _ = _clips()
    cut = values[:, : 9 * 16_000].reshape(-1, 16_000).copy()
    clip = np.repeat(np.arange(len(values)), 9)
    lost = np.random.default_rng(0).random(len(cut)) < 0.5
    cut[np.ix_(lost, np.arange(16_000) // 320 % 4 == 3)] = 0
    spectra = encodings.log_power(cut, 512, 256)[:, None] * np.float32(np.log(10) / 20)
    listener = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    given = {"degraded_audio": spectra, "rater_embed": np.tile(listener, (len(cut), 1))}
    return arrays(lost.astype(np.int64), 500, given, clip)


DATA: dict[str, Callable[[], Data]] = {
    "digits": lambda: pictures("digits", 700),
    "mnist": lambda: pictures("mnist5k", 1000),
    "clothes": lambda: pictures("fashion-mnist", 2000),
    "emoji": lambda: pictures("emoji", 800),
    "files": files,
    "mail": mail,
    "power": lambda: series("italy-power-demand", 500),
    "leaves": lambda: series("osu-leaf", 200),
    "voice": chunks,
    "packets": packets,
}
EPOCHS = {80: 20, 200: 12, 1000: 6, 4000: 3}
_SIZED = {"size": SIZE}
PAIRS = [
    *(
        Pair(model, data, samples, EPOCHS[samples], _SIZED)
        for samples, chosen in ((80, "all"), (200, "all"), (1000, "all"), (4000, "large"))
        for data in ("digits", "mnist", "clothes", "emoji")
        for model in ("mobilenetv2", "efficientnet-lite0")
        if chosen == "all"
        or (model, data) in {("mobilenetv2", "mnist"), ("efficientnet-lite0", "clothes")}
    ),
    Pair("silero-vad", "voice", 200, 20),
    Pair("silero-vad", "voice", 1000, 12),
    Pair("silero-vad", "voice", 4000, 6),
    Pair("plcmos", "packets", 200, 8),
    Pair("plcmos", "packets", 500, 5),
    Pair("eeg-seizure", "power", 200, 20),
    Pair("eeg-seizure", "power", 500, 12),
    Pair("eeg-seizure", "leaves", 240, 20),
    Pair("minilm-l3", "mail", 200, 8),
    Pair("minilm-l3", "mail", 1000, 4),
    Pair("magika", "files", 200, 5),
    Pair("magika", "files", 450, 3),
]


# ── one cell ─────────────────────────────────────────────────────────────────────────────────────


def run_cell(pair: Pair, kind: str, cells: Path) -> None:
    """Run one cell and leave its file."""
    target = cells / f"{pair.name}.{kind}.json"
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        model, cache = _own_cache(pair.model, scratch)
        os.environ["SURGEON_CACHE"] = str(cache)
        data = DATA[pair.data]()
        rows, parts, test = choose_samples(data, pair.samples)
        given = data.give(rows, parts, scratch / "data")
        if kind == "advise":
            result = advise(pair, model, given)
        else:
            asked = data.give(test, None, scratch / "test")
            truth = data.labels[test]
            result = {
                key: tune(pair, model, given, asked, truth, settings)
                for key, settings in candidates(pair, kind, cells).items()
            }
    result = {"load": round(os.getloadavg()[0], 1), "result": result}
    partial = target.with_suffix(".part")
    partial.write_text(json.dumps(result) + "\n", "utf-8")
    partial.replace(target)


def _own_cache(model: str, scratch: Path) -> tuple[Path, Path]:
    """Return the model's file, and a cache that has models and data but no features."""
    from surgeon_models import get, store

    path = get(model)
    cache = scratch / "cache"
    cache.mkdir()
    for folder in (path.parent.parent, store.data_folder()):
        (cache / folder.name).symlink_to(folder)
    return path, cache


def choose_samples(data: Data, samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions to learn from, their part (train or validation), and positions to test on.

    Test samples are the same for every size, and larger sizes hold the smaller ones.
    """
    from surgeon.data.splits import split

    random = np.random.default_rng(0)
    order = random.permutation(len(data.labels))
    if data.groups is None:
        test, rest = order[: data.test], order[data.test :]
    else:
        groups = random.permutation(np.unique(data.groups))
        away = np.isin(data.groups, groups[: len(groups) * 2 // 5])
        test, rest = order[away[order]][: data.test], order[~away[order]]
    rows = rest[:samples]
    parts = np.full(len(rows), "train", "<U10")
    codes = np.unique(data.labels[rows], return_inverse=True)[1]
    parts[split(codes, fraction=HELD, seed=0, hold_test=False).validation] = "validation"
    return rows, parts, test


def advise(pair: Pair, model: Path, given: Any) -> dict:
    """Run `surgeon.advise` and keep its document."""
    import surgeon

    begun, wall = time.process_time(), time.perf_counter()
    found = surgeon.advise(model, given, threads=1, **pair.options)
    seconds = time.process_time() - begun
    return found.document() | {"cpu": seconds, "wall": time.perf_counter() - wall}


def candidates(pair: Pair, kind: str, cells: Path) -> dict[str, dict]:
    """Return the settings of every run of a cell, by name."""
    advised = json.loads((cells / f"{pair.name}.advise.json").read_text("utf-8"))["result"]
    if kind == "auto":
        return {kind: {"case": "auto", "epochs": pair.epochs}}
    if kind == "heads":
        cuts = [row["tensor"] for row in advised["candidates"]]
        cases = ["small-different"] * (len(cuts) - 1) + ["small-similar"]
        return {
            f"head:{cut}": {"case": case, "cut": cut} for cut, case in zip(cuts, cases, strict=True)
        }
    if kind == "early":
        cut = next(row["tensor"] for row in advised["candidates"] if row["tie"])
        return {
            kind: {
                "case": "large-different",
                "cut": cut,
                "init": "pretrained",
                "epochs": pair.epochs,
            }
        }
    case = "large-similar" if kind == "similar" else "large-different"
    init = "random" if kind == "random" else "pretrained"
    settings = {"case": case, "init": init, "epochs": pair.epochs}
    # Where the last layers squeeze all into a score, everything is trained in front of them.
    wider = [row["tensor"] for row in advised["candidates"][:-1] if row["depth"] >= 0.99]
    return {kind: settings | ({"cut": wider[-1]} if wider else {})}


def tune(
    pair: Pair, model: Path, given: Any, asked: Any, truth: np.ndarray, settings: dict
) -> dict:
    """Train one candidate and say which test samples it gets right."""
    import surgeon

    begun, wall = time.process_time(), time.perf_counter()
    outcome = surgeon.finetune(
        model, given, threads=1, golden_samples=False, **settings, **pair.options
    )
    seconds, wall = time.process_time() - begun, time.perf_counter() - wall
    body = outcome.document()
    if isinstance(asked, str):
        predicted = surgeon.predict(outcome.model, [asked], threads=1)
        right = [
            label == Path(name).parent.name
            for label, name in zip(predicted.labels, predicted.names, strict=True)
        ]
    else:
        predicted = surgeon.predict(outcome.model, asked, threads=1)
        right = [label == str(true) for label, true in zip(predicted.labels, truth, strict=True)]
    return {
        "right": "".join(str(int(each)) for each in right),
        "validation": outcome.metrics["validation"],
        "delivered": body["delivered"],
        "stopped": body["stopped"],
        "samples_seen": body["samples_seen"],
        "trained_parameters": body["trained_parameters"],
        "case": body["plan"]["case"],
        "depth": body["plan"]["depth"],
        "cpu": seconds,
        "wall": wall,
    }


def run_cells(cells: Path, pattern: str) -> None:
    """Run what is not finished, each cell in a process of its own, until nothing is left to do.

    Several workers may share a folder: a cell that one has claimed the others leave alone. What
    advice could name comes first.
    """
    cells.mkdir(parents=True, exist_ok=True)
    failed: set[str] = set()
    while name := _next_cell(cells, pattern, failed):
        begun = time.perf_counter()
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--cells", str(cells), "--cell", name]
        done = subprocess.run(command, env=environment, check=False)
        (cells / f"{name}.claim").unlink()
        if done.returncode:
            failed.add(name)
        told = "done" if done.returncode == 0 else f"failed ({done.returncode})"
        print(name, told, f"{time.perf_counter() - begun:.0f} s", flush=True)


def _next_cell(cells: Path, pattern: str, failed: set[str]) -> str | None:
    """Claim the first cell that can be run, by its turn."""
    waiting = []
    for place, pair in enumerate(PAIRS):
        advised = cells / f"{pair.name}.advise.json"
        turns = {"advise": 0}
        if advised.exists():
            evidence = json.loads(advised.read_text("utf-8"))["result"]["evidence"]
            likely = "similar" if (evidence["similar"] or 0) > 0.5 else "different"
            other = {"similar": "different", "different": "similar"}[likely]
            turns = {"heads": 0, likely: 1, "early": 1, "auto": 2, "random": 2, other: 3}
        for kind, turn in turns.items():
            name = f"{pair.name}.{kind}"
            if pattern in name and name not in failed and not (cells / f"{name}.json").exists():
                waiting.append((turn, place, name))
    for _, _, name in sorted(waiting):
        try:
            (cells / f"{name}.claim").touch(exist_ok=False)
        except FileExistsError:
            continue  # another worker's
        return name
    return None


# ── the figures ──────────────────────────────────────────────────────────────────────────────────


def collect(cells: Path) -> dict:
    """Return the results of all pairs whose cells are finished."""
    rows = []
    for pair in PAIRS:
        found = {}
        for kind in KINDS:
            path = cells / f"{pair.name}.{kind}.json"
            if path.exists():
                found[kind] = json.loads(path.read_text("utf-8"))["result"]
        if "advise" in found and "heads" in found:
            rows.append(judge(pair, found))
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("onnx-surgeon", "torch", "onnxruntime-gpu")},
        "rows": rows,
    }


def judge(pair: Pair, found: dict[str, dict]) -> dict:
    """Compare the advised plan of one pair with its best candidate."""
    advice = found["advise"]
    runs = {name: run for kind in KINDS[1:] for name, run in found.get(kind, {}).items()}
    right = {name: np.array(list(run["right"]), float) for name, run in runs.items()}
    accuracy = {name: float(values.mean()) for name, values in right.items()}
    advised = "auto"
    row = {
        "model": pair.model,
        "data": pair.data,
        "samples": pair.samples,
        "epochs": pair.epochs,
        "test": len(next(iter(right.values()))),
        "missing": [kind for kind in KINDS if kind not in found],
        "evidence": {key: advice["evidence"][key] for key in ("similar", "large")},
        "probes": [[item["depth"], item["accuracy"]] for item in advice["candidates"]],
        "accuracy": accuracy,
        "depth": {name: run["depth"] for name, run in runs.items()},
        "delivered": {name: run["delivered"] for name, run in runs.items()},
        "cpu": {name: run["cpu"] for name, run in runs.items()},
    }
    if advised not in right:
        return row | {"regret": None}
    best = max(accuracy, key=lambda name: (accuracy[name], name == advised))
    lost = right[best] - right[advised]
    halves = np.random.default_rng(0).permutation(len(lost)) % 2 == 0
    return row | {
        "best": best,
        "case": runs[advised]["case"],
        "regret": float(lost.mean()),
        "error": float(np.sqrt(((lost - lost.mean()) ** 2).sum()) / len(lost)),
        "honest": honest(right, advised, halves),
        "search_cpu": sum(run["cpu"] for name, run in runs.items() if name != advised),
        "plan_cpu": runs[advised]["cpu"],
    }


def honest(right: dict[str, np.ndarray], advised: str, half: np.ndarray) -> float:
    """Return the regret with the best chosen on one half and judged on the other, both ways."""
    losses = []
    for chosen, judged in ((half, ~half), (~half, half)):
        best = max(right, key=lambda name: (right[name][chosen].mean(), name == advised))
        losses.append(right[best][judged].mean() - right[advised][judged].mean())
    return float(np.mean(losses))


BEGIN, END = "<!-- benchmarks/advice.py writes from here -->", "<!-- to here -->"
UNSEEN = ("files", "mail", "packets")
"""Data sets whose results no rule and no constant was set by."""
TITLES = {
    "digits": "digits", "mnist": "MNIST", "clothes": "Fashion-MNIST", "emoji": "emoji",
    "files": "files, 16 types", "mail": "e-mails, spam or not", "power": "power demand, 2 seasons",
    "leaves": "outlines of 6 leaves", "voice": "speech or music in 36 ms",
    "packets": "sound, whole or with lost packets",
}  # fmt: skip


def section(document: dict) -> str:
    """Return the table of `docs/advice.md`."""
    rows = [row for row in document["rows"] if row["regret"] is not None]
    ratio = np.median([row["search_cpu"] / row["plan_cpu"] for row in rows])
    head = (
        f"{len(rows)} pairs, {len({r['model'] for r in rows})} models, "
        f"{len({r['data'] for r in rows})} data sets ({document['date']}). {summary(rows)} "
        f"The search costs {ratio:.1f} times the plan (median of CPU time, advice included)."
    )
    unseen = [row for row in rows if row["data"] in UNSEEN]
    few = [row for row in rows if row["samples"] < 100]
    enough = [row for row in rows if row["samples"] >= 100]
    parts = [
        f"- Of 80 samples: {summary(few)}" if few else "",
        f"- Of 200 and more: {summary(enough)}" if enough else "",
        f"- Data sets that set no rule (†): {summary(unseen)}" if unseen else "",
    ]
    columns = (
        "model", "data", "samples", "test", "best head", "everything, late", "… early",
        "random start", "best", "advised", "regret", "halves", "CPU s: plan, search",
    )  # fmt: skip
    lines = [BEGIN, head, "", *filter(None, parts), ""]
    lines += [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in rows:
        accuracy, depth = row["accuracy"], row["depth"]
        heads = {name: value for name, value in accuracy.items() if name.startswith("head:")}
        best = max(heads, key=lambda name: heads[name])
        late = [accuracy[name] for name in ("similar", "different") if name in accuracy]
        cells = [
            f"`{row['model']}`",
            TITLES[row["data"]] + (" †" if row["data"] in UNSEEN else ""),
            f"{row['samples']:,}",
            f"{row['test']:,}",
            f"{percent(heads[best])} @{depth[best]:.2f}",
            percent(max(late)) if late else "–",
            percent(accuracy["early"]) if "early" in accuracy else "–",
            percent(accuracy["random"]) if "random" in accuracy else "–",
            told(row, row["best"]),
            " ".join(
                (
                    percent(accuracy["auto"]),
                    row["case"],
                    f"@{depth['auto']:.2f},",
                    row["delivered"]["auto"],
                )
            ),
            f"{100 * row['regret']:.1f} ± {100 * row['error']:.1f}",
            f"{100 * row['honest']:.1f}".replace("-", "−"),
            f"{row['plan_cpu']:.0f}, {row['search_cpu']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, END]) + "\n"


def summary(rows: list[dict]) -> str:
    """Say how large the regrets are."""
    regrets = np.array([row["regret"] for row in rows])
    ours = np.array([row["honest"] for row in rows])
    worst = rows[int(regrets.argmax())]
    return (
        f"**Regret: median {100 * np.median(regrets):.1f} points, worst {100 * regrets.max():.1f} "
        f"± {100 * worst['error']:.1f}** ({int((regrets > 0.03).sum())} of {len(rows)} above 3); "
        f"best chosen on the other half of the test samples: median {100 * np.median(ours):.1f}, "
        f"worst {100 * ours.max():.1f}."
    ).replace("-", "−")


def told(row: dict, name: str) -> str:
    """Return what a candidate is called in the table."""
    if name.startswith("head:"):
        return f"head @{row['depth'][name]:.2f}"
    names = {"auto": "advised", "random": "random start", "early": "everything, early"}
    return names.get(name, "everything, late")


def percent(value: float) -> str:
    """Return a fraction in percent."""
    return f"{100 * value:.1f}"


def write_section(text: str) -> None:
    """Put the table into the page, in place of the one there is."""
    page = PAGE.read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(before + text + rest.partition(END + "\n")[2], "utf-8")


# ── what it costs ────────────────────────────────────────────────────────────────────────────────


def cost() -> None:
    """Print the pass against a plain pass, alternating, and the probes' time on 2,000 samples."""
    import surgeon
    from surgeon.data.read import open_data
    from surgeon.graph.taps import add_taps, choose_cuts
    from surgeon.intake import find_preprocess
    from surgeon.probe import evidence
    from surgeon.runtime.stream import Runner
    from surgeon_models import datasets, get

    photos = datasets.emoji()
    print("pass ÷ plain pass: CPU time over the same 60 pictures, median of 5 alternating rounds")
    for name in ("mobilenetv2", "efficientnet-lite0", "opennsfw", "efficientnet-lite0-int8"):
        model = surgeon.load(get(name))
        anatomy = model.anatomy()
        taps = add_taps(anatomy, choose_cuts(anatomy))
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "photos"
            datasets.write_folder(photos.images[:60], photos.labels[:60], place)
            samples = open_data(str(place), model.inputs, preprocess=find_preprocess(model))
            plain = Runner(model.proto, samples, device="cpu", threads=1)
            tapped = Runner(taps.model, samples, device="cpu", threads=1)
            ratios = []
            for _ in range(6):
                spent = []
                for runner in (plain, tapped):
                    begun = time.process_time()
                    for _chunk in runner.stream(np.arange(60)):
                        pass
                    spent.append(time.process_time() - begun)
                ratios.append(spent[1] / spent[0])
        told = f"{np.median(ratios[1:]):.2f} ({min(ratios[1:]):.2f} – {max(ratios[1:]):.2f})"
        print(f"  {name:<26} {told}, {len(taps.cuts)} cuts", flush=True)
    print("probes at 8 cuts, 2,000 samples of 10 classes, CPU s and s (one thread)")
    random = np.random.default_rng(0)
    codes = np.arange(2000) % 10
    sought = evidence.Sought.classes(codes)
    for _ in range(3):
        values = [
            random.standard_normal((2000, d)) + random.standard_normal((10, d))[codes]
            for d in (16, 24, 40, 96, 192, 320, 960, 1280)
        ]
        begun, wall = time.process_time(), time.perf_counter()
        projected = [evidence.project(each, 0) for each in values]
        for each in projected:
            evidence.probe(each, sought, None, each.shape[1])
        evidence.learning_curve(projected[-1], sought, 0)
        print(f"  {time.process_time() - begun:.1f}, {time.perf_counter() - wall:.1f}", flush=True)


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="?", default="")
    parser.add_argument("--cells", type=Path, metavar="FOLDER", help="run cells, keep them here")
    parser.add_argument("--cell", help="run this one alone, in this process")
    parser.add_argument("--collect", type=Path, metavar="FOLDER", help="cells to results")
    parser.add_argument("--write", action="store_true", help="results to the page")
    parser.add_argument("--cost", action="store_true", help="time the pass and the probes")
    arguments = parser.parse_args()
    if arguments.cell:
        name, _, kind = arguments.cell.rpartition(".")
        run_cell(next(pair for pair in PAIRS if pair.name == name), kind, arguments.cells)
    elif arguments.cells:
        run_cells(arguments.cells, arguments.pattern)
    if arguments.collect:
        RESULTS.write_text(json.dumps(collect(arguments.collect), indent=1) + "\n", "utf-8")
    if arguments.write:
        write_section(section(json.loads(RESULTS.read_text("utf-8"))))
    if arguments.cost:
        cost()


if __name__ == "__main__":
    main()
