"""Make WebDataset shards from images.

    fcmae shards make SOURCE OUT_DIR

SOURCE is a folder, with a sub-folder for each class (`SOURCE/CLASS/.../image.jpg`) or of images
alone, or a table (.csv, .tsv, .json, .jsonl, .parquet): a column of paths or of images, perhaps one
of labels, and metadata; or a data set of the Hugging Face hub, or of its library `datasets`.
Folders `SOURCE/train/CLASS`, `SOURCE/val/CLASS` and `SOURCE/test/CLASS`, or a column `split`,
become shards of these names. The label of a class is its place in `OUT_DIR/classes.json`: the
sorted names of the first labelled images, to which later ones, such as a test set, must keep. Names
that are all whole numbers, of folders as in tables, are the labels themselves.
The bytes of files are copied, and not encoded again unless --max-side shrinks them.

Shards are made in parallel. A command that was killed can be repeated: it makes the missing shards,
with the same bytes as without the kill; one that has finished finds all of them there.
"""

from collections.abc import Sequence

import tyro

from data.making.make import MakeShards, make
from fcmae.run.program import run_program
from fcmae.run.ranges import checked


def main(argv: Sequence[str]) -> None:
    """Write the shards, and print what was written."""
    make(checked(tyro.cli(MakeShards, description=__doc__, args=list(argv))))


if __name__ == "__main__":
    run_program(main)
