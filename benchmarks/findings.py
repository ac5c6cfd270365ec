"""Are planted faults found? Wrong labels, copies across a split, broken files, in real pictures.

    python benchmarks/findings.py                      # everything: minutes on an idle core
    python benchmarks/findings.py labels --data digits
    python benchmarks/findings.py --write              # results → the tables in docs/advice.md

Each time `surgeon.advise` looks at a folder of pictures with MobileNetV2 (ImageNet); what it names
is compared with what was planted.

labels    5 % of the labels are replaced by another class at random; and none, to see what is said
          of labels that nobody touched (their own errors are not known, so those are no false
          alarms, but cannot be many)
copies    20 training pictures are put into the validation folder too: 5 as they are, the others
          written anew as JPEG of quality 90, 75 and 50, at another size, and a little darker
broken    3 files: cut off in the middle, of no bytes, and a text that is called .png
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

MODEL = "mobilenetv2"
DATA = ("digits", "mnist5k", "fashion-mnist", "emoji")
SAMPLES, FLIPPED, COPIES = 1900, 0.05, 20
RESULTS = Path(__file__).parent / "results" / "findings.json"
PAGE = Path(__file__).parent.parent / "docs" / "advice.md"
BEGIN, END = "<!-- findings: begin -->", "<!-- findings: end -->"
KINDS = ("as it is", "JPEG 90", "JPEG 75", "JPEG 50", "resized", "darker")


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help="labels, copies, broken; none = all")
    parser.add_argument("--data", action="append", help="one of " + ", ".join(DATA))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write the tables into the page")
    arguments = parser.parse_args()
    if arguments.write:
        write(json.loads(RESULTS.read_text("utf-8")))
        return
    result = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
    for what in arguments.what or ("labels", "copies", "broken"):
        for data in arguments.data or DATA:
            row = {"labels": labels, "copies": copies, "broken": broken}[what](
                data, threads=arguments.threads
            )
            print(
                what, data, json.dumps({k: v for k, v in row.items() if k != "false"}), flush=True
            )
            result |= {
                "date": datetime.now(UTC).date().isoformat(),
                "load": round(os.getloadavg()[0], 2),
                "versions": {n: version(n) for n in ("onnx-surgeon", "onnxruntime-gpu")},
                "model": MODEL,
            }
            result.setdefault(what, {})[data] = row
            RESULTS.write_text(json.dumps(result, indent=2) + "\n", "utf-8")


def pictures(name: str, samples: int = SAMPLES) -> tuple[np.ndarray, list[str]]:
    """Return pictures [n, ...] uint8 and their labels, a random part where there are more."""
    from surgeon_models import datasets

    found = datasets.load(name)
    chosen = np.sort(np.random.default_rng(0).permutation(len(found.images))[:samples])
    names = [found.classes[int(label)].replace("/", "-") for label in found.labels[chosen]]
    return found.images[chosen], names


def place(folder: Path, images: np.ndarray, names: list[str]) -> list[Path]:
    """Write each picture into the folder of its label; its file's number is its place."""
    paths = []
    for number, (image, label) in enumerate(zip(images, names, strict=True)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        paths.append(folder / label / f"{number:05d}.png")
        Image.fromarray(image).save(paths[-1], compress_level=1)
    return paths


def look(folder: Path, threads: int) -> dict[str, list]:
    """Return what `advise` finds, by kind."""
    import surgeon
    import surgeon_models

    found = surgeon.advise(surgeon_models.get(MODEL), folder, device="cpu", threads=threads)
    kinds: dict[str, list] = {}
    for finding in found.findings:
        kinds.setdefault(finding.kind, []).append(finding)
    kinds["seconds"] = [found.seconds["findings"]]
    kinds["accuracy"] = [max(item.accuracy for item in found.candidates)]
    return kinds


def labels(name: str, *, samples: int = SAMPLES, seed: int = 0, threads: int = 1) -> dict:
    """Replace 5 % of the labels: recall and precision among the samples that were looked at."""
    images, names = pictures(name, samples)
    random = np.random.default_rng(seed)
    wrong = set(random.permutation(len(names))[: round(FLIPPED * len(names))].tolist())
    classes = sorted(set(names))
    planted = [
        random.choice([c for c in classes if c != label]) if at in wrong else label
        for at, label in enumerate(names)
    ]
    result = {}
    for case, given in (("planted", planted), ("untouched", names)):
        with tempfile.TemporaryDirectory() as folder:
            place(Path(folder), images, given)
            found = look(Path(folder), threads)
            seen = looked_at(Path(folder))
        flagged = {int(Path(s).stem) for f in found.get("label", []) for s in f.samples}
        result[case] = {
            "looked_at": len(seen),
            "flagged": len(flagged),
            "accuracy": round(found["accuracy"][0], 4),
            "seconds": round(found["seconds"][0], 2),
        }
        if case == "planted":
            there = wrong & seen
            suggested = {
                int(Path(s).stem): d["suggested"]
                for f in found.get("label", [])
                for s, d in zip(f.samples, f.details, strict=True)
            }
            right = sum(suggested[at] == names[at] for at in there & flagged)
            result[case] |= {
                "wrong": len(there),
                "recall": round(len(there & flagged) / len(there), 3),
                "precision": round(len(there & flagged) / max(len(flagged), 1), 3),
                "suggestion_right": round(right / max(len(there & flagged), 1), 3),
            }
    return result


def looked_at(folder: Path) -> set[int]:
    """Return the numbers of the pictures in the parts that advice may look at."""
    import surgeon
    import surgeon_models
    from surgeon.intake import divide, find_preprocess, open_samples
    from surgeon.options import Reading
    from surgeon.targets import ask_for

    model = surgeon.load(surgeon_models.get(MODEL))
    samples = open_samples(folder, model, find_preprocess(model), Reading(), {}, 0.2)
    parts = divide(samples, ask_for("classification", samples, None), 0.2, 0)
    return {int(Path(str(samples.names[int(row)])).stem) for row in parts.train}


def copies(name: str, *, samples: int = SAMPLES, seed: int = 0, threads: int = 1) -> dict:
    """Put 20 training pictures into validation too."""
    images, names = pictures(name, samples)
    random = np.random.default_rng(seed)
    held = np.zeros(len(names), bool)
    held[random.permutation(len(names))[: len(names) // 5]] = True
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "data"
        paths = []
        for number, (image, label) in enumerate(zip(images, names, strict=True)):
            path = (
                folder / ("validation" if held[number] else "train") / label / f"{number:05d}.png"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, compress_level=1)
            paths.append(path)
        chosen = random.permutation(np.flatnonzero(~held))[:COPIES]
        kinds = ["as it is"] * 5 + [KINDS[1 + at % 5] for at in range(COPIES - 5)]
        planted = {
            frozenset(
                (str(paths[at]), str(copy(paths[at], folder / "validation" / names[at], kind)))
            ): kind
            for at, kind in zip(chosen, kinds, strict=True)
        }
        found = look(folder, threads)
    sets = [frozenset(group) for f in found.get("leak", []) for group in f.groups]
    hit = {pair: any(pair <= group for group in sets) for pair in planted}
    missed = [kind for pair, kind in planted.items() if not hit[pair]]
    false = [sorted(g) for g in sets if not any(pair <= g for pair in planted)]
    return {
        "planted": len(planted),
        "found": sum(hit.values()),
        "missed": missed,
        "others_across": len(false),
        "others_within": sum(
            len(f.groups) for f in found.get("near-duplicates", []) + found.get("duplicates", [])
        ) - len(sets),
        "pictures": len(names),
        "false": false,
    }  # fmt: skip


def copy(source: Path, folder: Path, kind: str) -> Path:
    """Write a picture again, in another form."""
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.open(source).convert("RGB")
    target = folder / f"copy-of-{source.stem}.{'jpg' if 'JPEG' in kind else 'png'}"
    if kind == "as it is":
        shutil.copy(source, target)
    elif kind.startswith("JPEG"):
        image.save(target, quality=int(kind.split()[1]))
    elif kind == "resized":
        side = round(image.width * 1.5)
        image.resize((side, side), Image.Resampling.BICUBIC).save(target)
    else:
        Image.fromarray((np.asarray(image) * 0.92).astype(np.uint8)).save(target)
    return target


def broken(name: str, *, samples: int = 400, threads: int = 1) -> dict:
    """Put three files in that cannot be read."""
    images, names = pictures(name, samples)
    with tempfile.TemporaryDirectory() as folder:
        paths = place(Path(folder), images, names)
        whole = paths[0].read_bytes()
        planted = {p.with_name(f"broken{n}.png") for n, p in enumerate(paths[10:13])}
        for path, content in zip(
            sorted(planted), (whole[: len(whole) // 2], b"", b"no picture\n"), strict=True
        ):
            path.write_bytes(content)
        found = look(Path(folder), threads)
    named = {Path(s) for f in found.get("unreadable", []) for s in f.samples}
    reasons = [d["reason"] for f in found.get("unreadable", []) for d in f.details]
    return {
        "planted": len(planted),
        "found": len(planted & named),
        "false_named": len(named - planted),
        "reasons": reasons,
    }


def write(result: dict) -> None:
    """Put the tables between the marks of the page."""
    lines = [
        "| labels | looked at | accuracy | recall | precision | suggestion right | of untouched |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in result["labels"].items():
        planted, untouched = row["planted"], row["untouched"]
        lines.append(
            f"| {name} | {planted['looked_at']:,} | {planted['accuracy']:.3f} | "
            f"{planted['recall']:.2f} | {planted['precision']:.2f} | "
            f"{planted['suggestion_right']:.0%} | {untouched['flagged']} |"
        )
    lines += [
        "",
        "| copies | pictures | found | missed | other sets across the split |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['pictures']:,} | {row['found']} of {row['planted']} | "
        f"{', '.join(row['missed']) or '–'} | {row['others_across']} |"
        for name, row in result["copies"].items()
    ]
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + "\n".join([BEGIN, *lines, END]) + after, "utf-8")


if __name__ == "__main__":
    main()
