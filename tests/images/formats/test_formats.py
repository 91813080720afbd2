"""Every format that people have is read as its pictures look, whatever its files are called."""

import io
from typing import Any

import numpy as np
import pytest
import simplejpeg
import tifffile
import torch
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from skimage.color import rgb2lab

from data.config import EIGHT_BITS, IMAGE_SUFFIXES, MEASURED, PixelConfig
from data.decode import decode, open_image
from data.formats.alpha import ALPHA
from data.formats.openers import OPENERS
from data.formats.orientation import TURNED, TURNS, stored_box, upright
from data.formats.pil import FRAMES
from data.formats.sniffing import SIGNATURES

RNG = np.random.default_rng(0)
RAMPS = np.meshgrid(range(0, 240, 6), range(0, 240, 8))
SMOOTH = np.stack([*RAMPS, np.full((30, 40), 99)], -1)
PHOTO = SMOOTH.astype(np.uint8)  # which lossy formats keep


def saved(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, kind, **options)
    return file.getvalue()


def rows(encoded: bytes, in_chans: int | None = None, config: PixelConfig = EIGHT_BITS) -> Any:
    return decode(encoded, "jpg", in_chans, config).permute(1, 2, 0).numpy()


def test_one_table_has_an_opener_for_each_format_and_a_suffix_that_is_listed() -> None:
    kinds = [kind for kind, _ in SIGNATURES]
    assert sorted(OPENERS) == sorted(kinds)
    assert set(kinds) <= set(IMAGE_SUFFIXES)


@pytest.mark.parametrize("kind", ["BMP", "PPM", "JPEG2000", "PNG", "TIFF"])
def test_lossless_files_are_read_by_their_content_whatever_they_are_called(kind: str) -> None:
    assert np.array_equal(rows(saved(PHOTO, kind)), PHOTO)
    assert np.array_equal(rows(saved(PHOTO[..., 0], kind), 3), PHOTO[..., :1].repeat(3, 2))


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "HEIF"])
def test_lossy_files_look_like_what_was_saved(kind: str) -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener()
    assert np.abs(rows(saved(PHOTO, kind, quality=95)) - PHOTO.astype(int)).mean() < 4


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_stands_for_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (9, 8), colour) for colour in ("red", "blue", "lime")]
    encoded = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    picture = open_image(encoded, kind.lower(), 3)
    assert picture.opened.remarks == (FRAMES,)
    red, green, blue = picture.whole().reshape(-1, 3).astype(int).mean(0)
    assert red > 240 > 15 > max(green, blue)


def test_a_grey_map_of_16_bits_keeps_them() -> None:
    grey = RNG.integers(0, 65536, (5, 6)).astype(np.uint16)
    encoded = b"P5\n6 5\n65535\n" + grey.astype(">u2").tobytes()
    np.testing.assert_allclose(rows(encoded, 1, MEASURED)[..., 0], grey / 65535, atol=1e-7)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGBA;16", "TIFF", "TIFF;16"])
@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 30)])
def test_transparent_pictures_are_shown_on_the_background(
    mode: str, background: tuple[int, int, int]
) -> None:
    import imagecodecs

    image = np.concatenate([PHOTO, np.full((30, 40, 1), 255, np.uint8)], -1)
    image[:10, :, 3] = 0
    image[10:20, :, 3] = 51
    config = PixelConfig(background=background)
    deep = image.astype(np.uint16) * 257
    if mode == "RGBA;16":
        encoded = bytes(imagecodecs.png_encode(deep))
        config = PixelConfig(background=background, range=(0.0, 65535.0))
    elif mode.startswith("TIFF"):
        file = io.BytesIO()
        tifffile.imwrite(file, deep if "16" in mode else image, photometric="rgb")
        encoded = file.getvalue()
    elif mode == "P":
        image[10:20, :, 3] = 0
        encoded = saved(Image.fromarray(image).quantize(256), "PNG")
        image = np.array(Image.fromarray(image).quantize(256).convert("RGBA"))
    else:
        encoded = saved(Image.fromarray(image).convert(mode), "PNG")
        image = np.array(Image.fromarray(image).convert(mode).convert("RGBA"))
    alpha = image[..., 3:] / 255
    expected = image[..., :3] * alpha + np.array(background) * (1 - alpha)
    picture = open_image(encoded, "png", 3, config)
    assert picture.opened.remarks == (ALPHA,)
    shown = picture.read((0, 0, 30, 40)).permute(1, 2, 0).numpy()
    if mode == "LA" and len(set(background)) > 1:
        expected = expected @ np.array([0.299, 0.587, 0.114])[:, None]  # a grey picture stays so
    assert np.abs(shown - expected).max() < 1
    assert decode(encoded, "png", None, config).shape[0] == (1 if mode == "LA" else 3)
    four = open_image(encoded, "png", 4, config)
    assert four.opened.remarks == ()
    assert np.array_equal(four.read((0, 0, 30, 40))[3].numpy(), image[..., 3])


def test_an_opaque_picture_keeps_its_colours_to_the_bit() -> None:
    opaque = np.concatenate([PHOTO, np.full((30, 40, 1), 255, np.uint8)], -1)
    assert np.array_equal(rows(saved(opaque, "PNG")), PHOTO)


def test_colours_that_are_multiplied_by_alpha_already_are_not_multiplied_again() -> None:
    image = np.concatenate([PHOTO // 5, np.full((30, 40, 1), 51, np.uint8)], -1)
    file = io.BytesIO()
    tifffile.imwrite(file, image, photometric="rgb", extrasamples=["assocalpha"])
    expected = PHOTO // 5 + 255 * 0.8
    assert np.abs(rows(file.getvalue()) - expected).max() < 1


def test_a_fourth_band_that_is_no_alpha_is_a_channel() -> None:
    file = io.BytesIO()
    tifffile.imwrite(
        file, np.zeros((5, 6, 4), np.uint8), planarconfig="contig", photometric="minisblack"
    )
    picture = open_image(file.getvalue(), "tif")
    assert picture.whole().shape == (5, 6, 4)
    with pytest.raises(ValueError, match="has 4 channels of uint8, not in_chans=3"):
        open_image(file.getvalue(), "tif", 3).whole()


def exif(turn: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = turn
    return block


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "CMYK"])
def test_photographs_stand_upright_as_pil_turns_them(turn: int, kind: str) -> None:
    from PIL import ImageOps

    image = Image.fromarray(PHOTO).convert("CMYK" if kind == "CMYK" else "RGB")
    options = {"quality": 95} if kind in ("JPEG", "CMYK") else {}
    options |= {"lossless": True} if kind == "WEBP" else {}
    file_kind = "JPEG" if kind == "CMYK" else kind
    encoded = saved(image, file_kind, exif=exif(turn), **options)
    reference = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert("RGB")
    picture = open_image(encoded, "jpg", 3)
    assert (picture.height, picture.width) == reference.size[::-1]
    assert np.abs(picture.whole() - np.asarray(reference).astype(int)).max() <= 1
    box = (3, 5, 17, 11)
    part = picture.read(box).permute(1, 2, 0).numpy()
    assert np.array_equal(part, picture.whole()[3:20, 5:16])
    assert picture.opened.remarks == (() if turn == 1 else (TURNED,))


@pytest.mark.parametrize("turn", TURNS)
def test_a_box_of_the_upright_image_is_found_in_the_stored_one(turn: int) -> None:
    stored = RNG.integers(0, 256, (12, 9, 1), dtype=np.uint8)
    whole = upright(stored, turn)
    box = (2, 1, 5, 4)
    top, left, height, width = stored_box(box, len(whole), whole.shape[1], turn)
    part = upright(stored[top : top + height, left : left + width], turn)
    assert np.array_equal(part, whole[2:7, 1:5])


def test_a_turned_photograph_is_decoded_at_a_reduced_scale_too() -> None:
    content = simplejpeg.encode_jpeg(np.ascontiguousarray(PHOTO.repeat(8, 0).repeat(8, 1)))
    turned = content[:2] + app1(exif(6).tobytes()) + content[2:]
    picture = open_image(turned, "jpg", 3)
    assert (picture.height, picture.width) == (320, 240)
    reduced = picture.read((0, 0, 320, 240), (40, 30))
    assert reduced.shape == (3, 40, 30)
    exact = torch.from_numpy(np.ascontiguousarray(np.rot90(PHOTO, -1))).permute(2, 0, 1)
    assert (reduced.int() - exact.int()).abs().float().mean() < 3


def app1(block: bytes) -> bytes:
    return b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block


@pytest.mark.parametrize("block", [b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0nonsense of any kind"])
def test_damaged_exif_leaves_a_photograph_as_it_is_stored(block: bytes) -> None:
    content = saved(PHOTO, "JPEG")
    assert open_image(content[:2] + app1(block) + content[2:], "jpg").opened.turn == 1


@pytest.mark.parametrize(
    ("shape", "in_chans", "height", "channels"),
    [
        ((13, 64, 60), None, 64, 13),
        ((13, 64, 60), 13, 64, 13),
        ((13, 64, 60), 60, 13, 60),  # the number of channels decides
        ((1, 20, 30), 3, 20, 3),
        ((60, 64, 80), 80, 60, 80),
        ((20, 30, 13), None, 20, 13),
        ((12, 12, 12), None, 12, 12),
    ],
)
def test_the_shortest_axis_of_an_array_is_that_of_its_channels(
    shape: tuple[int, ...], in_chans: int | None, height: int, channels: int
) -> None:
    image = RNG.integers(0, 256, shape, dtype=np.uint8)
    file = io.BytesIO()
    np.save(file, image)
    picture = open_image(file.getvalue(), "npy", in_chans)
    first = height == shape[1] != shape[0]
    assert picture.height == height
    assert picture.whole().shape[2] == channels
    assert np.array_equal(
        picture.whole()[..., :1], (image.transpose(1, 2, 0) if first else image)[..., :1]
    )
    assert [f"{shape[0]} channels" in line for line in picture.opened.remarks] == [True] * first


def test_the_largest_image_of_a_tiff_is_taken_not_the_thumbnail_before_it() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tiff:
        tiff.write(PHOTO[::4, ::4], photometric="rgb")
        tiff.write(PHOTO, photometric="rgb")
    assert np.array_equal(rows(file.getvalue()), PHOTO)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "jpeg"])
def test_a_tiff_in_ycbcr_has_the_colours_that_it_shows(compression: str | None) -> None:
    image = Image.fromarray(PHOTO).convert("YCbCr")
    encoded = saved(image, "TIFF", compression=compression)
    assert np.abs(rows(encoded) - PHOTO.astype(int)).mean() < 5


def test_a_tiff_in_lab_has_the_colours_that_it_shows() -> None:
    lab = rgb2lab(PHOTO)
    stored = np.rint(np.stack([lab[..., 0] * 2.55, lab[..., 1] % 256, lab[..., 2] % 256], -1))
    file = io.BytesIO()
    tifffile.imwrite(file, stored.clip(0, 255).astype(np.uint8), photometric="cielab")
    assert np.abs(rows(file.getvalue()) - PHOTO.astype(int)).mean() < 8


def dicom(image: np.ndarray, photometric: str, **fields: Any) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.Rows, dataset.Columns = image.shape[:2]
    dataset.SamplesPerPixel = 3 if image.ndim == 3 else 1
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = dataset.BitsStored = image.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(image.dtype.kind == "i")
    if image.ndim == 3:
        dataset.PlanarConfiguration = 0
    for name, value in fields.items():
        setattr(dataset, name, value)
    dataset.PixelData = image.tobytes()
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def test_dicom_is_rescaled() -> None:
    stored = RNG.integers(0, 4096, (6, 8)).astype(np.uint16)
    encoded = dicom(stored, "MONOCHROME2", RescaleSlope=1, RescaleIntercept=-1024)
    whole = open_image(encoded, "dcm").whole()
    assert whole.dtype == np.int32
    assert np.array_equal(whole[..., 0], stored.astype(int) - 1024)
    config = PixelConfig(pixels="float32", range=(-1000.0, 1000.0))
    expected = ((stored - 1024.0 + 1000) / 2000).clip(0, 1)
    np.testing.assert_allclose(rows(encoded, 1, config)[..., 0], expected, atol=1e-6)
    with pytest.raises(ValueError, match="int32 pixels have no known range"):
        rows(encoded, 1)


def test_dicom_whose_least_value_is_white_is_inverted() -> None:
    stored = RNG.integers(0, 4096, (6, 8)).astype(np.uint16)
    encoded = dicom(stored, "MONOCHROME1", BitsStored=12, HighBit=11)
    assert np.array_equal(open_image(encoded, "dcm").whole()[..., 0], 4095 - stored)


def test_dicom_colours_are_red_green_and_blue() -> None:
    assert np.array_equal(rows(dicom(PHOTO, "RGB")), PHOTO)
    ycc = np.array(Image.fromarray(PHOTO).convert("YCbCr"))
    assert np.abs(rows(dicom(ycc, "YBR_FULL")) - PHOTO.astype(int)).max() <= 3
    index = RNG.integers(0, 4, (6, 8), dtype=np.uint8)
    table = np.array([0, 50, 100, 255], np.uint8)
    palette: dict[str, Any] = {}
    for name, values in (("Red", table), ("Green", table[::-1]), ("Blue", table * 0)):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [4, 0, 8]
        palette[f"{name}PaletteColorLookupTableData"] = values.tobytes()
    found = rows(dicom(index, "PALETTE COLOR", **palette))
    assert np.array_equal(found, np.stack([table, table[::-1], table * 0], -1)[index])


def test_dicom_of_several_frames_is_refused() -> None:
    image = np.zeros((60, 8), np.uint8)
    encoded = dicom(image, "MONOCHROME2", Rows=6, NumberOfFrames=10)
    with pytest.raises(ValueError, match="a stack of 10 images: save one image a file"):
        open_image(encoded, "dcm")


def test_complex_numbers_are_no_pixels_whatever_the_range() -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, np.ones((8, 8), np.complex64))
    with pytest.raises(ValueError, match="complex64 values are no pixels"):
        decode(file.getvalue(), "tif", 1, PixelConfig(pixels="float32", range=(0.0, 2.0)))
