"""Does the preprocessing detective find what the index knows? Every image model that has one.

    python benchmarks/detective.py                    # all of them: 20 minutes on one busy core
    python benchmarks/detective.py opennsfw           # some of them, by name
    python benchmarks/detective.py --write            # results → the table in docs/advice.md

Data: Google's emoji in 9 groups, on white, 64×64: no photographs, which every one of these models
was trained on, and no task of theirs. The model's file is taken without its metadata and without
the index; 256 pictures, at sizes chosen here where the graph leaves them open (`SIZES`).

right     the true preprocessing (or one with the same numbers) is ranked first
tied      it is not, but as accurate or more, within a standard error of the paired difference
wrong     neither

Results of models that are not run now are kept in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "detective.json"
PAGE = Path(__file__).parent.parent / "docs" / "advice.md"
BEGIN, END = "<!-- detective: begin -->", "<!-- detective: end -->"
SIZES = {"ppocrv4-det": (224, 224), "ppocrv4-rec": (48, 320)}


def main() -> None:
    """Run, print, write."""
    import surgeon_models

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="names of the index; none = all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write the table into the page")
    arguments = parser.parse_args()
    if arguments.write:
        write(json.loads(RESULTS.read_text("utf-8")))
        return
    known = [n for n in surgeon_models.names() if surgeon_models.entry(n).preprocess is not None]
    result = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {"rows": {}}
    with tempfile.TemporaryDirectory() as folder:
        pictures = emoji(Path(folder) / "emoji")
        for name in arguments.models or known:
            result["rows"][name] = row = examine(name, pictures, arguments.threads)
            print(line(name, row), flush=True)
            result |= {
                "date": datetime.now(UTC).date().isoformat(),
                "load": round(os.getloadavg()[0], 2),
                "versions": {n: version(n) for n in ("onnx-surgeon", "onnxruntime-gpu")},
                "data": "emoji",
            }
            result["rows"] = {n: result["rows"][n] for n in known if n in result["rows"]}
            RESULTS.write_text(json.dumps(result, indent=2) + "\n", "utf-8")


def emoji(folder: Path) -> Path:
    from surgeon_models import datasets

    found = datasets.emoji()
    datasets.write_folder(found.images, found.labels, folder, classes=found.classes)
    return folder


def examine(name: str, pictures: Path, threads: int) -> dict:
    """Ask the detective about one model, its metadata taken away."""
    import surgeon
    import surgeon_models
    from surgeon.advice.detective import detect_preprocess
    from surgeon.data.media.pictures import image_input
    from surgeon.graph.preprocess import parse_preprocess
    from surgeon.options import Options

    model = surgeon.load(surgeon_models.get(name))
    del model.proto.metadata_props[:]
    info = image_input(model.inputs, {})
    true = parse_preprocess(surgeon_models.entry(name).preprocess, info)
    found = detect_preprocess(
        model, pictures, Options.of({"size": SIZES.get(name), "threads": threads}), device="cpu",
    )  # fmt: skip
    named = {row["name"]: row for row in found.ranking}
    right = next(candidate for candidate in named if same(candidate, true, info, SIZES.get(name)))
    first = found.ranking[0]
    mismatches = sorted(
        (row["mismatch"], row["name"]) for row in found.ranking if row["mismatch"] is not None
    )
    return {
        "true": right,
        "first": first["name"],
        "verdict": "right"
        if first["name"] == right
        else "tied"
        if named[right]["tie"]
        else "wrong",
        "place": list(named).index(right) + 1,
        "belief_first": first["belief"],
        "belief_true": named[right]["belief"],
        "accuracy_first": first["accuracy"],
        "accuracy_true": named[right]["accuracy"],
        "accuracy_error": named[right]["accuracy_error"],
        "ties": found.ties,
        "mismatch_place": next(
            (at + 1 for at, (_, n) in enumerate(mismatches) if n == right), None
        ),
        "samples": found.samples,
        "seconds": round(found.seconds, 1),
        "ranking": list(found.ranking),
    }


def same(candidate: str, true, info, size) -> bool:
    """Whether a candidate of this name gives the values that the true preprocessing gives."""
    from surgeon.advice.detective import preprocess_candidates

    how = preprocess_candidates(info, size)[candidate]
    pixels = np.arange(256.0)[:, None]

    def values(one):
        return (pixels * one.scale - np.array(one.mean)) / np.array(one.std) + np.zeros(3)

    alike = np.allclose(values(how), values(true), atol=1e-5)
    return alike and how.channels == true.channels and how.layout == true.layout


def line(name: str, row: dict) -> str:
    return (
        f"{name:<24} {row['verdict']:<6} true {row['true']:<22} first {row['first']:<22} "
        f"belief {row['belief_first']:.2f}, true's {row['belief_true']:.2f}; "
        f"accuracy {row['accuracy_first']:.3f}, true's {row['accuracy_true']:.3f}; "
        f"mismatch place {row['mismatch_place']}; {row['samples']} pictures, {row['seconds']} s"
    )


def write(result: dict) -> None:
    """Put the table between the marks of the page."""
    lines = [
        "| model | true | first | belief | accuracy of first, of true | by mismatch | pictures | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        lines.append(
            f"| {name} | {row['true']} | {row['first']} | {row['belief_first']:.0%} | "
            f"{row['accuracy_first']:.3f}, {row['accuracy_true']:.3f} ± {row['accuracy_error']:.3f}"
            f" | {row['mismatch_place'] or '–'} | {row['samples']} | {row['verdict']} |"
        )
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + "\n".join([BEGIN, *lines, END]) + after, "utf-8")


if __name__ == "__main__":
    main()
