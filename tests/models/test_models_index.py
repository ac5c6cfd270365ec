"""The index of models and data: complete, typed, and reachable by name and hash."""

import re
import subprocess
import sys

import pytest

import surgeon_models
from surgeon.errors import UnknownNameError
from surgeon_models import datasets
from surgeon_models.index import load

HASH = re.compile(r"[0-9a-f]{64}")
LICENCES = {"Apache-2.0", "MIT", "BSD-3-Clause", "Apache-2.0 AND MIT"}
PREPROCESS = {"layout", "channels", "size", "resize", "mean", "std", "scale"}


@pytest.mark.parametrize("name", surgeon_models.names())
def test_entry_is_complete(name):
    entry = surgeon_models.entry(name)
    assert entry.name == name
    assert entry.licence in LICENCES
    assert entry.task in {"classification", "features"}
    assert entry.summary
    assert entry.package
    assert entry.version
    assert entry.file
    assert HASH.fullmatch(entry.sha256)
    built = entry.recipe != "file"
    assert bool(HASH.fullmatch(entry.weights_sha256)) == built
    assert bool(HASH.fullmatch(entry.structure_sha256)) == built


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
        assert name.startswith("light-")
        assert "no preprocessing" in entry.notes
        return
    assert set(entry.preprocess) == PREPROCESS
    assert entry.preprocess["layout"] in {"NCHW", "NHWC"}
    assert entry.preprocess["channels"] in {"RGB", "BGR"}
    assert len(entry.preprocess["mean"]) == len(entry.preprocess["std"]) == 3


def test_the_promised_models_are_there():
    light = "bvlc-alexnet densenet121 inception-v1 inception-v2 resnet50 shufflenet squeezenet"
    promised = {f"light-{name}" for name in [*light.split(), "vgg19", "zfnet512"]}
    promised |= {f"efficientnet-lite0{variant}" for variant in ("", "-op8", "-op23")}
    promised |= {f"mobilenetv2{variant}" for variant in ("", "-bn", "-fp16", "-ext")}
    assert promised | {"opennsfw"} <= set(surgeon_models.names())


def test_data_is_complete():
    for name, entry in load().data.items():
        assert name in datasets.names()
        assert entry.licence in LICENCES
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


def test_pinned_hash_finds_its_entry(tmp_path, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path))
    for name in surgeon_models.names():
        found = surgeon_models.find_by_sha256(surgeon_models.entry(name).sha256)
        assert found is surgeon_models.entry(name)
    assert surgeon_models.find_by_sha256("0" * 64) is None


def test_import_and_listing_need_nothing_heavy():
    code = (
        "import sys, surgeon_models; surgeon_models.names();"
        "heavy = {'onnx', 'torch', 'numpy', 'onnxruntime', 'PIL', 'platformdirs'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
