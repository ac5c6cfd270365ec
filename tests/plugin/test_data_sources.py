"""Data of a plugin: a URI it knows becomes arrays; paths and other words stay what they were."""

import networks as nw
import numpy as np

import surgeon
from surgeon import intake
from surgeon.plugin.hooks import hookimpl
from surgeon.plugin.manager import load_plugins


class Lab:
    @hookimpl
    def surgeon_open_data(self, uri):
        if not uri.startswith("lab:"):
            return None
        random = np.random.default_rng(0)
        labels = np.array(["a", "b"])[random.integers(0, 2, 40)]
        values = random.normal(size=(40, 8)) + (labels == "a")[:, None]
        return {"x": values.astype(np.float32), "labels": labels}


def test_a_uri_that_a_plugin_knows_is_trained_on_and_evaluated(tmp_path):
    plugins = load_plugins()
    plugins.manager.register(Lab())
    outcome = surgeon.finetune(
        nw.mlp(), "lab:first", case="small-similar", device="cpu", plugins=plugins
    )
    assert outcome.document()["data"]["samples"] == 40
    file = outcome.model.save(tmp_path / "tuned.onnx")
    assert surgeon.evaluate(file, "lab:first", plugins=plugins)["samples"] == 40


def test_what_no_plugin_knows_and_what_is_a_path_stay_as_given(tmp_path):
    plugins = load_plugins()
    plugins.manager.register(Lab())
    named = tmp_path / "lab:folder"
    named.mkdir()
    assert intake.opened_by_plugin(str(named), plugins) == str(named)
    assert intake.opened_by_plugin("other:thing", plugins) == "other:thing"
