"""Bytes, sounds and series become inputs by the stated rules; text by BERT's."""

import json

import numpy as np
import pytest

from surgeon.errors import CheckError
from surgeon_models import encodings, series, text


def test_bytes_are_stripped_and_padded():
    row = encodings.bytes_features([b"  ab \n"])[0]
    assert row.dtype == np.int32
    assert row[:5].tolist() == [97, 98, 32, 10, 256]
    assert row[-5:].tolist() == [256, 32, 32, 97, 98]
    assert (row[4:-4] == 256).all()


def test_bytes_of_a_long_file_are_its_two_ends():
    content = bytes(range(33, 127)) * 200
    row = encodings.bytes_features([content, b""])
    assert row[0, :1024].tolist() == list(content[:1024])
    assert row[0, 1024:].tolist() == list(content[-1024:])
    assert (row[1] == 256).all()


def test_bytes_stripped_away_are_not_replaced_from_beyond_the_block():
    row = encodings.bytes_features([b" " * 5000 + b"x" * 5000])[0]
    assert (row[:1024] == 256).all()
    assert (row[1024:] == ord("x")).all()


def test_log_power_finds_the_tone():
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)[None]
    spectra = encodings.log_power(tone, 320, 160)
    assert spectra.shape == (1, 99, 161)
    assert (spectra[0].argmax(axis=1) == 20).all()  # 1000 Hz / 50 Hz


def test_mel_bands_rise_with_the_tone_and_the_loudest_is_one():
    time = np.arange(16_000) / 16_000
    tones = np.stack([np.sin(2 * np.pi * each * time) for each in (200, 1000, 4000)])
    mels = encodings.mel_decibels(tones, 16_000, 321, 160, 120, 90)
    assert mels.shape == (3, 90, 120)
    assert mels.max() == 1
    assert mels.min() >= -1
    loudest = mels[:, 45].argmax(axis=1)
    assert loudest[0] < loudest[1] < loudest[2]
    # 1 kHz is mel 15 of 45.245 (Slaney): band 15 / 45.245 × 121 − 1.
    assert abs(loudest[1] - (15 / 45.245 * 121 - 1)) <= 1


def test_spindle_features_see_a_spindle():
    """13 Hz for one of thirty seconds: the wavelet's magnitude is largest there."""
    time = np.arange(7500) / 250
    burst = np.sin(2 * np.pi * 13 * time) * ((time > 10) & (time < 11))
    noise = np.random.default_rng(0).standard_normal(7500) * 0.1
    features = encodings.spindle_features((burst + noise)[None])
    assert features["raw_signal"].shape == (1, 1, 7500)
    assert features["spectrogram"].shape == (1, 15, 7500)
    for values in features.values():
        assert np.abs(values.mean(axis=-1)).max() < 1e-4
        assert np.abs(values.std(axis=-1) - 1).max() < 1e-4
    peak = features["spectrogram"][0].mean(axis=0)[250:-250].argmax() + 250
    assert 10 < peak / 250 < 11


def test_seizure_features_see_a_change_of_rhythm():
    time = np.arange(6000) / 200
    signal = np.where(time < 15, np.sin(2 * np.pi * 5 * time), np.sin(2 * np.pi * 30 * time))
    values = encodings.seizure_features(signal[None])["x"]
    assert values.shape == (1, 100, 59)
    assert values[0, 5, :25].mean() > 0 > values[0, 5, -25:].mean()
    assert values[0, 30, :25].mean() < 0 < values[0, 30, -25:].mean()


def test_a_flat_series_has_finite_features():
    flat = np.full((1, 50), 3.0)
    assert all(np.isfinite(each).all() for each in encodings.spindle_features(flat).values())
    assert np.isfinite(encodings.seizure_features(flat)["x"]).all()


def test_rate_changes_the_length_and_keeps_the_tone():
    tone = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)[None]
    doubled = encodings.to_rate(tone, 8000, 16_000)
    expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert doubled.shape == (1, 16_000)
    assert np.abs(doubled[0, 200:-200] - expected[200:-200]).max() < 0.01


def test_series_are_read_with_channels_and_labels(tmp_path):
    path = tmp_path / "x.ts"
    path.write_text("# remark\n@classLabel true a b\n@data\n1,2,3:4,5,6:b\n7,8,9:1,1,1:a\n\n")
    values, labels = series.read_series([path, path])
    assert values.shape == (4, 2, 3)
    assert values[0].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert labels == ["b", "a", "b", "a"]


def test_sounds_of_another_form_are_refused(tmp_path):
    import wave

    path = tmp_path / "x.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(np.arange(100, dtype="<i2").tobytes())
    assert series.read_windows([path, path], 8000, 60)[1].tolist() == [*range(60, 100), *range(20)]
    with pytest.raises(CheckError, match="16000 Hz"):
        series.read_windows([path], 16_000, 60)


def test_mail_loses_headers_markup_and_quoting():
    mail = "From a@b\nSubject: Hello\n  there\nX: y\n\n<p>caf=E9 =\n<b>now</b>\nquoted-printable"
    assert text._clean(mail) == "Hello there café now quoted-printable"
    assert text._clean("Content-Transfer-Encoding: base64\n\nAAAA") == ""


def test_another_vocabulary_is_refused():
    assert list(text._spell_as_bert(["[PAD]", "▁", "▁the", "s", "▁["])) == [
        "[PAD]",
        "[unused0]",
        "the",
        "##s",
        "[",
    ]
    with pytest.raises(CheckError, match="not BERT's"):
        text._translate(["▁a"])


@pytest.mark.slow
def test_text_is_tokenised_as_bert_does():
    pytest.importorskip("tokenizers")
    features = text.text_features(["A man is eating food.", "Unaffordable!"], max_length=8)
    # The numbers of these words in BERT's English uncased vocabulary.
    assert features["input_ids"][0].tolist() == [101, 1037, 2158, 2003, 5983, 2833, 1012, 102]
    assert features["attention_mask"].sum(axis=1)[0] == 8
    pieces = json.loads(text.tokenizer_file().read_text("utf-8"))["model"]["vocab"]
    names = {number: piece for piece, number in pieces.items()}
    spelled = [names[number] for number in features["input_ids"][1].tolist()]
    assert spelled[0] == "[CLS]"
    assert "".join(piece.removeprefix("##") for piece in spelled[1 : spelled.index("[SEP]")]) == (
        "unaffordable!"
    )


@pytest.mark.slow
def test_like_sentences_have_like_features():
    pytest.importorskip("tokenizers")
    import onnxruntime

    import surgeon_models

    sentences = ["A man is eating food.", "A man eats something.", "Shares fell on Monday."]
    session = onnxruntime.InferenceSession(
        str(surgeon_models.get("minilm-l3")), providers=["CPUExecutionProvider"]
    )
    output = surgeon_models.entry("minilm-l3").output
    features = session.run([output], text.text_features(sentences))[0]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    likeness = features @ features.T
    assert likeness[0, 1] > 0.7
    assert abs(likeness[0, 2]) < 0.2
