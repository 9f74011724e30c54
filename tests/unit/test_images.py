import json
import os
import re
import socket
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.schema import images
from nemo_mm_align.schema.images import ImageProcessor, load_image, read_file, read_image_bytes, verify_image

EPS = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n"
SHAPES = [(50, 80), (81, 50), (56, 56), (33, 100), (300, 171)]


def noise(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def huge_png(path, width: int, height: int) -> None:
    """A few bytes that claim to be a large picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.fixture
def broken(tmp_path):
    """Files that must be refused, by name."""
    noise(64, 64).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    noise(64, 64).save(tmp_path / "whole.png")
    png = bytearray((tmp_path / "whole.png").read_bytes())
    png[len(png) // 2] ^= 0xFF
    (tmp_path / "damaged.png").write_bytes(png)
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    huge_png(tmp_path / "large.png", 9000, 9000)
    huge_png(tmp_path / "bomb.png", 60000, 60000)
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "environment.png").symlink_to("/proc/self/environ")
    (tmp_path / "script.png").write_text(EPS)
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(2**40)
    folder = os.open(tmp_path, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{folder}/socket.png")  # a socket's own path has at most 107 bytes
    os.close(folder)
    return tmp_path


FAULTS = {
    "missing.png": "no such image",
    "cut.jpg": "damaged or cut off",
    "damaged.png": "damaged or cut off",
    "text.png": "not an image",
    "empty.png": "not an image",
    "large.png": "9000 x 9000 pixels; at most 64,000,000",
    "bomb.png": "too many pixels",
    "folder.png": "cannot be read \\(Is a directory",
    "pipe.png": "a pipe, a socket or a device",
    "zero.png": "a pipe, a socket or a device",
    "socket.png": "a pipe, a socket or a device",
    "environment.png": "not an image",
    "script.png": "not an image of a known format",
    "sparse.png": "1,099,511,627,776 bytes; at most",
    "\0.png": "cannot be read",
}


@pytest.mark.parametrize("function", [load_image, verify_image, read_image_bytes])
@pytest.mark.parametrize(("name", "fault"), FAULTS.items())
def test_bad_images_are_refused_by_name(broken, function, name, fault):
    with pytest.raises(UserError, match=f"{re.escape(name)}: .*{fault}") as caught:
        function(broken / name)
    assert "PATH=" not in str(caught.value), "a refused file's content is nobody's business"


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    image = noise(20, 30).convert(mode)
    image.save(tmp_path / "image.tiff")
    loaded = load_image(tmp_path / "image.tiff")
    assert (loaded.mode, loaded.size) == ("RGB", (30, 20))
    verify_image(tmp_path / "image.tiff")


def test_sixteen_bit_grey_keeps_its_range(tmp_path):
    Image.fromarray(np.array([[0, 0x8000, 0xFFFF]], dtype=np.uint16)).save(tmp_path / "grey.png")
    assert np.asarray(load_image(tmp_path / "grey.png"))[0, :, 0].tolist() == [0, 128, 255]


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    noise(20, 30).save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg").size == (20, 30)


@pytest.mark.parametrize(
    ("form", "mime"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("GIF", "image/gif")]
)
def test_a_judge_gets_the_bytes_of_the_file_and_their_real_type(tmp_path, form, mime):
    path = tmp_path / "image.bmp"  # a wrong name
    noise(20, 30).save(path, format=form)
    assert read_image_bytes(path) == (path.read_bytes(), mime)
    with pytest.raises(UserError, match="at most 100 are allowed"):
        read_image_bytes(path, max_bytes=100)


def test_a_phone_picture_is_a_jpeg(tmp_path):
    """Such files hold a second picture behind the first one; Pillow has a format of its own for them."""
    noise(20, 30).save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=[noise(10, 15)])
    with Image.open(tmp_path / "phone.jpg") as image:
        assert image.format == "MPO"
    assert read_image_bytes(tmp_path / "phone.jpg")[1] == "image/jpeg"
    assert load_image(tmp_path / "phone.jpg").size == (30, 20)


def test_a_file_is_read_as_far_as_its_limit_allows(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_file(tmp_path / "file", max_bytes=5) == b"12345"
    with pytest.raises(UserError, match="5 bytes; at most 4"):
        read_file(tmp_path / "file", max_bytes=4)


def test_a_format_that_judges_do_not_take_is_refused(tmp_path):
    noise(20, 30).save(tmp_path / "image.png", format="BMP")
    with pytest.raises(UserError, match="BMP is not accepted"):
        read_image_bytes(tmp_path / "image.png")


def test_padding_is_the_mean_colour_and_centred():
    processor = ImageProcessor(image_size=4, mean=(0.2, 0.4, 0.6), std=(0.5, 0.5, 0.5))
    pixels_CHW = processor(Image.new("RGB", (4, 2), (255, 255, 255)))
    assert pixels_CHW.shape == (3, 4, 4) and pixels_CHW.dtype == np.float32
    np.testing.assert_allclose(pixels_CHW[:, [0, 3]], 0, atol=1e-6)  # 0.2, 0.4 and 0.6 are whole multiples of 1/255
    np.testing.assert_allclose(pixels_CHW[:, 1, 0], [1.6, 1.2, 0.8], rtol=1e-6)


@pytest.mark.parametrize("pad", [True, False])
def test_transformers_does_the_same_with_the_exported_settings(tmp_path, pad):
    from transformers import AutoImageProcessor

    processor = ImageProcessor(image_size=56, pad_to_square=pad)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor.to_hf()))
    assert ImageProcessor.from_hf(tmp_path) == processor
    reference = AutoImageProcessor.from_pretrained(tmp_path, use_fast=False)
    for height, width in SHAPES:
        image = noise(height, width)
        expected = reference(image, return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(processor(image), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"resample": 2}, "resample=3"),
        ({"do_center_crop": False}, "do_pad or do_center_crop"),
        ({"size": {"height": 56, "width": 40}}, "a square size"),
        ({"crop_size": {"height": 48, "width": 48}}, "crop_size = size"),
        ({"rescale_factor": 1}, "rescale_factor"),
        ({"do_normalize": False}, "do_normalize"),
    ],
)
def test_image_processors_that_do_something_else_are_refused(tmp_path, change, fault):
    config = ImageProcessor(image_size=56, pad_to_square=False).to_hf() | change
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=fault):
        ImageProcessor.from_hf(tmp_path)


def test_a_missing_or_broken_processor_file_is_named(tmp_path):
    with pytest.raises(UserError, match="preprocessor_config.json: no such file"):
        ImageProcessor.from_hf(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(UserError, match="not readable as JSON"):
        ImageProcessor.from_hf(tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "P", "I;16"])
def test_every_orientation_is_turned_as_pillow_turns_it(tmp_path, orientation, mode):
    exif = Image.Exif()
    exif[0x0112] = orientation
    grey = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)
    (grey if mode == "I;16" else noise(20, 30).convert(mode)).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    expected = expected >> 8 if mode == "I;16" else expected
    loaded = np.asarray(load_image(tmp_path / "turned.png"))
    assert loaded.shape[:2] == expected.shape[:2]
    if mode != "P":
        assert np.array_equal(loaded[..., 0], expected if expected.ndim == 2 else expected[..., 0])


@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG"])
def test_damaged_exif_data_turn_nothing_and_break_nothing(tmp_path, form):
    noise(20, 30).save(tmp_path / "odd", format=form, exif=b"Exif\0\0neither byte order, nor anything else")
    verify_image(tmp_path / "odd")
    assert load_image(tmp_path / "odd").size == (30, 20)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


BLANKS = zlib.compress(b" " * 3_000_000)
METADATA = {
    "profile": png_chunk(b"iCCP", b"p\0\0" + BLANKS),
    "compressed text": png_chunk(b"zTXt", b"Comment\0\0" + BLANKS),
    "international text": png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + BLANKS),
    "many texts": png_chunk(b"tEXt", b"Comment\0" + b"x" * 900_000) * 80,
    "a large XMP packet": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BLANKS),
}


@pytest.mark.parametrize("place", [33, -12], ids=["before the pixels", "behind them"])
@pytest.mark.parametrize("what", METADATA)
def test_a_sound_picture_is_read_however_much_metadata_it_has(tmp_path, what, place):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(20, 30).save(tmp_path / "image.png", exif=exif)
    expected = np.asarray(load_image(tmp_path / "image.png"))
    data = (tmp_path / "image.png").read_bytes()
    (tmp_path / "image.png").write_bytes(data[:place] + METADATA[what] + data[place:])
    assert np.array_equal(np.asarray(load_image(tmp_path / "image.png")), expected) and expected.shape == (30, 20, 3)
    verify_image(tmp_path / "image.png")
    (tmp_path / "image.png").write_bytes(data[:33] + METADATA[what] + data[33:-40])
    with pytest.raises(UserError, match="damaged or cut off"):
        verify_image(tmp_path / "image.png")


WIDE_GREY = np.array([[0, 0x8000, 0xFFFF]])


def test_wide_grey_values_are_kept_where_they_say_which_is_white(tmp_path):
    (tmp_path / "grey.pgm").write_bytes(b"P5\n3 1\n65535\n" + WIDE_GREY.astype(">u2").tobytes())
    assert np.asarray(load_image(tmp_path / "grey.pgm"))[0, :, 0].tolist() == [0, 128, 255]
    (tmp_path / "ten_bits.pgm").write_bytes(b"P5\n3 1\n1023\n" + np.array([0, 512, 1023], ">u2").tobytes())
    assert np.asarray(load_image(tmp_path / "ten_bits.pgm"))[0, :, 0].tolist() == [0, 128, 255]
    bytes_stored_widely = np.array([[0, 7, 255]])
    for kind in (np.int32, np.float32):
        Image.fromarray(bytes_stored_widely.astype(kind)).save(tmp_path / "wide.tiff")
        assert np.asarray(load_image(tmp_path / "wide.tiff"))[0, :, 1].tolist() == [0, 7, 255]


@pytest.mark.parametrize("function", [load_image, verify_image])
@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (WIDE_GREY.astype(np.int32), "from 0 to 65535 in 32 bits, which do not say which value is white"),
        (np.array([[-3, 9]], np.int32), "from -3 to 9"),
        (np.array([[0, 0.25, 1]], np.float32), "from 0 to 1 in 32 bits"),
        (np.array([[0, np.nan]], np.float32), "from nan to nan"),
    ],
)
def test_grey_values_without_a_white_are_refused(tmp_path, function, values, fault):
    Image.fromarray(values).save(tmp_path / "grey.tiff")
    with pytest.raises(UserError, match=f"grey.tiff: grey values {fault}"):
        function(tmp_path / "grey.tiff")


def test_twelve_bits_are_not_taken_for_sixteen(tmp_path):
    """Two values of 12 bits in three bytes."""
    tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 3}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = b"II*\0" + struct.pack("<I", 12) + bytes([0x80, 0x0F, 0xFF]) + b"\0"
    (tmp_path / "twelve.tiff").write_bytes(header + struct.pack("<H", len(tags)) + entries + b"\0" * 4)
    assert np.asarray(load_image(tmp_path / "twelve.tiff"))[0, :, 0].tolist() == [128, 255]


LONG = [(3, 500), (500, 3), (1, 2300), (2300, 1), (37, 2000), (2001, 90)]


@pytest.mark.parametrize(("width", "height"), LONG)
@pytest.mark.parametrize("size", [28, 56, 335])
def test_the_square_around_a_long_picture_is_the_same_without_being_made(monkeypatch, size, width, height):
    image = noise(height, width)
    processor = ImageProcessor(image_size=size)
    expected = processor(image)
    monkeypatch.setattr(images, "MAX_PIXELS", 1)
    assert np.array_equal(processor(image), expected)


@pytest.mark.parametrize(("width", "height"), [(3, 500), (500, 3), (1, 300), (27, 60), (60, 27)])
def test_the_centre_of_an_enlargement_is_the_same_without_the_rest(monkeypatch, width, height):
    image = noise(height, width)
    processor = ImageProcessor(image_size=56, pad_to_square=False)
    expected = processor(image)
    monkeypatch.setattr(images, "MAX_PIXELS", 1)
    assert np.array_equal(processor(image), expected)


STRIPS = """
import resource, sys
import numpy as np
from PIL import Image
from nemo_mm_align.schema.images import ImageProcessor, load_image, verify_image
folder, gib = sys.argv[1], 1 << 30
for shape in ((1, 60_000), (60_000, 1), (64, 1_000_000)):
    Image.fromarray(np.full((*shape, 3), 77, np.uint8)).save(f"{folder}/{shape[0]}.png")
resource.setrlimit(resource.RLIMIT_AS, (3 * gib, 3 * gib))  # the smallest of the three squares alone has 10 GiB
for shape in ((1, 60_000), (60_000, 1), (64, 1_000_000)):
    verify_image(f"{folder}/{shape[0]}.png")
    for pad in (True, False):
        pixels = ImageProcessor(image_size=336, pad_to_square=pad)(load_image(f"{folder}/{shape[0]}.png"))
        assert pixels.shape == (3, 336, 336), pixels.shape
(peak,) = [line.split() for line in open("/proc/self/status") if line.startswith("VmHWM")]  # rusage holds the parent's, too
assert int(peak[1]) < 1 << 20, peak
"""


def test_a_strip_takes_memory_for_itself_and_not_for_its_square(tmp_path):
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # each thread of NumPy's would reserve address space
    done = subprocess.run(
        [sys.executable, "-c", STRIPS, str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


def test_an_edge_has_a_bound(tmp_path):
    Image.new("L", (images.MAX_EDGE + 1, 1)).save(tmp_path / "thread.png")
    for function in (load_image, verify_image, read_image_bytes):
        with pytest.raises(UserError, match="thread.png: 1000001 x 1 pixels; an edge may have at most 1,000,000"):
            function(tmp_path / "thread.png")
