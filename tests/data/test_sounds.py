from __future__ import annotations

import struct
import wave
from dataclasses import replace

import numpy as np
import pytest
from scipy.signal import resample_poly

from surgeon.data import open_data, open_inputs
from surgeon.data.media.sounds import read_wav, resample, sound_input
from surgeon.data.sources import UnreadableError
from surgeon.errors import DataError, UsageError
from surgeon.graph.encodings import as_document, parse_audio, parse_option
from surgeon.records import AudioEncoding, TensorInfo

WAVE = TensorInfo("x", "float", ("N", "S"), 0)
CHANNEL = TensorInfo("x", "float", ("N", 1, "S"), 0)
RULE = AudioEncoding(8000, 0.05)


def tone(hertz=440, rate=8000, seconds=0.1, loud=0.5):
    return loud * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def write(path, values, rate=8000, bits=16):
    """Write values [n] or [n, channels] in -1..1 by the standard library, as integers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.asarray(values).reshape(len(values), -1)
    if bits == 8:
        content = np.round(values * 127 + 128).astype(np.uint8).tobytes()
    else:
        whole = np.round(values * (2 ** (bits - 1) - 1)).astype("<i4")
        content = whole[..., None].view(np.uint8)[..., : bits // 8].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(values.shape[1])
        file.setsampwidth(bits // 8)
        file.setframerate(rate)
        file.writeframes(content)
    return path


def riff(data, code, bits, channels=1, rate=8000, extra=b"", before=b"", size=None):
    align = channels * bits // 8
    form = struct.pack("<HHIIHH", code, channels, rate, rate * align, align, bits) + extra
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + before
    chunks += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


@pytest.mark.parametrize(("bits", "step"), [(8, 2**-6), (16, 2**-14), (24, 2**-22), (32, 2**-22)])
def test_integers_of_every_width(bits, step, tmp_path):
    values = tone()
    rate, read = read_wav(write(tmp_path / "x.wav", values, bits=bits).read_bytes())
    assert (rate, read.dtype) == (8000, np.float32)
    np.testing.assert_allclose(read, values, atol=step)


def test_floats_extensible_headers_and_other_chunks():
    values = tone().astype("<f4")
    _, read = read_wav(riff(values.tobytes(), 3, 32))
    np.testing.assert_array_equal(read, values)
    _, wide = read_wav(riff(values.astype("<f8").tobytes(), 3, 64))
    np.testing.assert_array_equal(wide, values)
    kind = struct.pack("<H", 3) + bytes.fromhex("000000001000800000aa00389b71")
    extra = struct.pack("<HHI", 22, 32, 4) + kind
    list_chunk = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # odd sizes are padded
    _, extensible = read_wav(riff(values.tobytes(), 0xFFFE, 32, extra=extra, before=list_chunk))
    np.testing.assert_array_equal(extensible, values)
    _, streamed = read_wav(riff(values.tobytes(), 3, 32, size=0xFFFFFFFF))
    np.testing.assert_array_equal(streamed, values)


def test_channels_are_averaged(tmp_path):
    both = np.stack([tone(loud=0.8), np.zeros(800)], 1)
    _, read = read_wav(write(tmp_path / "x.wav", both).read_bytes())
    np.testing.assert_allclose(read, tone(loud=0.4), atol=1e-4)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a RIFF"),
        (b"RIFX" + bytes(40), "not a RIFF"),
        (riff(bytes(8), 1, 16)[:-2], "truncated: 6 of 8"),
        (riff(b"", 1, 16), "no sound"),
        (riff(bytes(3), 1, 16), "within a sample"),
        (riff(bytes(8), 6, 8), "0x6 of 8 bits"),
        (riff(bytes(8), 1, 16, channels=0), "header is broken"),
        (riff(np.array([np.nan], "<f4").tobytes(), 3, 32), "NaN"),
        (b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd", "header is broken"),
        (b"RIFF\0\0\0\0WAVE", "no format or no data"),
    ],
)
def test_broken_files_say_why(content, words):
    with pytest.raises(UnreadableError, match=words):
        read_wav(content)


def test_resampling_leaves_out_only_what_does_not_matter():
    random = np.random.default_rng(0).standard_normal(60_000).astype(np.float32)
    for rate, new in ((44_100, 16_000), (8000, 16_000), (16_000, 11_025), (48_000, 8000)):
        whole = resample_poly(random, *_ratio(rate, new))
        np.testing.assert_allclose(resample(random, rate, new, 500)[:500], whole[:500], atol=1e-6)


def _ratio(rate, new):
    common = np.gcd(rate, new)
    return new // common, rate // common


@pytest.mark.parametrize("info", [WAVE, CHANNEL, replace(WAVE, shape=("N", 400))])
def test_a_folder_is_cut_padded_and_resampled(info, tmp_path):
    write(tmp_path / "d" / "a" / "long.wav", tone())
    write(tmp_path / "d" / "a" / "short.wav", tone(seconds=0.02))
    write(tmp_path / "d" / "b" / "fast.wav", tone(rate=16_000, seconds=0.05), rate=16_000)
    samples = open_data(tmp_path / "d", [info], preprocess=RULE)
    assert samples.answers == ["a", "a", "b"]
    values = samples.batch(range(3))["x"]
    assert values.shape == ((3, 1, 400) if len(info.shape) == 3 else (3, 400))
    assert values.dtype == np.float32
    long, short, fast = values.reshape(3, 400)
    np.testing.assert_allclose(long, tone()[:400], atol=1e-4)
    np.testing.assert_allclose(short[:160], tone(seconds=0.02), atol=1e-4)
    assert not short[160:].any()
    np.testing.assert_allclose(fast[40:360], tone()[40:360], atol=5e-3)
    assert samples.notes == ["of 3 sounds, 1 resampled to 8000 Hz, 1 cut to 0.05 s"]
    assert samples.read([]).feeds["x"].shape == (0, *values.shape[1:])


def test_values_beyond_one_are_clipped(tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(riff(np.array([2, -3, 0.5], "<f4").tobytes(), 3, 32))
    samples = open_inputs([path], [WAVE], preprocess=RULE)
    assert samples.batch([0])["x"][0, :3].tolist() == [1, -1, 0.5]


def test_state_and_rate_are_constants(tmp_path):
    write(tmp_path / "x.wav", tone())
    inputs = [WAVE, TensorInfo("state", "float", (2, "N", 3), 1), TensorInfo("sr", "int64", ())]
    with pytest.raises(DataError, match="does not take sounds") as caught:
        open_inputs([tmp_path / "x.wav"], inputs, preprocess=RULE)
    assert "--input state=0" in caught.value.remedy
    constants = {"state": np.zeros((2, 3), np.float32), "sr": np.array(8000)}
    samples = open_inputs([tmp_path / "x.wav"], inputs, preprocess=RULE, constants=constants)
    feeds = samples.batch([0])
    assert (feeds["state"].shape, int(feeds["sr"])) == ((2, 1, 3), 8000)


def test_a_length_the_graph_does_not_take_names_the_right_one(tmp_path):
    write(tmp_path / "x.wav", tone())
    with pytest.raises(UsageError, match="400 samples, the graph takes 576") as caught:
        open_inputs([tmp_path / "x.wav"], [replace(WAVE, shape=("N", 576))], preprocess=RULE)
    assert caught.value.remedy == "give --audio 8000,0.072"
    assert parse_audio("8000,0.072").samples == 576


def test_which_inputs_take_sounds():
    assert sound_input([CHANNEL], {}) is CHANNEL
    for shape, kind in ((("N", 2, "S"), "float"), (("N", 1, 8, 8), "float"), (("N", 4), "int64")):
        assert sound_input([TensorInfo("x", kind, shape, 0)], {}) is None
    assert sound_input([WAVE, CHANNEL], {}) is None


def test_tables_hold_paths_or_bytes(tmp_path):
    for number in range(4):
        write(tmp_path / f"{number}.wav", tone(300 + 100 * number))
    lines = ["audio,label", *(f"{n}.wav,{'ab'[n % 2]}" for n in range(4))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    samples = open_data(tmp_path / "t.csv", [WAVE], preprocess=RULE)
    np.testing.assert_allclose(samples.batch([2])["x"][0], tone(500)[:400], atol=1e-4)
    assert samples.names[0] == str(tmp_path / "0.wav")
    datasets = pytest.importorskip("datasets")
    rows = {"audio": [str(tmp_path / "2.wav")] * 2, "label": [0, 1]}
    data = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))
    held = open_data(data, [WAVE], preprocess=RULE)
    np.testing.assert_array_equal(held.batch([1])["x"], samples.batch([2])["x"])


def test_sounds_without_a_rule_name_the_option(tmp_path):
    path = write(tmp_path / "a" / "x.wav", tone())
    for data in (path, tmp_path):
        with pytest.raises(UsageError) as caught:
            open_data(data, [WAVE], labelled=False)
        assert "--audio" in caught.value.remedy


def test_one_broken_sound_in_forty_is_named_and_skipped(tmp_path):
    for number in range(40):
        write(tmp_path / "d" / "ab"[number % 2] / f"{number}.wav", tone(seconds=0.01))
    broken = tmp_path / "d" / "a" / "0.wav"
    broken.write_bytes(broken.read_bytes()[:-10])
    samples = open_data(tmp_path / "d", [WAVE], preprocess=RULE)
    assert len(samples.read(range(40)).indices) == 39
    assert samples.skipped == [(str(broken), "truncated: 150 of 160 bytes of sound are there")]


def test_the_hash_knows_the_rule(tmp_path):
    write(tmp_path / "d" / "a" / "x.wav", tone())
    hashes = {
        open_data(tmp_path / "d", [WAVE], preprocess=rule).content_sha256()
        for rule in (RULE, replace(RULE, source="index"), replace(RULE, seconds=0.06))
    }
    assert len(hashes) == 2


@pytest.mark.parametrize(
    "option", ["", "16000", "16000,", "a,b", "0,1", "16000,-1", "1.5,2", "8,0"]
)
def test_bad_rules(option):
    with pytest.raises(UsageError) as caught:
        parse_audio(option)
    assert caught.value.where == "--audio"


def test_the_document_reads_back():
    rule = parse_audio((16_000, 1.5))
    document = as_document(rule)
    assert parse_option(document, source="metadata") == replace(rule, source="metadata")
    assert document.pop("rule")["version"] == 1
    assert document == {"kind": "audio", "rate": 16000, "seconds": 1.5, "source": "option"}
    assert parse_option(document) == rule  # a file of before
    for document in ({"kind": "audio", "rate": 3}, {"kind": "smell"}, {"kind": "text", "x": 1}):
        with pytest.raises(UsageError):
            parse_option(document)
