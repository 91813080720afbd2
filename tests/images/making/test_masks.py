"""Masks as people have them become class numbers, or are refused with the rule."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from data.making.entries import Entry
from data.making.mask_files import encode_mask, read_values, to_classes
from data.making.masks import describe_masks, values_of, with_masks
from data.pixel_labels import read_mask
from data.shards.index import read_index
from data.shards.reading import read_sample
from tests.support.images import encoded, make_image, png, write_images
from tests.support.programs import run

CLASSES = np.arange(12, dtype=np.uint8).reshape(3, 4)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_palette(kind: str, **options: object) -> bytes:
    """Indices whose colours are others: white, black, red and so on."""
    colours = Image.frombytes("P", (4, 3), CLASSES.tobytes())
    colours.putpalette([255, 255, 255, 0, 0, 0, 255, 0, 0, *range(9, 36)])
    return saved(colours, kind, **options)


def as_npy() -> bytes:
    file = io.BytesIO()
    np.save(file, CLASSES.astype(np.int64))
    return file.getvalue()


def as_tiff() -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, CLASSES.astype(np.uint16))
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        saved(Image.fromarray(CLASSES), "PNG"),
        saved(Image.fromarray(CLASSES), "BMP"),
        saved(Image.fromarray(CLASSES.repeat(3).reshape(3, 4, 3)), "PNG"),
        with_palette("PNG"),
        with_palette("PNG", bits=4),
        with_palette("GIF"),
        with_palette("BMP"),
        as_npy(),
        as_tiff(),
    ],
)
def test_masks_of_every_format_give_their_values(content):
    np.testing.assert_array_equal(read_values(content), CLASSES)


def test_masks_with_colours_or_lost_values_are_refused():
    for content, message in (
        (png(0), "seg.png has colours: store class numbers, in grey or with a palette"),
        (saved(Image.fromarray(CLASSES), "JPEG"), "a mask in jpg is not read: store a PNG"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            read_values(content)


def test_values_become_the_classes_in_their_order():
    mask = np.array([[0, 128, 255], [0, 0, 128]])
    assert to_classes(mask, (0, 128, 255)).tolist() == [[0, 1, 2], [0, 0, 1]]
    assert to_classes(mask, (128, 0)).tolist() == [[1, 0, 255], [1, 1, 0]]
    assert to_classes(mask, ()).tolist() == mask.tolist()
    with pytest.raises(ValueError, match=r"it has the value 128, no class \(one of 0, 7\)"):
        to_classes(mask, (0, 7))
    with pytest.raises(ValueError, match=r"it has the value 300, no class \(0 to 254\)"):
        to_classes(mask + 45, ())
    with pytest.raises(ValueError, match=r"--mask-values 0,x must be different whole numbers"):
        values_of("0,x")


def test_what_masks_hold_is_said_and_one_class_is_refused():
    assert describe_masks({0: 75, 1: 20, 4: 5, 255: 9}, ()) == (
        "masks of 5 classes: 0 75.00%, 1 20.00%, 4 5.00%; 9 pixels of 255 are ignored;"
        " never there: class 2, 3"
    )
    assert describe_masks({0: 1, 1: 1}, (0, 128, 255)).endswith("never there: class 2")
    assert describe_masks({0: 3, 127: 1}, ()).endswith(
        "class 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 116 more: if the values are not the numbers of"
        " classes, name them, as --mask-values 0,127"
    )
    with pytest.raises(ValueError, match=r"are 0 or 255, .* --mask-values 0,255 makes them the"):
        describe_masks({0: 1, 255: 1}, ())
    with pytest.raises(ValueError, match=r"all pixels of all masks are of class 0, from which"):
        describe_masks({0: 1}, ())


def entry(path: Path, key: str = "", mask: Path | None = None) -> Entry:
    return Entry(path=path, key=key or path.stem.replace(".", "_"), mask=mask)


def test_masks_are_found_by_the_names_of_their_images(tmp_path):
    masks = tmp_path / "masks"
    for name in ("a_mask.png", "b.bmp", "c.1-seg.tif", "x/e.png", "y/e.png", "spare.png"):
        (masks / name).parent.mkdir(parents=True, exist_ok=True)
        (masks / name).touch()
    images = [entry(tmp_path / f"{name}.jpg") for name in ("a", "b", "c.1", "d")]
    images.append(entry(tmp_path / "y" / "e.jpg", key="y/e"))
    found, notes = with_masks(images, str(masks), tmp_path, tmp_path)
    names = ["a_mask.png", "b.bmp", "c.1-seg.tif", None, "y/e.png"]
    assert [e.mask for e in found] == [name and masks / name for name in names]
    assert notes == [
        f"{masks}: 2 masks belong to no image and are left out",
        f"1 of 5 images have no mask, such as {tmp_path / 'd.jpg'}: they are taken without one",
    ]


def test_masks_that_may_belong_to_others_are_refused(tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for name in ("a.png", "a.bmp", "b.png"):
        (masks / name).touch()
    for images, message in (
        ([entry(tmp_path / "a.jpg")], "may both be the mask of"),
        ([entry(tmp_path / d / "b.jpg", key=f"{d}/b") for d in "xy"], "b.png may be the mask of"),
        ([entry(tmp_path / "z.jpg")], "none of the 1 images has a mask in"),
    ):
        with pytest.raises(ValueError, match=message):
            with_masks(images, str(masks), tmp_path, tmp_path)
    with pytest.raises(ValueError, match="--masks nowhere is no folder, and no column of a table"):
        with_masks([entry(tmp_path / "a.jpg")], "nowhere", tmp_path, tmp_path)


def test_a_mask_shrinks_with_its_image_and_one_of_another_size_is_refused(tmp_path):
    make_image(tmp_path / "a.png", 0)  # 12 x 10 pixels
    halves = np.zeros((12, 10), np.uint8)
    halves[6:] = 7
    mask = tmp_path / "m.png"
    mask.write_bytes(encoded(halves))
    image = entry(tmp_path / "a.png", mask=mask)
    stored, pixels = encode_mask(image, png(0, (6, 5)), ())
    assert pixels == {0: 15, 7: 15}
    np.testing.assert_array_equal(read_values(stored), halves[::2, ::2])
    mask.write_bytes(encoded(halves[:, :9]))
    with pytest.raises(
        ValueError, match=r"m\.png: it has 12 x 9 pixels, its image .*a\.png 12 x 10"
    ):
        encode_mask(image, png(0, (6, 5)), ())


def test_a_table_of_masks_becomes_shards_with_seg_png(tmp_path):
    write_images(tmp_path, 4)
    (tmp_path / "m").mkdir()
    for i in range(4):
        (tmp_path / "m" / f"{i}.png").write_bytes(
            encoded(np.full((12, 10), 255 * (i % 2), np.uint8))
        )
    rows = "".join(f"image{i}.png,m/{i}.png\n" for i in range(4))
    (tmp_path / "t.csv").write_text(f"path,mask\n{rows}")
    command = ("scripts/make_shards.py", tmp_path / "t.csv", tmp_path / "o", "--workers", 1)
    done = run(*command, "--masks", "mask")
    assert done.returncode == 1
    assert "--mask-values 0,255 makes them the classes 0 and 1" in done.stderr
    assert list((tmp_path / "o").iterdir()) == []
    done = run(*command, "--masks", "mask", "--mask-values", "0,255")
    assert done.returncode == 0, done.stderr
    assert "masks of 2 classes: 0 50.00%, 1 50.00%\n" in done.stdout
    (shard,) = read_index(str(tmp_path / "o")).values()
    for i in range(4):
        sample = read_sample(shard, i)
        number = int(str(sample["__key__"]).removeprefix("image"))
        mask = read_mask(sample).numpy()
        assert mask.tolist() == [[number % 2] * 10] * 12
        assert "json" not in sample
