"""Further formats of pictures and sounds; without its library each names the extra."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import networks
import numpy as np
import onnx
import pytest
from PIL import Image

import surgeon
from surgeon.cli import main
from surgeon.data.media import formats, registry
from surgeon.data.media.sounds import read_wav
from surgeon.data.sources import UnreadableError
from surgeon.errors import EnvironmentLacksError
from surgeon.records import Medium


def opened(content, name="odd"):
    with formats.open_picture(content, name) as picture:
        return np.asarray(picture)


def ramp(height=32, width=48):
    return np.linspace(40, 200, height * width).reshape(height, width)


def heic():
    library = pytest.importorskip("pillow_heif")
    pixels = np.stack([ramp(), ramp()[::-1], ramp()], 2).astype(np.uint8)
    file = io.BytesIO()
    library.from_bytes("RGB", (48, 32), pixels.tobytes()).save(file, quality=95)
    return file.getvalue(), pixels


def dicom(values, **said):
    library = pytest.importorskip("pydicom")
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = library.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = library.dataset.Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    data.Rows, data.Columns = values.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelRepresentation = 0
    for name, value in said.items():
        setattr(data, name, value)
    data.PixelData = values.astype(np.uint16).tobytes()
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def test_heic_is_read_by_content_whatever_its_name():
    content, pixels = heic()
    assert np.abs(opened(content).astype(int) - pixels).mean() < 6


def test_avif_and_tiff_of_16_bits_are_read_by_pillow_itself():
    content, pixels = io.BytesIO(), ramp().astype(np.uint8)
    Image.fromarray(np.stack([pixels] * 3, 2)).save(content, "AVIF", quality=95)
    assert np.abs(opened(content.getvalue())[..., 0].astype(int) - pixels).mean() < 6
    deep = io.BytesIO()
    Image.fromarray((ramp() * 256).astype(np.uint16)).save(deep, "TIFF")
    assert opened(deep.getvalue()).max() > 40_000


def test_dicom_is_rescaled_and_seen_through_its_window():
    values = np.array([[0, 1000, 1100, 1200, 4095]])
    content = dicom(
        values, RescaleSlope=1, RescaleIntercept=-1000, WindowCenter=100, WindowWidth=201
    )
    np.testing.assert_array_equal(opened(content)[0, [0, 1, 2, 3, 4]], [0, 1, 128, 255, 255])


def test_dicom_without_a_window_is_seen_over_all_that_it_could_store():
    values = np.array([[0, 2048, 4095]])
    np.testing.assert_array_equal(opened(dicom(values))[0], [0, 128, 255])
    inverted = dicom(values, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(opened(inverted)[0], [255, 127, 0])


def test_of_a_video_the_middle_frame_is_taken():
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as made:
        stream = made.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for grey in range(20, 220, 10):
            pixels = np.full((32, 48, 3), grey, np.uint8)
            made.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        made.mux(stream.encode())
    seen = opened(file.getvalue(), "clip.mp4")
    assert seen.shape == (32, 48, 3)
    assert abs(float(seen.mean()) - 120) < 15


@pytest.mark.parametrize(
    ("ending", "kind", "bound"),
    [(".flac", ("FLAC", "PCM_16"), 1e-4), (".ogg", ("OGG", "VORBIS"), 0.1),
     (".mp3", ("MP3", "MPEG_LAYER_III"), 0.1)],
)  # fmt: skip
def test_compressed_sounds_are_mixed_to_one_channel(ending, kind, bound):
    library = pytest.importorskip("soundfile")
    time = np.arange(16_000) / 16_000
    wave = 0.5 * np.sin(2 * np.pi * 440 * time)
    file = io.BytesIO()
    library.write(file, np.stack([wave, wave], 1), 16_000, format=kind[0], subtype=kind[1])
    rate, sound = formats.read_further("sounds", f"clip{ending}", file.getvalue())
    assert rate == 16_000
    assert sound.dtype == np.float32
    middle = slice(4000, 12_000)
    assert abs(np.abs(sound[middle]).max() - 0.5) < max(bound, 0.02)
    assert formats.read_further("sounds", "clip.wav", b"RIFF....WAVE") is None


@pytest.fixture
def network(tmp_path):
    onnx.save(networks.convnet(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("a.heic", "pillow_heif", "images"), ("a.dcm", "pydicom", "images"), ("a.mp4", "av", "video")],
)
def test_without_its_library_a_named_file_is_refused_with_the_extra(
    network, tmp_path, monkeypatch, name, module, extra
):
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).write_bytes(b"none")
    for more in ({}, {"out": tmp_path / "a.csv"}):
        with pytest.raises(EnvironmentLacksError) as told:
            surgeon.predict(network, [tmp_path / name], preprocess="zero-one", **more)
        assert f"onnx-surgeon[{extra}]" in str(told.value)


def test_without_its_library_one_of_a_folder_fails_by_itself(
    network, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "photos").mkdir()
    Image.fromarray(ramp().astype(np.uint8)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "b.heic").write_bytes(b"\0\0\0\0ftypheic")
    told = surgeon.predict(network, tmp_path / "photos", preprocess="zero-one")
    assert len(told.labels) == 1
    assert "onnx-surgeon[images]" in told.failed[0]["reason"]
    asked = ["predict", str(network), str(tmp_path / "photos" / "b.heic"), "--preprocess"]
    assert main([*asked, "zero-one"]) == 3
    assert "onnx-surgeon[images]" in capsys.readouterr().err


def test_a_compressed_sound_without_its_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UnreadableError, match=r"onnx-surgeon\[sounds"):
        formats.read_further("sounds", "a.mp3", b"ID3")


def test_pictures_go_together_whatever_their_format(network, tmp_path):
    content, _ = heic()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.HEIC").write_bytes(content)
    (tmp_path / "photos" / "b.dcm").write_bytes(dicom(ramp() * 10))
    (tmp_path / "photos" / "c.mov").write_bytes(b"beside its photograph")
    Image.fromarray(ramp().astype(np.uint8)).save(tmp_path / "photos" / "d.png")
    told = surgeon.predict(network, tmp_path / "photos", preprocess="zero-one")
    assert [name[-6:] for name in told.names] == ["a.HEIC", "/b.dcm", "/d.png"]
    assert [one["input"][-5:] for one in told.failed] == ["c.mov"]


def test_a_broken_file_of_such_a_format_says_so(network, tmp_path):
    pytest.importorskip("pillow_heif")
    (tmp_path / "a.heic").write_bytes(b"none")
    told = surgeon.predict(network, tmp_path / "a.heic", preprocess="zero-one")
    assert told.failed


def test_a_plugin_brings_a_format_of_its_own():
    def read(content):
        return Image.fromarray(np.frombuffer(content[4:], np.uint8).reshape(2, 3))

    form = Medium("bare", "two rows of three", "bare:read", (".bare",), of="pictures")
    try:
        registry.offer(form, lambda: read)
        assert opened(b"BARE" + bytes(range(6)), "a.BARE").tolist() == [[0, 1, 2], [3, 4, 5]]
        assert registry.is_of(Path("a.bare"), registry.PICTURES)
        assert form not in registry.media()
        with pytest.raises(UnreadableError):
            opened(b"BARE", "a.bare")
    finally:
        registry.forget()
    assert not registry.is_of(Path("a.bare"), registry.PICTURES)


def test_no_format_takes_the_ending_of_another():
    every = [suffix for one in (*registry.media(), *registry.formats()) for suffix in one.suffixes]
    assert len(set(every)) == len(every)


def test_wav_is_read_as_before():
    with pytest.raises(UnreadableError):
        read_wav(b"RIFF")
