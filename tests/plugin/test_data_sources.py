"""Data of a plugin: a URI it knows becomes arrays; paths and other words stay what they were."""

import logging

import networks as nw
import numpy as np
import pytest

import surgeon
from surgeon import intake
from surgeon.errors import DataError, PluginError
from surgeon.ops.registry import load_plugin
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


@pytest.mark.parametrize(
    "given",
    ["1 / 0", "3", "[1, 2]", "{'x': 'text'}", "{'x': [1, 2]}", "sys.exit(1)", "object()"],
)
def test_data_that_a_plugin_cannot_open_are_one_error_that_names_it(install, given):
    install("their-data", "lab", f"import sys\ndef surgeon_open_data(uri):\n    return {given}")
    with pytest.raises(PluginError) as caught:
        surgeon.finetune(nw.mlp(), "lab:first", case="small-similar")
    assert "their-data 1.0" in str(caught.value)
    assert "lab:first" in str(caught.value)


def test_a_plugin_may_return_a_path_instead_and_say_itself_what_is_wrong(install, tmp_path):
    np.savez(tmp_path / "data.npz", **Lab().surgeon_open_data("lab:first"))
    content = f"""
from surgeon.errors import DataError
def surgeon_open_data(uri):
    if uri == "lab:other":
        raise DataError("the lab has no other data", where=uri)
    return {str(tmp_path / "data.npz")!r} if uri.startswith("lab:") else None
"""
    install("their-data", "lab", content)
    outcome = surgeon.finetune(nw.mlp(), "lab:first", case="small-similar", device="cpu")
    assert outcome.document()["data"]["samples"] == 40
    with pytest.raises(DataError, match="no other data"):
        surgeon.finetune(nw.mlp(), "lab:other", case="small-similar")


@pytest.mark.parametrize("given", ["1 / 0", "3", "{'labels': 'a'}"])
def test_a_zoo_that_is_wrong_is_a_warning_that_names_it(install, given, caplog):
    install("their-zoo", "zoo", f"def surgeon_known(sha256):\n    return {given}")
    with caplog.at_level(logging.WARNING):
        assert load_plugins().known("0" * 64, nw.mlp()) is None
    (line,) = caplog.messages
    assert "their-zoo 1.0" in line


@pytest.mark.parametrize(
    "given",
    ["yield 3", "return 3", "1 / 0", "yield 'nothing_of_that_name:x'", "yield 'fixture_ops:no'"],
)
def test_operators_that_cannot_be_declared_are_one_error_that_names_them(install, given):
    install("their-ops", "ops", f"def surgeon_ops():\n    {given}")
    with pytest.raises(PluginError) as caught:
        load_plugins().declare_operators(load_plugin)
    assert "their-ops 1.0" in str(caught.value)
