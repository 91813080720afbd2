"""The parts of a file of features: Parquet files of their own until all of them are there.

The name of a part has the SHA-256 of its content, by which a damaged one is known, and made again.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from data.bad_samples import BadSample, BadSamples
from data.targets import to_integer
from fcmae.run.config import differences
from fcmae.run.files import file_sha256, replacing, write_json
from fcmae.run.json_files import read_json
from fcmae.run.waiting import counted
from finetune.frozen.feature_file import EARLIER, arrow

PLAN = "plan.json"  # in the folder of parts: what they depend on
BAD = "broken"  # in the metadata of a part: the samples that it left out
DICTIONARY = ["url"]  # columns whose values repeat


@dataclass(frozen=True)
class Piece:
    """Samples whose features are one part: their batches, and where parts lie, as what number."""

    batches: list[range]
    folder: Path
    number: int

    def candidates(self) -> list[Path]:
        """The files of its part, of which there is one; or more, where some are damaged."""
        return sorted(self.folder.glob(f"part-{self.number:07d}-*.parquet"))

    def finished(self) -> Path | None:
        """The file of its part, if it is there, and whole."""
        whole = (file for file in self.candidates() if file.stem.endswith(file_sha256(file)))
        return next(whole, None)


def pieces_of(samples: int, size: int, batch_size: int, folder: Path) -> list[Piece]:
    """All samples, in pieces.

    Args:
        samples: the number of all of them.
        size: samples of a piece.
        batch_size: samples of a batch.
        folder: of the parts.
    """
    return [
        Piece(cut(run, batch_size), folder, i) for i, run in enumerate(cut(range(samples), size))
    ]


def cut(samples: range, size: int) -> list[range]:
    """Cut samples into runs of `size`, pieces or batches; the last one may be smaller."""
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def unfinished(
    pieces: Sequence[Piece],
    folder: Path,
    plan: Mapping[str, Any],
    bad: BadSamples,
    accelerator: Accelerator,
) -> list[Piece]:
    """The pieces that have no part yet.

    Args:
        pieces: all of them.
        folder: of the parts; it is made, and the plan written into it, where there is none.
        plan: what the parts depend on, to be written as JSON.
        bad: takes in the samples that finished parts have left out.
        accelerator: of the processes, each of which has to call it.

    Raises:
        OSError: the folder cannot be used.
        ValueError: the folder holds parts of another plan; too many bad samples.
    """
    file = folder / PLAN
    wanted = json.loads(json.dumps(plan))
    progress = None
    if accelerator.is_main_process:
        if not file.exists():
            shutil.rmtree(folder, ignore_errors=True)  # parts of no plan are nobody's
            write_json(file, wanted, compact=True)
        looking = counted(pieces, "verifying finished parts", len(pieces), "parts")
        parts = {piece.number: piece.finished() for piece in looking}
        lacking = {number: left_out(part) for number, part in parts.items() if part is not None}
        progress = EARLIER | read_json(file, dict), lacking
    # one process looks, or those that see another disk would divide the rest otherwise
    (progress,) = broadcast_object_list([progress])
    assert progress is not None
    written, finished = progress
    if changed := differences(written, wanted, ()):
        raise ValueError(
            f"{folder} holds parts of another command ({'; '.join(changed)}): repeat that one, or"
            " delete the folder"
        )
    if finished:
        accelerator.print(f"{folder}: {len(finished)} of {len(pieces)} parts are there already")
    for sample in bad.add(sample for samples in finished.values() for sample in samples):
        accelerator.print(f"skipped {sample}")
    return [piece for piece in pieces if piece.number not in finished]


def left_out(part: Path) -> list[BadSample]:
    """The bad samples that a part has no features of.

    Raises:
        ValueError: an earlier version wrote the part, without the numbers of samples.
    """
    metadata = arrow().parquet.read_schema(part).metadata
    samples = json.loads(metadata[BAD.encode()])
    if any(len(sample) == 3 for sample in samples):
        raise ValueError(f"{part} is of an earlier version: delete {part.parent}, and start again")
    return [BadSample(*sample) for sample in samples]


def write_part(table: Any, piece: Piece) -> None:
    """Write one part, whole or not at all; a process that outlived its launcher may do so too.

    Raises:
        OSError: it cannot be written.
    """
    content = arrow().BufferOutputStream()
    arrow().parquet.write_table(table, content, use_dictionary=DICTIONARY)
    written = content.getvalue().to_pybytes()
    name = f"part-{piece.number:07d}-{hashlib.sha256(written).hexdigest()}.parquet"
    with replacing(piece.folder / name) as partial:
        partial.write_bytes(written)


def assemble(parts: Sequence[Path | None], out: Path, made_with: Mapping[str, str]) -> None:
    """Put the parts together, each as a row group, with only one of them in memory.

    Labels are integers if all of them are, otherwise text.

    Args:
        parts: all of them, in order; None for one that is not there.
        out: the file to write.
        made_with: what the features were made with, the metadata of the schema.

    Raises:
        OSError: a part is not there, or the file cannot be written.
    """
    parquet = arrow().parquet
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        raise FileNotFoundError(
            f"{out}: {len(parts) - len(found)} of {len(parts)} parts are missing: all processes"
            f" have to write into one folder, {out}.parts, on a disk that their nodes share"
        )
    numbers = all(
        text is None or to_integer(text) is not None
        for part in found
        for text in parquet.read_table(part, columns=["label"])["label"].unique().to_pylist()
    )
    schema = parquet.read_schema(found[0])
    label = schema.get_field_index("label")
    schema = schema.set(label, arrow().field("label", "int64" if numbers else "string"))
    schema = schema.with_metadata(made_with)
    with (
        replacing(out, staging=found[0].parent) as partial,
        parquet.ParquetWriter(
            partial, schema, use_dictionary=DICTIONARY, write_page_checksum=True
        ) as writer,
    ):
        for part in counted(found, "joining the parts", len(found), "parts"):
            table = parquet.ParquetFile(part).read()
            texts = table["label"].to_pylist()
            labels = [text and to_integer(text) for text in texts] if numbers else texts
            column = arrow().array(labels, schema.field(label).type)
            writer.write_table(table.set_column(label, schema.field(label), column))
