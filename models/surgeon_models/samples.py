"""Data of each indexed model's own kind, as the arrays its graph takes.

For tests and demonstrations that run every model: real data where the index has some, and where it
has none, what real data can be made into (stated at each function). In the convention of surgeon's
`.npz` files: arrays named like the graph's inputs with the samples along each input's batch axis,
constant inputs as they are, and `labels`. What must not enter: training, splits, sessions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import UsageError
from surgeon_models import datasets, encodings, index

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from surgeon_models.index import Entry

MOST = 300
_SQUARE = (224, 224)
_LINE_HEIGHT = 48
_RATE = 16_000
_CHUNK = 576  # samples of silero's input: 64 before and 512 new
_LISTENER_SEED = 0


def sample_data(name: str, *, samples: int = 120) -> dict[str, np.ndarray]:
    """Return labelled data for an indexed model: the same on every call.

    Args:
        name: a name of the index.
        samples: at most so many (classes are balanced), up to 300.

    Returns:
        one array per graph input, and `labels` (text [n]).

    Raises:
        UnknownNameError: the index has no model of that name.
        UsageError: `samples` is not between 4 and 300.
        EnvironmentLacksError: a package manager, package or library is missing.
    """
    entry = index.find(name)
    if not 4 <= samples <= MOST:
        raise UsageError(
            f"{samples} samples are not between 4 and {MOST}",
            where=name,
            remedy="load the data set itself (surgeon_models.datasets)",
        )
    make = _MAKERS.get(name) or _pictures
    return make(entry, samples)


def choose_balanced(labels: np.ndarray, samples: int, classes: int | None = None) -> np.ndarray:
    """Return positions of the same number of samples of each class, in a fixed random order.

    Args:
        labels: int64 [n].
        samples: at most so many positions.
        classes: only so many of the largest classes (ties: the first); never more than leave two
            samples of each.
    """
    counts = np.bincount(labels)
    most = min(classes or len(counts), samples // 2)
    kept = np.sort(np.argsort(-counts, kind="stable")[:most])
    each = min(samples // len(kept), int(counts[kept].min()))
    generator = np.random.default_rng(0)
    chosen = [generator.permutation(np.flatnonzero(labels == one))[:each] for one in kept]
    return np.asarray(generator.permutation(np.concatenate(chosen)))


def _names(data: Any, chosen: np.ndarray) -> np.ndarray:
    return np.asarray(np.array(data.classes)[data.labels[chosen]])


def _pictures(entry: Entry, samples: int) -> dict[str, np.ndarray]:
    """Emoji of four groups, prepared as the index says.

    The `light-*` models were never trained, so nothing belongs to them: they get (pixel − 127) /
    128, and 224 × 224 like all others.
    """
    rule = entry.preprocess or {"layout": "NCHW", "channels": "RGB", "size": _SQUARE}
    size = (160, 160) if entry.task == "detection" else tuple(rule["size"])
    data = datasets.emoji()
    chosen = choose_balanced(data.labels, samples, classes=4)
    pixels = encodings.resize_pictures(data.images[chosen], size)
    if rule["channels"] == "BGR":
        pixels = pixels[..., ::-1]
    mean, std = (np.array(rule.get(key, value), np.float32) for key, value in _CENTRED.items())
    values = (pixels * np.float32(rule.get("scale", 1)) - mean) / std
    if rule["layout"] == "NCHW":
        values = values.transpose(0, 3, 1, 2)
    name, dtype = _picture_input(entry.name)
    return {name: np.ascontiguousarray(values.astype(dtype)), "labels": _names(data, chosen)}


_CENTRED = {"mean": 127.0, "std": 128.0}


def _picture_input(name: str) -> tuple[str, Any]:
    """Return name and numpy type of a model's one input that is not a weight."""
    import onnx

    from surgeon_models import store

    graph = onnx.load(store.get(name), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    value = next(each for each in graph.input if each.name not in weights)
    return value.name, onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)


def _text_lines(_: Entry, samples: int) -> dict[str, np.ndarray]:
    """Lines of four equal handwritten digits (MNIST), dark on light: [n, 3, 48, 192]."""
    data = datasets.mnist5k()
    chosen = choose_balanced(data.labels, samples, classes=5)
    generator = np.random.default_rng(1)
    lines = []
    for position in chosen:
        alike = np.flatnonzero(data.labels == data.labels[position])
        line = [position, *generator.choice(alike, 3)]
        lines.append(np.concatenate(255 - data.images[line], axis=1))
    pixels = encodings.resize_pictures(np.stack(lines), (_LINE_HEIGHT, 4 * _LINE_HEIGHT))
    values = (pixels / np.float32(127.5) - 1).transpose(0, 3, 1, 2)
    return {"x": np.ascontiguousarray(values), "labels": _names(data, chosen)}


def _files(_: Entry, samples: int) -> dict[str, np.ndarray]:
    """Real files of 16 types."""
    data = datasets.file_types()
    chosen = choose_balanced(data.labels, samples)
    features = encodings.bytes_features([data.contents[position] for position in chosen])
    return {"bytes": features, "labels": _names(data, chosen)}


def _mail(_: Entry, samples: int) -> dict[str, np.ndarray]:
    """Real e-mails, ham or spam, 64 tokens of each."""
    from surgeon_models import text

    data = datasets.mail()
    chosen = choose_balanced(data.labels, samples)
    features = text.text_features([data.texts[position] for position in chosen], max_length=64)
    return {**features, "labels": _names(data, chosen)}


def _sounds(samples: int, *, rate: int = _RATE) -> tuple[np.ndarray, np.ndarray]:
    """Real speech and music, at most 124: float32 [n, 9.01 s], −1..1, and labels."""
    data = datasets.sounds()
    chosen = choose_balanced(data.labels, samples)
    values = data.values[chosen, 0].astype(np.float32) / 32768
    louder = encodings.to_rate(values, datasets.SOUND_RATE, rate)
    return np.clip(louder, -1, 1), _names(data, chosen)


def _voice(entry: Entry, samples: int) -> dict[str, np.ndarray]:
    """Speech or music: of each sound the loudest 36 ms, state at zero."""
    values, labels = _sounds(samples)
    windows = np.lib.stride_tricks.sliding_window_view(values, _CHUNK, axis=1)[:, ::_CHUNK]
    loudest = np.square(windows).sum(axis=2).argmax(axis=1)
    chunks = windows[np.arange(len(windows)), loudest]
    return {
        "input": np.ascontiguousarray(chunks),
        "state": np.zeros((2, len(chunks), 128), np.float32),
        "sr": np.array(entry.inputs["sr"], np.int64),
        "labels": labels,
    }


def _spoken(_: Entry, samples: int) -> dict[str, np.ndarray]:
    """9.01 s of speech or music: the sound itself."""
    values, labels = _sounds(min(samples, 60))
    return {"input_1": values, "labels": labels}


def _spoken_mel(_: Entry, samples: int) -> dict[str, np.ndarray]:
    values, labels = _sounds(min(samples, 60))
    features = encodings.mel_decibels(values[:, :-160], _RATE, 321, 160, 120, 900)
    return {"input_1": features, "labels": labels}


def _spoken_power(_: Entry, samples: int) -> dict[str, np.ndarray]:
    values, labels = _sounds(min(samples, 60))
    padded = np.pad(values, ((0, 0), (160, 160)))
    return {"input_1": encodings.log_power(padded, 320, 160)[:, :901], "labels": labels}


def _echoes(entry: Entry, samples: int) -> dict[str, np.ndarray]:
    """Calls made of real sounds: `enhanced` still has the loopback's echo in it, or has not.

    Loopback = another sound; microphone = sound + 0.5 × loopback 0.1 s later; 3 s of each. The
    marker rows of two of the models say "both sides talk".
    """
    rule = entry.encoding or {}
    rate, hop = rule["rate"], rule["hop"]
    values, _labels = _sounds(min(samples, 60), rate=rate)
    values = values[:, rate : 4 * rate]
    loopback = np.roll(values, 1, axis=0)
    microphone = values + 0.5 * np.roll(loopback, rate // 10, axis=1)
    echo = np.arange(len(values)) % 2 == 0
    enhanced = np.where(echo[:, None], microphone, values)
    frames = 1 + 3 * rate // hop
    spectra = [
        encodings.mel_decibels(each, rate, rule["window"], hop, rule["bands"], frames)
        for each in (loopback, microphone, enhanced)
    ]
    features = np.stack(spectra, axis=1)
    if not entry.name.endswith("plain"):
        marker = np.zeros((*features.shape[:2], 40, features.shape[3]), np.float32)
        marker[:, :, :20] = 1
        features = np.concatenate([features, marker], axis=2)
    hidden = 96 if rate == 48_000 else 64
    return {
        "input": features,
        "h0": np.zeros((4, len(values), hidden), np.float32),
        "labels": np.where(echo, "echo", "clean"),
    }


def _lossy(_: Entry, samples: int) -> dict[str, np.ndarray]:
    """3 s of real sounds, half of them with every fourth 20 ms packet lost (silence)."""
    values, _labels = _sounds(min(samples, 60))
    values = values[:, _RATE : 4 * _RATE].copy()
    lost = np.arange(len(values)) % 2 == 0
    packet = np.arange(values.shape[1]) // (_RATE // 50)
    values[np.ix_(lost, packet % 4 == 3)] = 0
    # The package's own unit: ln(power) / 20.
    features = encodings.log_power(values, 512, 256)[:, None] * np.float32(np.log(10) / 20)
    listener = np.random.default_rng(_LISTENER_SEED).standard_normal(64).astype(np.float32)
    return {
        "degraded_audio": features,
        "rater_embed": np.tile(listener, (len(values), 1)),
        "labels": np.where(lost, "lossy", "whole"),
    }


def _spindles(_: Entry, samples: int) -> dict[str, np.ndarray]:
    """Two gestures of a hand (no package carries labelled EEG), taken for 30 s of it."""
    data = datasets.series("gun-point")
    chosen = choose_balanced(data.labels, samples)
    features = encodings.spindle_features(data.values[chosen, 0])
    return {**features, "labels": _names(data, chosen)}


def _seizures(_: Entry, samples: int) -> dict[str, np.ndarray]:
    """Two gestures of a hand (no package carries labelled EEG), taken for 30 s of it."""
    data = datasets.series("gun-point")
    chosen = choose_balanced(data.labels, samples)
    return {**encodings.seizure_features(data.values[chosen, 0]), "labels": _names(data, chosen)}


def _flowers(_: Entry, samples: int) -> dict[str, np.ndarray]:
    """scikit-learn's iris flowers, sepal length and width; the model's batch of 3 divides n."""
    from sklearn.datasets import load_iris

    flowers = load_iris()
    chosen = choose_balanced(flowers.target, samples)
    return {
        "float_input": flowers.data[chosen, :2].astype(np.float32),
        "labels": np.array(flowers.target_names)[flowers.target[chosen]].astype(str),
    }


_MAKERS: Mapping[str, Callable[[Entry, int], dict[str, np.ndarray]]] = {
    "magika": _files,
    "minilm-l3": _mail,
    "ppocrv4-rec": _text_lines,
    "silero-vad": _voice,
    "eeg-spindle": _spindles,
    "eeg-seizure": _seizures,
    "dnsmos": _spoken,
    "dnsmos-personal": _spoken,
    "dnsmos-p808": _spoken_mel,
    "dnsmos-sig": _spoken_power,
    "dnsmos-bak-ovr": _spoken_power,
    "aecmos-16k": _echoes,
    "aecmos-16k-plain": _echoes,
    "aecmos-48k": _echoes,
    "plcmos": _lossy,
    "iris-logreg": _flowers,
}
