"""The indexed models themselves: fetched or built once into the user's cache, then run."""

import math
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

import surgeon_models
from surgeon_models import packages

LITE0 = ["efficientnet-lite0", "efficientnet-lite0-op8", "efficientnet-lite0-op23"]
MOBILENET = ["mobilenetv2", "mobilenetv2-bn", "mobilenetv2-ext"]
EXPORTS = [*LITE0, *MOBILENET, "mobilenetv2-fp16"]
OPSETS = dict(zip(EXPORTS, (13, 8, 23, 11, 11, 20, 17), strict=True))
SMALL = [*EXPORTS, "opennsfw", "light-squeezenet", "light-shufflenet"]
LARGE = [name for name in surgeon_models.names() if name not in SMALL]
# Those that take something else are in test_models_samples.py.
OTHERS = {
    name
    for name in surgeon_models.names()
    if surgeon_models.entry(name).preprocess is None and not name.startswith("light-")
}
PICTURES = [
    *SMALL,
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in LARGE
        if name not in OTHERS and not name.startswith("ppocrv4")
    ),
]
SOME = [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]

pytestmark = pytest.mark.slow  # the first run downloads packages and exports models


@pytest.fixture
def unpacked(tmp_path):
    def unpack(name):
        for source in surgeon_models.entry(name).sources:
            packages.take(source, tmp_path)
        return tmp_path

    return unpack


def open_session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def find_data_input(path):
    graph = onnx.load(path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    (value,) = [value for value in graph.input if value.name not in weights]
    return value


def draw_images(path, count):
    """Blobs of colour: unlike white noise, two of them look different to a network."""
    value = find_data_input(path)
    shape = [size.dim_value or 1 for size in value.type.tensor_type.shape.dim]
    half = value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    generator = np.random.default_rng(0)
    grid = [max(1, size // 32) if size > 3 else size for size in shape]
    for _ in range(count):
        image = generator.standard_normal(grid)
        for axis, size in enumerate(shape):
            image = image.repeat(size // grid[axis], axis)
        yield {value.name: image.astype(np.float16 if half else np.float32)}


@pytest.mark.parametrize("name", PICTURES)
def test_output_is_finite_and_depends_on_the_input(name):
    path = surgeon_models.get(name)
    session = open_session(path)
    first, second = (session.run(None, feed)[0] for feed in draw_images(path, 2))
    assert np.isfinite(first).all()
    assert first.shape[0] == 1
    assert np.abs(first - second).max() > 1e-3 * np.abs(first).max()


@pytest.mark.parametrize("name", SOME)
def test_file_is_the_indexed_one_also_elsewhere(name, tmp_path, monkeypatch):
    path, entry = surgeon_models.get(name), surgeon_models.entry(name)
    assert surgeon_models.find_by_sha256(packages.sha256_of(path)) is entry
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path))  # a machine that has built nothing
    model = onnx.load(path)
    digest = packages.sha256_of(path) if entry.sha256 else ""
    assert surgeon_models.recognise(model, digest) is entry


@pytest.mark.parametrize("name", SOME)
def test_file_names_no_place_of_the_machine_that_made_it(name):
    folder = surgeon_models.get(name).parent
    places = [str(folder), ".building-", sys.prefix]
    if surgeon_models.entry(name).recipe != "file":  # other people's files name other machines
        places += ["site-packages", "/tmp/", "/home/", ".py:"]
    for path in folder.iterdir():
        data = path.read_bytes()
        assert [place for place in places if place.encode() in data] == []


@pytest.mark.parametrize("name", [*EXPORTS, "opennsfw"])
def test_batch_is_dynamic_and_samples_do_not_mix(name):
    path = surgeon_models.get(name)
    session = open_session(path)
    ((key, first),), ((_, second),) = (feed.items() for feed in draw_images(path, 2))
    both = session.run(None, {key: np.concatenate([first, second])})[0]
    alone = session.run(None, {key: second})[0]
    bound = 1e-2 if alone.dtype == np.float16 else 1e-5
    assert both.shape[0] == 2
    assert np.abs(both[1:] - alone).max() <= bound * np.abs(alone).max()


@pytest.mark.parametrize("name", EXPORTS)
def test_opset_is_the_stated_one(name):
    model = onnx.load(surgeon_models.get(name), load_external_data=False)
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": OPSETS[name]}
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


@pytest.mark.parametrize("name", EXPORTS)
def test_export_matches_torch(name, unpacked):
    torch = pytest.importorskip("torch")
    from surgeon_models import recipes

    load = recipes.load_efficientnet_lite0 if name in LITE0 else recipes.load_mobilenetv2
    module = load(unpacked(name))
    path = surgeon_models.get(name)
    (feed,) = draw_images(path, 1)
    measured = open_session(path).run(None, feed)[0].astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(feed["input"].astype(np.float32))).numpy()
    relative = np.abs(measured - expected).max() / np.abs(expected).max()
    # float16 is compared with the float32 network: its weights were rounded, 52 layers deep.
    assert relative <= (0.1 if name.endswith("fp16") else 1e-4)


@pytest.mark.parametrize("name", LITE0)
def test_efficientnet_knows_imagenet(name):
    """The photograph of the Summer Palace that scikit-learn carries is class 698, "palace"."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    entry = surgeon_models.entry(name)
    preprocess = entry.preprocess
    photograph = Image.fromarray(load_sample_image("china.jpg")).crop((106, 0, 533, 427))
    pixels = np.asarray(photograph.resize(preprocess["size"], Image.Resampling.BILINEAR))
    image = (pixels * preprocess["scale"] - preprocess["mean"]) / preprocess["std"]
    batch = image.transpose(2, 0, 1)[None].astype(np.float32)
    logits = open_session(surgeon_models.get(name)).run(None, {"input": batch})[0]
    assert logits.shape == (1, 1000)
    assert logits.argmax() == 698


def test_the_old_variant_lists_initializers_as_inputs():
    graph = onnx.load(surgeon_models.get("efficientnet-lite0-op8")).graph
    inputs = {value.name for value in graph.input}
    assert {tensor.name for tensor in graph.initializer} < inputs
    assert len(inputs) == len(graph.initializer) + 1


def test_the_bn_variant_keeps_batchnormalization():
    counts = {
        name: sum(
            node.op_type == "BatchNormalization"
            for node in onnx.load(surgeon_models.get(name)).graph.node
        )
        for name in ("mobilenetv2", "mobilenetv2-bn")
    }
    assert counts == {"mobilenetv2": 0, "mobilenetv2-bn": 52}


def test_the_ext_variant_has_its_weights_beside_it():
    path = surgeon_models.get("mobilenetv2-ext")
    graph = onnx.load(path, load_external_data=False).graph
    outside = [
        each for each in graph.initializer if each.data_location == onnx.TensorProto.EXTERNAL
    ]
    locations = {
        each.value for tensor in outside for each in tensor.external_data if each.key == "location"
    }
    assert locations == {f"{path.name}.data"}
    assert (path.parent / f"{path.name}.data").stat().st_size > 8_000_000
    assert path.stat().st_size < 100_000


def test_the_fp16_variant_is_float16_throughout():
    graph = onnx.load(surgeon_models.get("mobilenetv2-fp16")).graph
    kinds = {tensor.data_type for tensor in graph.initializer if math.prod(tensor.dims) > 1}
    kinds |= {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    assert onnx.TensorProto.FLOAT not in kinds
    assert onnx.TensorProto.FLOAT16 in kinds


@pytest.mark.parametrize("name", ["light-squeezenet", "light-shufflenet"])
def test_light_models_keep_the_structure_of_the_file(name, unpacked):
    made = onnx.load(surgeon_models.get(name)).graph
    (file,) = surgeon_models.entry(name).sources[0].files
    source = onnx.load(unpacked(name) / file).graph
    kept = [node for node in source.node if node.op_type != "ConstantOfShape"]
    assert [node.SerializeToString() for node in kept] == [
        node.SerializeToString() for node in made.node
    ]
    assert [value.name.removesuffix("__SHAPE") for value in source.input] == [
        value.name for value in made.input
    ]
    assert {tensor.name for tensor in made.initializer} < {value.name for value in made.input}


@pytest.mark.parametrize(
    "name",
    [
        "efficientnet-lite0",
        "efficientnet-lite0-op23",
        "efficientnet-lite0-qdq",
        "efficientnet-lite0-int8",
        "minilm-l3",
        "mobilenetv2-ext",
        "light-squeezenet",
    ],
)
def test_building_again_gives_the_same_model_and_says_nothing(name, tmp_path, monkeypatch):
    first = surgeon_models.get(name)
    expected = sorted(path.name for path in first.parent.iterdir())
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", f"import surgeon_models; print(surgeon_models.get({name!r}))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    built = tmp_path / "models" / name
    assert line == str(built / f"{name}.onnx")
    assert sorted(path.name for path in built.iterdir()) == expected
    found = surgeon_models.find_by_sha256(packages.sha256_of(built / f"{name}.onnx"))
    assert found is surgeon_models.entry(name)
    shutil.rmtree(built)
