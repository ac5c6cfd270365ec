"""Findings about the data: each fault on data made for it, and planted in real pictures (slow)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import jsonschema
import networks as nw
import numpy as np
import onnx
import pytest
from PIL import Image

import surgeon
from surgeon import schemas
from surgeon.cli import main
from surgeon.data.examine import class_findings, connect, copies, read_rest
from surgeon.data.read import open_data
from surgeon.errors import DataError
from surgeon.probe.findings import doubt_labels, near_copies
from surgeon.tasks.metrics import softmax


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))


def picture(random, code, size=24):
    """A picture of large random patches, tinted by its class."""
    small = random.integers(0, 160, (6, 6, 3))
    small[..., code] += 80
    image = Image.fromarray(small.astype(np.uint8))
    return image.resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path, own_cache):
    """60 pictures in 3 classes: (folder, their paths)."""
    random = np.random.default_rng(0)
    paths = []
    for number in range(60):
        path = tmp_path / "photos" / f"c{number % 3}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(random, number % 3).save(path)
        paths.append(path)
    return tmp_path / "photos", paths


def network():
    return nw.convnet(side=24)


def found_in(folder, **options):
    found = surgeon.advise(network(), folder, preprocess="zero-one", **options)
    kinds = {}
    for finding in found.findings:
        kinds.setdefault(finding.kind, []).append(finding)
    return kinds, found


# ── classes ──────────────────────────────────────────────────────────────────────────────────────


def test_classes_are_counted():
    (found,) = class_findings(np.arange(60) % 3, ["a", "b", "c"])
    assert (found.level, found.kind) == ("note", "classes")
    assert found.message == "60 samples in 3 classes: a 20, b 20, c 20"


def test_uneven_and_rare_classes_are_warnings():
    codes = np.array([0] * 90 + [1] * 30 + [2] * 5)
    found = class_findings(codes, ["a", "b", "c"])
    assert [item.kind for item in found] == ["classes", "imbalance", "rare-class"]
    assert "'a' has 90 samples, 'c' 5" in found[1].message
    assert "72.0%" in found[1].message
    assert found[2].message.startswith("1 of 3 classes")
    assert "'c'" in found[2].message


# ── copies ───────────────────────────────────────────────────────────────────────────────────────


def test_sets_of_copies_are_symmetrical():
    assert connect([(3, 1), (1, 7), (4, 5)]) == connect([(1, 3), (7, 1), (5, 4)])
    assert connect([(3, 1), (1, 7), (4, 5)]) == [(1, 3, 7), (4, 5)]
    assert connect([]) == []


def test_exact_copies_are_found_in_files_and_in_arrays(photos):
    folder, paths = photos
    (folder / "c1" / "again.png").write_bytes(paths[0].read_bytes())
    model = surgeon.load(network())
    samples = open_data(folder, model.inputs, preprocess=preprocess(model))
    ((first, second),) = copies(samples)
    assert {Path(samples.names[i]).name for i in (first, second)} == {"00.png", "again.png"}
    data = nw.feeds(nw.mlp(), batch=12, seed=1)
    data["x"][7] = data["x"][2]
    data["x"][9] = data["x"][2]
    arrays = open_data(data | {"labels": np.arange(12) % 2}, surgeon.load(nw.mlp()).inputs)
    assert copies(arrays) == [(2, 7, 9)]


def preprocess(model):
    from surgeon.graph.preprocess import parse_preprocess

    return parse_preprocess("zero-one", model.inputs[0])


def test_near_copies_need_both_neighbourhood_and_content():
    random = np.random.default_rng(0)
    features, content = random.normal(size=(200, 32)), random.normal(size=(200, 100))
    features[50] = features[10] + 0.01 * random.normal(size=32)
    content[50] = content[10] + 0.01 * random.normal(size=100)
    features[60] = features[20] + 0.01 * random.normal(size=32)  # alike to the network alone
    assert near_copies(features, content) == [(10, 50)]
    assert near_copies(features) == [(10, 50), (20, 60)]
    assert near_copies(features[:2]) == []


def test_the_bound_adapts_to_what_random_samples_are_like():
    random = np.random.default_rng(0)
    common = random.normal(size=100)
    content = common + 0.05 * random.normal(size=(300, 100))  # all of them nearly the same
    features = random.normal(size=(300, 32))
    assert near_copies(features, content) == []
    content[7], features[7] = content[3], features[3]
    assert near_copies(features, content) == [(3, 7)]


def test_values_of_few_dimensions_are_near_by_chance_and_tell_nothing():
    random = np.random.default_rng(0)
    few = random.normal(size=(300, 3)) @ random.normal(size=(3, 32))
    few[7] = few[3]
    assert near_copies(few) == []
    many = random.normal(size=(300, 32))
    many[7] = many[3]
    assert near_copies(many) == [(3, 7)]


def test_samples_of_nothing_are_near_nothing():
    features = np.zeros((20, 16))
    assert near_copies(features, np.zeros((20, 64))) == []


def test_copies_written_anew_are_found_across_the_datas_own_parts(tmp_path, own_cache):
    random = np.random.default_rng(0)
    folder = tmp_path / "data"
    images = [picture(random, number % 3) for number in range(60)]
    for number, image in enumerate(images):
        path = (
            folder / ("test" if number < 15 else "train") / f"c{number % 3}" / f"{number:02d}.png"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    images[30].save(folder / "test" / "c0" / "anew.jpg", quality=85)
    (folder / "test" / "c1" / "same.png").write_bytes(
        (folder / "train" / "c1" / "31.png").read_bytes()
    )
    kinds, found = found_in(folder)
    near, exact = kinds["near-duplicates"][0], kinds["duplicates"][0]
    assert [{Path(name).name for name in group} for group in near.groups] == [
        {"30.png", "anew.jpg"}
    ]
    assert [{Path(n).name for n in group} for group in exact.groups] == [{"31.png", "same.png"}]
    leaks = kinds["leak"]
    assert len(leaks) == 2
    assert all("the data's own parts" in leak.message for leak in leaks)
    assert {detail["part"] for leak in leaks for detail in leak.details} >= {"test"}
    assert found.looked_at == 33  # what is advised is decided by training samples alone


def test_the_seed_tears_no_set_of_copies(photos):
    folder, paths = photos
    for number, path in enumerate(paths[:20]):
        path.with_name(f"again{number}.png").write_bytes(path.read_bytes())
    kinds, _ = found_in(folder)
    assert len(kinds["duplicates"][0].groups) == 20
    assert "leak" not in kinds


def test_validation_of_its_own_is_compared_too(tmp_path, photos):
    folder, paths = photos
    other = tmp_path / "validation"
    for path in paths[:12]:
        (other / path.parent.name).mkdir(parents=True, exist_ok=True)
        (other / path.parent.name / f"v{path.name}").write_bytes(path.read_bytes())
    kinds, _ = found_in(folder, validation=str(other))
    assert len(kinds["leak"][0].groups) == 12


def test_copies_with_different_labels_are_a_conflict(photos):
    folder, paths = photos
    (folder / "c2" / "again.png").write_bytes(paths[0].read_bytes())
    kinds, _ = found_in(folder)
    (conflict,) = kinds["conflict"]
    assert {detail["label"] for detail in conflict.details} == {"c0", "c2"}


def test_clean_data_has_no_warning(photos):
    kinds, found = found_in(photos[0])
    assert set(kinds) == {"classes"}
    assert found.document()["findings"][0]["level"] == "note"


# ── labels ───────────────────────────────────────────────────────────────────────────────────────


def scores(n=1000, classes=5, seed=0):
    """Scores of a classifier that is right as often as it says, and labels drawn from them."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(n, classes))
    shares = softmax(4 * values)
    codes = np.array([random.choice(classes, p=share) for share in shares])
    return values, codes, random


def test_labels_drawn_from_the_beliefs_themselves_are_not_doubted():
    values, codes, _ = scores()
    doubts = doubt_labels(values, codes)
    assert doubts.rate == 0
    assert not doubts.wrong.any()


def test_replaced_labels_are_doubted_and_the_rate_is_estimated():
    values, codes, random = scores()
    values = 3 * values  # a better classifier
    codes = values.argmax(axis=1)
    wrong = np.zeros(len(codes), bool)
    wrong[random.permutation(len(codes))[:50]] = True
    given = np.where(wrong, (codes + random.integers(1, 5, len(codes))) % 5, codes)
    doubts = doubt_labels(values, given)
    flagged = doubts.wrong > 0.5
    assert (flagged & wrong).sum() / wrong.sum() > 0.8
    assert (flagged & wrong).sum() / flagged.sum() > 0.7
    assert doubts.rate == pytest.approx(0.05, abs=0.015)
    assert (doubts.suggested[flagged & wrong] == codes[flagged & wrong]).mean() > 0.9


def test_two_classes_and_few_samples_do_not_break_it():
    assert doubt_labels(np.zeros((4, 2)), np.array([0, 1, 0, 1])).rate == 0


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def break_(paths):
    whole = paths[0].read_bytes()
    broken = [path.with_name(f"broken{n}.png") for n, path in enumerate(paths[1:4])]
    for path, content in zip(broken, (whole[: len(whole) // 2], b"", b"text"), strict=True):
        path.write_bytes(content)
    return {str(path) for path in broken}


def test_broken_files_are_named_with_their_reasons(photos):
    folder, paths = photos
    broken = break_(paths)
    kinds, _ = found_in(folder)
    (finding,) = kinds["unreadable"]
    assert set(finding.samples) == broken
    assert all(detail["reason"] for detail in finding.details)


def test_samples_outside_the_pass_are_opened_as_far_as_asked(photos):
    folder, paths = photos
    broken = break_(paths)
    model = surgeon.load(network())
    samples = open_data(folder, model.inputs, preprocess=preprocess(model))
    assert read_rest(samples, np.arange(0), most=5) == samples.n - 5
    assert read_rest(samples, np.arange(0)) == 0
    assert {name for name, _ in samples.skipped} == broken


def test_too_many_broken_files_are_an_error(photos):
    folder, paths = photos
    for path in paths[:10]:
        path.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        found_in(folder)


# ── where they are shown ─────────────────────────────────────────────────────────────────────────


def test_the_command_names_the_samples(tmp_path, photos, capsys):
    folder, paths = photos
    broken = break_(paths)
    (folder / "c2" / "again.png").write_bytes(paths[0].read_bytes())
    file = tmp_path / "net.onnx"
    onnx.save(network(), file)
    command = ["advise", str(file), str(folder), "--preprocess", "zero-one", "-q"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in broken)
    assert f"{paths[0]} = {folder / 'c2' / 'again.png'}" in shown
    assert "conflict" in shown
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(schemas.load("advise")).validate(document)
    named = {name for finding in document["findings"] for name in finding["samples"]}
    assert broken | {str(paths[0]), str(folder / "c2" / "again.png")} <= named


def test_finetune_warns_of_what_costs_nothing_to_find(photos):
    folder, paths = photos
    for number, path in enumerate(paths[:20]):
        path.with_name(f"again{number}.png").write_bytes(path.read_bytes())
    for path in paths[20:]:
        if path.parent.name == "c2":
            path.unlink()
    (folder / "c2" / "other.png").write_bytes(paths[1].read_bytes())
    outcome = surgeon.finetune(
        network(), folder, case="small-similar", preprocess="zero-one", dry_run=True
    )
    told = "\n".join(outcome.document()["warnings"])
    for word in ("exact copies", "different labels"):
        assert word in told


def test_auto_warns_of_the_rest_too(photos):
    folder, paths = photos
    Image.open(paths[0]).save(folder / "c0" / "anew.jpg", quality=85)
    outcome = surgeon.finetune(network(), folder, case="auto", preprocess="zero-one", dry_run=True)
    assert any("near copies" in line for line in outcome.document()["warnings"])


def test_near_copies_do_not_judge_what_was_trained_on_them(photos):
    folder, paths = photos
    for number, path in enumerate(paths[:12]):
        Image.open(path).save(path.with_name(f"anew{number}.jpg"), quality=95)
    found, _ = found_in(folder)
    assert len(found["near-duplicates"][0].groups) > 6
    assert "leak" not in found
    data = surgeon.finetune(
        network(), folder, case="auto", preprocess="zero-one", dry_run=True
    ).document()["data"]
    assert data["train"] + data["validation"] == 72
    assert data["validation"] < 14  # a fifth, less those that were seen in training


# ── planted in real pictures ─────────────────────────────────────────────────────────────────────


def benchmark():
    path = Path(__file__).parents[1] / "benchmarks" / "findings.py"
    spec = importlib.util.spec_from_file_location("findings_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_wrong_labels_planted_in_real_pictures_are_found():
    row = benchmark().labels("digits", samples=1000)
    print(row)
    assert row["planted"]["recall"] >= 0.8
    assert row["planted"]["precision"] >= 0.7
    assert row["untouched"]["flagged"] <= 10


@pytest.mark.slow
def test_copies_across_the_split_of_real_pictures_are_found():
    row = benchmark().copies("mnist5k", samples=600)
    print(row)
    assert row["found"] == row["planted"] == 20
    assert row["others_across"] <= 2


@pytest.mark.slow
def test_broken_files_among_real_pictures_are_named():
    row = benchmark().broken("emoji", samples=200)
    print(row)
    assert (row["found"], row["false_named"]) == (3, 0)
    assert all(row["reasons"])
