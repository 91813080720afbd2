"""Every format to the channels and the depth asked for; reduced JPEGs close to whole ones."""

import io
import random
import struct
from typing import Any

import imagecodecs
import numpy as np
import pytest
import simplejpeg
import tifffile
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from data.config import MEASURED, PixelConfig
from data.decode import MAX_PIXELS, OversizedImage, decode, open_image
from data.transforms import Crop
from tests.support.images import photograph


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    top = 1 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max
    return (np.random.default_rng(0).random(shape) * top).astype(dtype)


def encoded(image: np.ndarray, suffix: str, **options: Any) -> bytes:
    file = io.BytesIO()
    if suffix == "npy":
        np.save(file, image)
    elif suffix == "tif":
        kind = "rgb" if image.shape[-1] == 3 else "minisblack"
        tifffile.imwrite(file, image, **{"photometric": kind, **options})
    else:
        Image.fromarray(image).save(file, {"jpg": "jpeg"}.get(suffix, suffix), **options)
    return file.getvalue()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "npy"])
@pytest.mark.parametrize(("shape", "in_chans"), [((20, 30), 1), ((20, 30, 3), 3), ((20, 30, 3), 1)])
def test_photographs_decode_to_the_channels_asked_for(suffix, shape, in_chans):
    image = decode(encoded(noise(*shape), suffix), suffix, in_chans)
    assert image.dtype == torch.uint8
    assert image.shape == (in_chans, 20, 30)


@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_lossless_formats_give_back_their_pixels(suffix):
    image = noise(7, 9, 3)
    assert np.array_equal(decode(encoded(image, suffix), suffix).permute(1, 2, 0).numpy(), image)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "CMYK"])
def test_unusual_modes_become_rgb(mode):
    file = io.BytesIO()
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.fromarray(noise(8, 8, 3)).convert(mode).save(file, "jpeg" if suffix == "jpg" else "png")
    assert decode(file.getvalue(), suffix, 3).shape == (3, 8, 8)


@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_16_bits_keep_the_upper_8_or_become_a_share_of_the_range(suffix):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    content = encoded(ramp, suffix)
    assert np.array_equal(decode(content, suffix, 1)[0].numpy(), ramp >> 8)
    whole = decode(content, suffix, 1, MEASURED)
    np.testing.assert_allclose(whole[0].numpy(), ramp / 65535, atol=1e-7)


@pytest.mark.parametrize("options", [{"planarconfig": "separate"}, {"planarconfig": "contig"}])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_a_satellite_tile_of_13_bands_keeps_them_all(options, compression):
    bands = noise(16, 12, 13, dtype=np.uint16)
    stored = bands.transpose(2, 0, 1) if options["planarconfig"] == "separate" else bands
    content = encoded(stored, "tif", compression=compression, **options)
    tile = decode(content, "tif", 13, MEASURED)
    np.testing.assert_allclose(tile.numpy(), bands.transpose(2, 0, 1) / 65535, atol=1e-7)


def test_floats_stay_as_they_are():
    image = noise(5, 6, 2, dtype=np.float64)
    np.testing.assert_allclose(
        decode(encoded(image, "npy"), "npy", 2, MEASURED).permute(1, 2, 0).numpy(),
        image.astype(np.float32),
    )


@pytest.mark.parametrize(
    ("image", "suffix", "in_chans", "pixels", "message"),
    [
        (noise(4, 4, 13), "npy", 3, "uint8", "has 13 channels of uint8, not in_chans=3"),
        (noise(4, 4, 3), "png", 13, "uint8", "in_chans=13: images of this format decode to"),
        (noise(4, 4, dtype=np.float32), "npy", 1, "uint8", "float32 pixels do not fit into 8 bits"),
        (noise(4, 4, dtype=np.int32), "npy", 1, "float32", "int32 pixels have no known range"),
        (np.full((4, 4), np.inf), "npy", 1, "float32", "some pixels are infinite"),
        (np.full((4, 4), np.nan), "npy", 1, "uint8", "float64 pixels do not fit into 8 bits"),
        (noise(60, 64, 64), "npy", 3, "uint8", r"may be a stack of 60 images"),
        (noise(60, 64, 64), "tif", 3, "uint8", r"it is a stack of 60 images"),
        (noise(4, 4, 4), "npy", 3, "uint8", "has 4 channels of uint8, not in_chans=3"),
        (noise(4, 4).astype(np.complex64), "npy", 1, "float32", "complex64 values are no pixels"),
        (noise(4), "npy", 1, "uint8", r"shape \(4,\) is no image"),
        (noise(2, 4, 4, 5), "tif", 1, "uint8", "rows, columns, bands wanted"),
    ],
)
def test_what_cannot_be_had_is_named(image, suffix, in_chans, pixels, message):
    with pytest.raises(ValueError, match=message):
        decode(encoded(image, suffix), suffix, in_chans, PixelConfig(pixels=pixels))


@pytest.mark.parametrize("pixels", ["uint8", "float32"])
def test_a_range_of_deep_images_does_not_darken_those_of_8_bits(pixels):
    config = PixelConfig(pixels=pixels, range=(0.0, 4095.0))
    with pytest.raises(
        ValueError, match=r"8 bits, of which data\.range 0 4095, meant for images of"
    ):
        decode(encoded(noise(4, 4), "png"), "png", 1, config)
    narrow = PixelConfig(pixels=pixels, range=(50.0, 200.0))
    bright = decode(encoded(np.full((4, 4), 200, np.uint8), "png"), "png", 1, narrow)
    assert bright.float().mean() == (255 if pixels == "uint8" else 1)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "npy"])
@pytest.mark.parametrize("keep", [0, 8, 300])
def test_damaged_images_of_any_format_are_named(suffix, keep):
    content = encoded(noise(40, 40, 3), suffix)[:keep]
    with pytest.raises(ValueError, match="cannot be decoded as an image"):
        decode(content, suffix, 3)


def test_a_decompression_bomb_is_refused_from_its_header():
    side = int(MAX_PIXELS**0.5) + 1
    bomb = encoded(np.zeros((side, side), bool), "png", bits=1)
    with pytest.raises(ValueError, match=r"exceed the limit|decompression bomb"):
        open_image(bomb, "png")
    header = simplejpeg.encode_jpeg(noise(16, 16, 3))
    at = header.index(b"\xff\xc0") + 5  # height and width in the frame header
    with pytest.raises(ValueError, match="60000 x 60000 pixels exceed the limit of"):
        open_image(header[:at] + (60000).to_bytes(2, "big") * 2 + header[at + 4 :], "jpg")


def test_many_bands_are_a_bomb_too():
    content = bytearray(encoded(noise(2, 2, 60000), "tif", planarconfig="contig"))
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        for side in ("ImageWidth", "ImageLength"):
            tag = tiff.pages[0].tags[side]  # pyright: ignore[reportAttributeAccessIssue]
            content[tag.valueoffset : tag.valueoffset + 2] = struct.pack("<H", 8000)
    with pytest.raises(OversizedImage, match="exceeds the limit of 357913940 values"):
        open_image(bytes(content), "tif")


def test_an_array_that_promises_more_than_its_bytes_is_refused_without_allocating_it():
    file = io.BytesIO()
    header = {"descr": "<u2", "fortran_order": False, "shape": (10**6, 10**6, 1000)}
    np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(ValueError, match="cannot be decoded as an image"):
        open_image(file.getvalue() + b"few", "npy")


@pytest.mark.parametrize("order", ["<u2", ">u2"])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_arrays_of_any_byte_order_and_layout_keep_their_pixels(order, layout):
    image = np.asarray(noise(5, 6, 4, dtype=np.uint16).astype(order), order=layout)
    pixels = decode(encoded(image, "npy"), "npy", 4, MEASURED).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(pixels, image.astype("=u2") / 65535, atol=1e-7)


@pytest.mark.parametrize("mode", ["P", "CMYK", "1"])
def test_tiffs_of_indices_inks_or_inverted_grey_become_the_colours_they_show(mode):
    file = io.BytesIO()
    Image.fromarray(photograph(16, 16)).convert(mode).save(file, "tiff")
    shown = np.array(Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
    found = decode(file.getvalue(), "tif", 3).permute(1, 2, 0).numpy()
    assert np.array_equal(found, shown)
    grey = noise(6, 7)
    inverted = encoded(grey, "tif", photometric="miniswhite")
    assert np.array_equal(decode(inverted, "tif", 1)[0].numpy(), 255 - grey)


@pytest.mark.parametrize("encode", [imagecodecs.png_encode, imagecodecs.jpeg2k_encode])
def test_colours_of_16_bits_keep_them_where_they_are_asked_for(encode):
    image = noise(40, 50, 3, dtype=np.uint16)
    options = {"level": 0, "reversible": True} if encode is imagecodecs.jpeg2k_encode else {}
    content = bytes(encode(image, **options))
    upper = decode(content, "png", 3).permute(1, 2, 0).numpy()
    assert np.array_equal(upper, image >> 8)
    whole = decode(content, "png", 3, MEASURED).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(whole, image / 65535, atol=1e-7)


def test_colours_of_16_bits_in_a_ppm_are_refused_where_they_would_be_cut():
    content = b"P6 # of a camera\n5 4\n65535\n" + noise(4, 5, 3, dtype=np.uint16).tobytes()
    assert decode(content, "ppm", 3).shape == (3, 4, 5)
    with pytest.raises(ValueError, match="would lose 8 bits: store a PNG, TIFF"):
        decode(content, "ppm", 3, MEASURED)


@pytest.mark.parametrize("in_chans", [1, 3])
def test_a_jpeg_with_stray_bytes_is_read_as_pil_reads_it(in_chans):
    content = encoded(photograph(1001, 777), "jpg", quality=90)
    stray = content[:-2] + b"\x00\x11\x22" + content[-2:]
    whole = np.array(Image.open(io.BytesIO(stray)).convert({1: "L", 3: "RGB"}[in_chans]))
    found = decode(stray, "jpg", in_chans).permute(1, 2, 0).numpy()
    # PIL's grey comes from RGB, the decoder's is the luma of the file: they differ in rounding
    assert np.abs(found - whole.reshape(found.shape).astype(int)).max() <= (
        3 if in_chans == 1 else 0
    )
    box, size = (3, 5, 900, 700), (100, 100)
    reduced = open_image(stray, "jpg", in_chans).read(box, size)
    assert psnr(reduced, open_image(content, "jpg", in_chans).read(box, size)) > 32


def test_other_formats_under_these_suffixes_are_refused():
    with pytest.raises(ValueError, match=r"no known format, though its name ends in .png"):
        decode(encoded(noise(8, 8, 3), "eps"), "png", 3)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    error = (a.double() - b.double()).square().mean()
    return float(10 * torch.log10(255**2 / error))


def crops(
    height: int, width: int, size: tuple[int, int]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Crops as they are made, beside torchvision's of the fully decoded image, same boxes."""
    content = simplejpeg.encode_jpeg(photograph(height, width), quality=90)
    picture = open_image(content, "jpg", 3)
    whole = torch.from_numpy(np.array(Image.open(io.BytesIO(content)))).permute(2, 0, 1)
    crop, pairs = Crop((0.2, 1.0), False), []
    for seed in range(12):
        ours = crop(picture, size, random.Random(seed))
        box = crop.box(height, width, random.Random(seed))
        full = F.resized_crop(whole, *box, list(size), InterpolationMode.BICUBIC, antialias=True)
        pairs.append((ours, full))
    return pairs


def test_crops_of_small_photographs_stay_close_to_those_of_torchvision():
    # no reduction is possible: the quick transform and its plain upsampling of colours remain
    assert min(psnr(ours, full) for ours, full in crops(375, 500, (224, 224))) > 40


def test_exact_pixels_are_those_of_pil():
    content = simplejpeg.encode_jpeg(photograph(375, 500), quality=90)
    whole = np.array(Image.open(io.BytesIO(content)))
    assert np.abs(decode(content, "jpg").permute(1, 2, 0).numpy() - whole.astype(int)).max() <= 1


def test_crops_decoded_at_a_reduced_scale_stay_close_to_those_of_the_whole_image():
    values = [psnr(ours, full) for ours, full in crops(1500, 2000, (224, 224))]
    # JPEG at quality 90 is itself about 40 dB from its original
    assert min(values) > 38


def test_a_reduced_box_has_the_size_asked_for_at_least():
    picture = open_image(simplejpeg.encode_jpeg(noise(1001, 777, 3)), "jpg", 3)
    for box in ((0, 0, 1001, 777), (3, 5, 500, 501), (800, 700, 201, 77), (1, 1, 1000, 776)):
        for size in ((64, 64), (33, 120), (224, 224)):
            got = picture.read(box, size).shape[1:]
            for side, wanted, most in zip(got, size, box[2:], strict=True):
                assert min(wanted, most) <= side <= most
