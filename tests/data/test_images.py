from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from surgeon.data import open_data, open_inputs
from surgeon.data.media.pictures import ImageSamples
from surgeon.data.samples import Given
from surgeon.errors import DataError, UsageError
from surgeon.records import Preprocess, TensorInfo


def samples_of(*contents, preprocess=None, **info):
    """Make samples of pictures in memory."""
    layout = {"name": "x", "dtype": "float", "shape": ("N", 3, None, None), "batch_axis": 0, **info}
    given = Given(
        inputs=[TensorInfo(**layout)],
        names=[f"picture {number}" for number in range(len(contents))],
        sources=[item if isinstance(item, bytes) else encode(item) for item in contents],
        rule=preprocess or Preprocess(size=(8, 8)),
    )
    return ImageSamples(given)


def encode(image, kind="png", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def gradient(width=8, height=8):
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))


def test_values_are_scale_mean_std_in_the_layout():
    p = Preprocess(size=(8, 8), scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    pixels = np.asarray(gradient(), np.float64)
    wanted = (pixels / 255 - p.mean) / p.std
    first = samples_of(gradient(), preprocess=p).batch([0])["x"]
    assert first.dtype == np.float32
    assert first.flags.c_contiguous
    np.testing.assert_array_equal(first[0], wanted.transpose(2, 0, 1).astype(np.float32))
    last = samples_of(gradient(), preprocess=replace(p, layout="NHWC"), shape=("N", 8, 8, 3)).batch(
        [0]
    )["x"]
    np.testing.assert_array_equal(last[0], wanted.astype(np.float32))


def test_bgr_subtracts_in_its_own_order():
    p = Preprocess(size=(8, 8), channels="BGR", mean=(104, 117, 123))
    values = samples_of(gradient(), preprocess=p).batch([0])["x"][0]
    pixels = np.asarray(gradient(), np.float32)
    np.testing.assert_array_equal(values[0], pixels[..., 2] - 104)
    np.testing.assert_array_equal(values[2], pixels[..., 0] - 123)


def test_images_then_normalize_is_batch():
    p = Preprocess(size=(6, 4), channels="BGR", scale=1 / 255, std=(0.3,))
    samples = samples_of(gradient(20, 30), gradient(5, 5), preprocess=p)
    pixels = samples.images([1, 0])
    assert (pixels.shape, pixels.dtype) == ((2, 6, 4, 3), np.uint8)
    np.testing.assert_array_equal(samples.normalize(pixels), samples.batch([1, 0])["x"])


def test_every_kind_of_picture_becomes_rgb():
    rgb = gradient()
    red = np.asarray(rgb)[..., 0]
    grey = np.repeat(red[..., None], 3, -1)
    deep = Image.fromarray(red.astype(np.uint16) * 257)
    palette = rgb.quantize(16)
    cases = {
        "L": (Image.fromarray(red), grey, 0),
        "I;16": (deep, grey, 0),
        "1": (Image.fromarray(red > 127), np.where(grey > 127, 255, 0), 0),
        "P": (palette, np.asarray(palette.convert("RGB")), 0),
        "CMYK": (encode(rgb.convert("CMYK"), "tiff"), np.asarray(rgb), 2),
        "RGBA": (rgb.convert("RGBA"), np.asarray(rgb), 0),
        "LA": (Image.fromarray(red).convert("LA"), grey, 0),
        "jpeg": (encode(rgb, "jpeg", quality=95, subsampling=0), np.asarray(rgb), 40),
    }
    for mode, (image, wanted, bound) in cases.items():
        found = samples_of(image).batch([0])["x"][0].transpose(1, 2, 0)
        assert np.abs(found - wanted).max() <= bound, mode


def test_16_bit_is_scaled_not_clipped():
    deep = Image.fromarray(np.full((8, 8), 40000, np.uint16))
    assert (samples_of(deep).batch([0])["x"] == round(40000 / 257)).all()
    assert (samples_of(encode(deep, "tiff")).batch([0])["x"] == round(40000 / 257)).all()


def test_transparency_is_laid_over_white():
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((200, 0, 0, 255), (0, 0, 4, 8))
    values = samples_of(image).batch([0])["x"][0]
    assert values[:, :, 6].min() == 255
    assert values[:, 0, 0].tolist() == [200, 0, 0]
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert (samples_of(encode(palette, "png", transparency=0)).batch([0])["x"] == 255).all()


def test_exif_orientation_is_applied():
    plain = gradient(8, 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    turned = samples_of(encode(plain, "png", exif=exif)).images([0])[0]
    np.testing.assert_array_equal(turned, np.asarray(plain.transpose(Image.Transpose.ROTATE_270)))


def test_crop_covers_the_size_and_cuts_the_centre():
    wide = Image.new("RGB", (40, 10), (0, 0, 0))
    wide.paste((255, 255, 255), (15, 0, 25, 10))
    p = Preprocess(size=(10, 10), fit="crop")
    assert (samples_of(wide, preprocess=p).images([0]) == 255).all()
    stretched = samples_of(wide, preprocess=replace(p, fit="stretch")).images([0])
    assert stretched[0, 0, 0, 0] == 0


def test_a_large_jpeg_is_decoded_small_and_looks_the_same():
    large = gradient(900, 700)
    content = encode(large, "jpeg", quality=95)
    found = samples_of(content, preprocess=Preprocess(size=(32, 32))).images([0])[0]
    wanted = np.asarray(large.resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(found.astype(int) - wanted).max() <= 6


def test_grey_models_take_one_channel():
    p = Preprocess(size=(8, 8), channels="L")
    samples = samples_of(gradient(), preprocess=p, shape=("N", 1, 8, 8))
    assert samples.batch([0])["x"].shape == (1, 1, 8, 8)
    assert samples.images([0]).shape == (1, 8, 8, 1)


def test_element_types_of_the_input():
    half = samples_of(
        gradient(), dtype="float16", preprocess=Preprocess(size=(8, 8), scale=1 / 255)
    )
    assert half.batch([0])["x"].dtype == np.float16
    assert samples_of(gradient(), dtype="uint8").batch([0])["x"].dtype == np.uint8
    with pytest.raises(UsageError, match="uint8"):
        samples_of(gradient(), dtype="uint8", preprocess=Preprocess(size=(8, 8), scale=1 / 255))


def test_broken_pictures_are_named_and_left_out():
    good = encode(gradient(40, 40), "jpeg")
    broken = [b"", b"hello", good[: len(good) // 2]]
    samples = samples_of(*[good] * 60, *broken)
    batch = samples.read([0, 60, 1, 61, 62])
    assert batch.indices.tolist() == [0, 1]
    assert batch.feeds["x"].shape[0] == 2
    assert [failure.index for failure in batch.failures] == [60, 61, 62]
    assert [name for name, _ in samples.skipped] == ["picture 60", "picture 61", "picture 62"]
    assert samples.load(62).name == "picture 62"
    assert samples.load(0)["x"].shape == (1, 3, 8, 8)
    with pytest.raises(DataError, match=r"(?i)truncated"):
        samples.batch([1, 62])


def test_past_five_percent_unreadable_is_an_error():
    good = encode(gradient())
    samples = samples_of(*[good] * 38, b"x", b"y")
    assert len(samples.read(range(40)).failures) == 2  # exactly 5 %
    with pytest.raises(DataError, match="3 of 40") as caught:
        samples_of(*[good] * 37, b"x", b"y", b"z").read(range(40))
    assert "picture 37" in caught.value.where


def test_pixels_without_a_range_are_refused():
    for pixels in (np.full((8, 8), 0.5, np.float32), np.full((8, 8), 1 << 20, np.int32)):
        samples = samples_of(encode(Image.fromarray(pixels), "tiff"), *[gradient()] * 20)
        assert "range" in samples.read([0]).failures[0].reason


def test_constants_go_beside_the_pictures(pictures, raw):
    inputs = [
        TensorInfo("training", "bool", (), None),
        TensorInfo("x", "float", ("N", 3, 8, 8), 0),
        TensorInfo("scale", "float", (2, "N"), 1),
    ]
    constants = {"training": np.array(False), "scale": np.array([1, 2], np.float32)}
    feeds = open_data(pictures, inputs, preprocess=raw, constants=constants).batch([0, 1, 2])
    assert list(feeds) == ["training", "x", "scale"]
    assert feeds["training"].shape == ()
    assert feeds["scale"].tolist() == [[1, 1, 1], [2, 2, 2]]


def test_models_that_take_no_single_picture(pictures, raw):
    for inputs in (
        [TensorInfo("a", "float", ("N", 5), 0)],
        [TensorInfo("a", "float", ("N", 3, 8, 8), 0), TensorInfo("b", "float", ("N", 2), 0)],
        [TensorInfo("a", "int64", ("N", 3, 8, 8), 0)],
    ):
        with pytest.raises(DataError, match="does not take pictures"):
            open_data(pictures, inputs, preprocess=raw)


def test_size_that_the_graph_does_not_take(pictures, image_input):
    with pytest.raises(UsageError, match="the graph takes"):
        open_data(pictures, [image_input], preprocess=Preprocess(size=(9, 8)))


def test_pictures_without_preprocessing(pictures, image_input):
    with pytest.raises(UsageError) as caught:
        open_data(pictures, [image_input])
    assert "--preprocess" in caught.value.remedy


def test_hash_follows_content_and_preprocessing_not_names(pictures, image_input, raw, tmp_path):
    before = open_data(pictures, [image_input], preprocess=raw).sha256
    moved = pictures.rename(tmp_path / "moved")
    again = open_data(moved, [image_input], preprocess=replace(raw, source="index"))
    assert again.sha256 == before
    assert again.content_sha256(np.arange(3)) != again.content_sha256(np.arange(4))
    other = open_data(moved, [image_input], preprocess=replace(raw, mean=(1.0,)))
    assert other.content_sha256() != again.content_sha256()
    (moved / "2").rename(moved / "3")
    relabelled = open_data(moved, [image_input], preprocess=raw)
    assert relabelled.content_sha256() == again.content_sha256()
    assert relabelled.sha256 != again.sha256


def test_reading_from_threads_gives_the_same(pictures, image_input, raw):
    samples = open_data(pictures, [image_input], preprocess=raw)
    wanted = samples.batch(range(samples.n))["x"]
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda index: samples.batch([index])["x"][0], range(samples.n)))
    np.testing.assert_array_equal(np.stack(rows), wanted)


def test_open_inputs_takes_files_and_folders(pictures, image_input, raw, draw):
    single = draw(pictures.parent / "single.png")
    samples = open_inputs([single, pictures], [image_input], preprocess=raw)
    assert (samples.n, samples.answers, samples.names[0]) == (13, None, str(single))
    with pytest.raises(DataError):
        open_inputs([], [image_input], preprocess=raw)
    with pytest.raises(DataError, match="no such"):
        open_inputs([pictures / "none.png"], [image_input], preprocess=raw)
