"""The data sets whose images come with the checkout: where they are, how they are made and checked.

A whole group is either in train or in test, since a random split would leak. The groups for the
test are those with the smallest SHA-256, so the split does not depend on the order of anything.
"""

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from data.shards.index import INDEX, Shard
from data.shards.reading import open_shards, read_sample
from data.shards.writing import write_shards
from fcmae.run.files import text_sha256, write_json
from fcmae.run.tables import print_table
from fcmae.run.terminal import say
from fcmae.run.waiting import counted

ROOM = Path(__file__).parents[1]
TEST_SHARE = 0.2  # share of the groups

Split = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A data set in a folder of the checkout that has its name."""

    name: str
    """Name of its folder in `data/` and of the command that makes it."""
    about: str
    """What it shows, in a few words."""
    needs: str
    """What the command that makes it needs."""
    classes: Sequence[str]
    """The names of its classes, in the order of their numbers."""
    train_shards: int
    """Number of its training shards; the test images are in one."""

    @property
    def folder(self) -> Path:
        """The folder with its shards."""
        return ROOM / self.name

    @property
    def train(self) -> str:
        """The pattern of its training shards."""
        return f"{self.folder}/train-{{000000..{self.train_shards - 1:06d}}}.tar.gz"

    @property
    def test(self) -> str:
        """The path of its test shard."""
        return f"{self.folder}/test-000000.tar.gz"

    def write(
        self, out: Path, train: Sequence[Mapping[str, Any]], test: Sequence[Mapping[str, Any]]
    ) -> list[Shard]:
        """Write its samples and classes.json to a folder, where they replace earlier ones.

        Raises:
            ValueError: There are no samples to train on, or none to test with.
            OSError: They cannot be written.
        """
        for old in (*out.glob("train-*.tar.gz"), *out.glob("test-*.tar.gz"), out / INDEX):
            old.unlink(missing_ok=True)
        shards = write_shards(train, out, "train", -(-len(train) // self.train_shards), True)
        shards += write_shards(test, out, "test", len(test), compress=True)
        write_json(out / "classes.json", self.classes)
        say(f"{len(train)} train and {len(test)} test images in {out}")
        return shards

    def check(self) -> None:
        """Compare the shards with the hashes in their index, and count the images of each class.

        Raises:
            OSError: A shard is missing.
            ValueError: A shard is not what the index lists.
        """
        counts: dict[Split, Counter[int]] = {}
        plan: tuple[tuple[Split, str], ...] = (("train", self.train), ("test", self.test))
        for split, spec in plan:
            shards = open_shards(spec)
            places = [(shard, i) for shard in shards for i in range(shard.samples)]
            reading = counted(places, f"reading {split} samples", len(places), "samples")
            counts[split] = Counter(int(read_sample(*place)["cls"]) for place in reading)
        sides = (counts["train"], counts["test"])
        rows = [(name, *(side[label] for side in sides)) for label, name in enumerate(self.classes)]
        rows.append(("all", *(side.total() for side in sides)))
        print_table("", ["class", "train", "test"], rows)


def held_out(groups: Iterable[str]) -> set[str]:
    """The groups for the test: the share `TEST_SHARE` with the smallest SHA-256."""
    ordered = sorted(set(groups), key=text_sha256)
    return set(ordered[: round(TEST_SHARE * len(ordered))])


def encode_png(image: Image.Image) -> bytes:
    """Encode an image without loss. Of colours, at most 256 make a palette, which halves the size.

    Args:
        image: in grey or in RGB.
    """
    if image.mode == "RGB":
        pixels = np.asarray(image)
        colours, index = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
        if len(colours) <= 256:
            image = Image.fromarray(index.reshape(pixels.shape[:2]).astype(np.uint8))
            image.putpalette(colours.tobytes())
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()


def tell(sets: Sequence[Embedded]) -> None:
    """Print the patterns of the shards of data sets, for --data.train and --data.test.

    Raises:
        FileNotFoundError: this is an installed wheel, which has none.
    """
    for one in sets:
        if not Path(one.test).is_file():
            raise FileNotFoundError(
                f"the embedded images come with a checkout, not with the wheel: fcmae {one.name}"
                f" build --out datasets/{one.name} makes them, with {one.needs}"
            )
        say(f"{one.about}:", f"--data.train '{one.train}'", f"--data.test '{one.test}'")
