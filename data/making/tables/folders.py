"""Folders of tables, as the library `datasets` and the Hugging Face hub store data sets."""

import re
from pathlib import Path
from typing import cast

from data.making.folders import SPLITS
from fcmae.run.json_files import read_json

PART = re.compile(r"(.+)-(\d+)-of-(\d+)\.parquet")


def tables_of(root: Path) -> dict[Path, str | None]:
    """The tables of a folder, each with its split ("train", "val" or "test") if it has one.

    The folder is one that `save_to_disk` of `datasets` has written, or it holds Parquet files such
    as `train-00000-of-00002.parquet` or `train.parquet`, perhaps in one sub-folder.

    Returns:
        The tables in their order; none if the folder is of another kind.

    Raises:
        FileNotFoundError: A table is missing.
        ValueError: A file of `datasets` is damaged. Parquet files lie in several folders, a split
            has another name, or some of the files have one and others none.
    """
    if (root / "dataset_dict.json").is_file():
        parts = names_in(root / "dataset_dict.json", "splits")
        tables = {table: split_of(part, root) for part in parts for table in saved(root / part)}
    elif (root / "state.json").is_file():
        tables = dict.fromkeys(saved(root))
    else:
        tables = parquet_files(root)
    missing = [table for table in tables if not table.is_file()]
    if missing:
        raise FileNotFoundError(f"{missing[0]} is missing: copy the whole of {root} again")
    return tables


def saved(folder: Path) -> list[Path]:
    """The Arrow files of a folder that `Dataset.save_to_disk` has written."""
    return [folder / name for name in names_in(folder / "state.json", "_data_files", "filename")]


def names_in(file: Path, field: str, inner: str = "") -> list[str]:
    """The names of files or folders that a field of a file of `datasets` lists.

    Args:
        file: The file.
        field: The field, which holds a list.
        inner: The field of each of the objects in this list; "" for a list of names.

    Raises:
        ValueError: The file is no JSON, or the field has other values.
    """
    listed = read_json(file, dict).get(field)
    values = cast("list[object]", listed) if isinstance(listed, list) else [None]
    found = [cast("dict[str, object]", v).get(inner) if isinstance(v, dict) else v for v in values]
    names = [name for name in found if isinstance(name, str) and name == Path(name).name]
    if len(names) < len(found):
        raise ValueError(f"{file} names no files in {field!r}: save the data set again")
    return names


def parquet_files(root: Path) -> dict[Path, str | None]:
    """The Parquet files in a folder and below it, with those that their names say are missing."""
    found = sorted(root.rglob("*.parquet"))
    folders = sorted({table.parent for table in found})
    if len(folders) > 1:
        raise ValueError(
            f"{root} has Parquet tables in {len(folders)} folders, such as {folders[0]} and"
            f" {folders[1]}: name the folder that is wanted"
        )
    tables: dict[Path, str | None] = {}
    for table in found:
        part = PART.fullmatch(table.name)
        if part is None:
            tables[table] = SPLITS.get(table.stem.lower())
        else:
            name, digits, count = part[1], len(part[2]), part[3]
            for number in range(int(count)):
                whole = table.with_name(f"{name}-{number:0{digits}d}-of-{count}.parquet")
                tables[whole] = split_of(name, root)
    without = [table for table, split in tables.items() if split is None]
    if 0 < len(without) < len(tables):
        raise ValueError(
            f"{without[0]} has no split in its name, as others in {root} have: rename it, or name"
            " the tables one by one, with --prefix"
        )
    return tables


def split_of(name: str, root: Path) -> str:
    """The prefix of the shards of a split.

    Raises:
        ValueError: It is not one of SPLITS.
    """
    if name not in SPLITS:
        raise ValueError(
            f"{root} has the split {name!r}, which is none of {', '.join(SPLITS)}: name its tables"
            " one by one, with --prefix"
        )
    return SPLITS[name]
