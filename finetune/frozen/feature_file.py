"""Features of samples as a Parquet file, read a part at a time.

A row is a sample: `url` of its shard, `key`, `label` (null where there is none) and `feature`, a
fixed_size_list<float32>. What they were made with is in the metadata of the schema.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

COLUMNS = ["url", "key", "label", "feature"]
NAMES = COLUMNS[:3]


def arrow() -> Any:
    """pyarrow, its `parquet` loaded.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        message = "Parquet tables need the extra: pip install 'fcmae[parquet]'"
        raise ModuleNotFoundError(message) from error
    return pyarrow


def to_metadata(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Values as the metadata of a schema holds them: strings as they are, all else as JSON."""
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in provenance.items()}


class FeatureTable:
    """A file that `finetune.embed` wrote.

    Attributes:
        provenance: what the features were made with, the metadata of the schema.

    Args:
        path: of the file.
        rows: how many are in memory at a time.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is another file, or holds no samples.
        ModuleNotFoundError: see `arrow`.
    """

    def __init__(self, path: Path, rows: int = 8192) -> None:
        pa = arrow()
        self.path = path
        self.rows = rows
        way_out = f"make it with python -m finetune.embed SHARDS {path} --weights FILE"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; {way_out}")
        try:
            # pyarrow would keep all of the file that it has read so far
            self.file = pa.parquet.ParquetFile(path, pre_buffer=False)
        except pa.ArrowInvalid as error:
            raise ValueError(
                f"{path} is damaged or no Parquet file ({error}); {way_out}"
            ) from error
        schema = self.file.schema_arrow
        metadata: dict[bytes, bytes] = schema.metadata or {}
        self.provenance = {k.decode(): v.decode() for k, v in metadata.items()}
        if schema.names != COLUMNS or "weights_sha256" not in self.provenance:
            raise ValueError(
                f"{path} was not written by finetune.embed, its columns are"
                f" {', '.join(schema.names)}; {way_out}"
            )
        if not len(self):
            raise ValueError(f"{path} has no samples, all of them were broken")

    def __len__(self) -> int:
        return self.file.metadata.num_rows

    def features(self) -> Iterator[tuple[Int[Tensor, " m"], Float[Tensor, "m d"]]]:
        """The numbers and features of all rows, in order, some at a time."""
        start = 0
        for batch in self.file.iter_batches(self.rows, columns=["feature"]):
            rows = torch.arange(start, start := start + len(batch))
            yield rows, torch.tensor(batch.column(0).flatten().to_numpy()).view(len(batch), -1)

    def feature(self, row: int) -> Float[Tensor, " d"]:
        """The feature of one row."""
        return next(part[rows == row][0] for rows, part in self.features() if row <= rows[-1])

    def names(self) -> Iterator[dict[str, Any]]:
        """`url`, `key` and `label` of all rows, in order."""
        for batch in self.file.iter_batches(self.rows, columns=NAMES):
            yield from batch.to_pylist()

    def find(self, key: str, url: str | None = None) -> int:
        """The row of a sample.

        Args:
            key: of the sample.
            url: of its shard, which is needed where several have the key.

        Raises:
            ValueError: there is no such sample, or there are several.
        """
        named = ((row, names) for row, names in enumerate(self.names()) if names["key"] == key)
        matches = [(row, names["url"]) for row, names in named if url in (None, names["url"])]
        if not matches:
            raise ValueError(
                f"{self.path} has no sample of key {key!r}{f' in {url}' if url else ''};"
                " a key is a member's name in the shard without its suffix"
            )
        if len(matches) > 1:
            raise ValueError(
                f"key {key!r} is ambiguous, {len(matches)} samples have it; url and key name one:"
                f" add --url {' or '.join(url for _, url in matches)}"
            )
        return matches[0][0]
