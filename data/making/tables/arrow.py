"""Parquet and Arrow tables, whose cells may be images as the library `datasets` stores them.

Such a cell is a structure of `bytes` and `path`, or bytes alone. Images are read row by row, as
they are wanted in another order than that of the file, from which only whole blocks can be read:
so they are copied to files of their own first.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.formats.sniffing import kind_of
from data.making.entries import Entry
from data.making.tables.files import Rows, refuse_twins
from fcmae.run.extras import extra
from fcmae.run.files import writing
from fcmae.run.json_files import as_object, field_of, parse_json

BLOCK = 64  # rows that are read at a time


def open_blocks(table: Path, columns: Sequence[str] | None = None) -> tuple[Any, Iterator[Any]]:
    """Open a table by its suffix, .parquet or else that of an Arrow file or stream.

    Args:
        table: The file.
        columns: The columns to read, of Parquet also parts of structures such as "image.path".

    Returns:
        Its schema, and its rows in record batches, whose columns those of Arrow are all.

    Raises:
        ModuleNotFoundError: The extra `parquet` is not installed.
    """
    with extra("parquet", "Parquet tables need"):
        import pyarrow
        from pyarrow import ipc, parquet
    if table.suffix.lower() == ".parquet":
        file = parquet.ParquetFile(table)
        return file.schema_arrow, file.iter_batches(BLOCK, columns=columns)
    mapped = pyarrow.memory_map(str(table))
    try:
        stream = ipc.open_stream(mapped)
    except pyarrow.ArrowInvalid:
        file = ipc.open_file(mapped)
        return file.schema, (file.get_batch(i) for i in range(file.num_record_batches))
    return stream.schema, iter(stream)


def picture_columns(schema: Any) -> list[str]:
    """The columns of a schema whose cells are images: `bytes` and `path`, or bytes alone."""
    from pyarrow import types

    def holds_bytes(kind: Any) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind)

    return [
        column.name
        for column in schema
        if holds_bytes(column.type)
        or (
            types.is_struct(column.type)
            and {field.name for field in column.type} == {"bytes", "path"}
            and holds_bytes(column.type.field("bytes").type)
        )
    ]


def class_names(schema: Any) -> dict[str, list[str]]:
    """The names of the classes of each column for which `datasets` has stored some.

    Raises:
        ValueError: What it has stored is damaged.
    """
    stored = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        said = as_object(parse_json(stored, "it", object))
        features = as_object(as_object(said.get("info") or {}).get("features") or {})
        kinds = {column: as_object(f) for column, f in features.items() if isinstance(f, dict)}
        return {
            column: list(field_of(kind, "names", tuple[str, ...]))
            for column, kind in kinds.items()
            if kind.get("_type") == "ClassLabel"
        }
    except ValueError as error:
        raise ValueError(f"what datasets says of its columns is damaged: {error}") from error


def read_columns(table: Path) -> Rows:
    """Read all columns of a table but the images, with values that JSON can hold."""
    schema, _ = open_blocks(table)
    refuse_twins(schema.names)
    pictures = picture_columns(schema)
    plain = [name for name in schema.names if name not in pictures]
    _, blocks = open_blocks(table, plain)
    rows = [row for block in blocks for row in block.select(plain).to_pylist()]
    return Rows(
        rows=json.loads(json.dumps(rows, default=str)),  # dates and the like become text
        pictures=pictures,
        classes=class_names(schema),
    )


def unpack(entries: Sequence[Entry], folder: Path) -> list[Entry]:
    """Copy the images that lie in cells of tables to files, FOLDER/KEY.SUFFIX.

    Args:
        entries: The images, of which those without a cell stay as they are.
        folder: Where the files go, on a disk that has room for all of them.

    Raises:
        OSError: A table cannot be read, or a file cannot be written.
        ValueError: A cell is empty, or its column has no images.
    """
    wanted: dict[tuple[Path, str], dict[int, str]] = defaultdict(dict)
    for entry in entries:
        if entry.cell is not None:
            wanted[entry.path, entry.cell.column][entry.cell.row] = entry.key
    paths: dict[str, Path] = {}
    for (table, column), keys in wanted.items():
        for row, content in enumerate(contents(table, column)):
            if row not in keys:
                continue
            if not content:
                raise ValueError(
                    f"{table}: row {row + 1} has no image in {column!r}: leave such rows out"
                )
            path = folder / f"{keys[row]}.{kind_of(content) or 'bin'}"
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            paths[keys[row]] = path
    return [e if e.cell is None else replace(e, path=paths[e.key], cell=None) for e in entries]


def contents(table: Path, column: str) -> Iterator[bytes | None]:
    """The bytes of the image of each row.

    Raises:
        ValueError: The table has no such column of images.
    """
    schema, _ = open_blocks(table)
    known = picture_columns(schema)
    if column not in known:
        raise ValueError(f"{table}: {column!r} is no column of images, as {', '.join(known)} are")
    part = "bytes" if schema.field(column).type.num_fields else None
    _, blocks = open_blocks(table, [f"{column}.{part}" if part else column])
    for block in blocks:
        cells = block.column(column)
        yield from (cell.as_py() for cell in (cells.field(part) if part else cells))
