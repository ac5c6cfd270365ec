"""Every form that `export` writes proves itself under other settings, and names changes."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
from networks import convnet
from PIL import Image

import surgeon
from surgeon.graph import envelope
from surgeon.graph.precision import BOUNDS, precision_of
from surgeon.runtime import verifying

FORMS = {
    "probabilities": {"probabilities": True},
    "half": {"fp16": True},
    "half-probabilities": {"fp16": True, "probabilities": True},
    "opset": {"opset": 18},
    "batch": {"batch": 3},
    "embedded": {"embed_preprocess": True},
    "optimised": {"optimize": "basic"},
    "apart": {"external_data": True},
    "int8": {"int8": "DATA"},
}
PRECISION = {"half": "float16", "half-probabilities": "float16", "int8": "int8"}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Pictures of three colours, and a file tuned on them."""
    root = tmp_path_factory.mktemp("forms")
    random = np.random.default_rng(0)
    for label, colour in {
        "blue": (30, 40, 220),
        "green": (30, 200, 40),
        "red": (220, 30, 30),
    }.items():
        (root / "photos" / label).mkdir(parents=True)
        for number in range(12):
            pixels = np.clip(np.asarray(colour) + random.normal(0, 12, (12, 12, 3)), 0, 255)
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(root / "photos" / label / f"{number:02}.png")
    options = {"case": "small-similar", "preprocess": "zero-one", "device": "cpu"}
    surgeon.finetune(convnet(), root / "photos", out=root / "tuned.onnx", **options)
    return root


@pytest.fixture(scope="module")
def exported(tuned):
    @functools.cache
    def make(form):
        out = tuned / f"{form}.onnx"
        options = {
            key: str(tuned / "photos") if value == "DATA" else value
            for key, value in FORMS[form].items()
        }
        surgeon.export(tuned / "tuned.onnx", out, **options)
        return out

    return make


def red(source):
    verdict = surgeon.verify(source)
    return {one.name: one.detail or "" for one in verdict.checks if not one.passed}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_proves_itself_whatever_the_settings(exported, form, monkeypatch):
    path = exported(form)
    for threads in (1, 2):
        verdict = surgeon.verify(path, threads=threads, device="cpu")
        assert verdict.passed, [one for one in verdict.checks if not one.passed]
    golden = next(one for one in verdict.checks if one.name == "golden")
    model = onnx.load(path)
    assert precision_of(model) == PRECISION.get(form, "float32")
    assert golden.bound <= BOUNDS[precision_of(model)]  # and may be more where kernels differ
    plain = functools.partial(verifying.open_session, optimised=False)
    monkeypatch.setattr(verifying, "open_session", plain)  # nodes as they stand, none fused
    assert surgeon.verify(path, device="cpu").passed


def edited(model, key, change):
    document = envelope.get(model, key)
    change(document)
    envelope.put(model, key, document)


def weight(model):
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    content = bytearray(tensor.raw_data)
    content[-1] ^= 1
    tensor.raw_data = bytes(content)
    return {"frozen", "tuned"}, tensor.name


def label(model):
    edited(model, envelope.LABELS, lambda found: found.reverse())
    return {"labels"}, "label 0 ('red')"


def plan(model):
    edited(model, envelope.PLAN, lambda found: found.update(cut="another"))
    return {"plan"}, "changed: 'cut'"


def rule(model):
    edited(model, envelope.PREPROCESS, lambda found: found.update(channels="BGR"))
    return {"preprocess"}, "changed: 'channels'"


def threshold(model):
    envelope.put(model, envelope.DECODING, {"thresholds": {"red": 0.4}})
    return {"decoding"}, "'thresholds.red'"


def origin(model):
    edited(model, envelope.PROOF, lambda found: found["exported"].update(from_sha256="0" * 64))
    return {"proof"}, "changed: 'exported'"


@pytest.mark.parametrize("form", FORMS)
def test_what_was_changed_in_a_form_is_named(exported, form):
    for change in (weight, label, plan, rule, threshold, origin):
        model = onnx.load(exported(form))
        checks, name = change(model)
        found = red(model)
        assert set(found) & checks, (change, found)
        assert any(name in found[check] for check in set(found) & checks), (change, found)
