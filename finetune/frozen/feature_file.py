"""Features of samples as a Parquet file, read a part at a time.

A row is a sample: `url` of its shard, `key`, `label` (null where there is none; text where not all
are integers) and `feature`, a fixed_size_list<float32>; or one of its tiles, with its number in
`tile`. What they were made with is in the metadata of the schema, and so are the names of classes.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data.config import FittedConfig
from data.shards.samples import ShardSamples
from fcmae.run.extras import extra
from fcmae.run.json_files import as_dataclass, parse_json, typed
from fcmae.weights.metadata import CLASSES
from finetune.models.config import Pool

POOL = "pool"  # key of what was pooled
EARLIER = {POOL: "last"}  # what files of earlier versions were made with, and do not tell
COLUMNS = ["url", "key", "label", "feature"]
TILE_COLUMNS = ["url", "key", "tile", "label", "feature"]


def arrow() -> Any:
    """pyarrow, its `parquet` loaded.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    with extra("parquet", "Parquet tables need"):
        import pyarrow.parquet
    return pyarrow


def to_metadata(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Values as the metadata of a schema holds them: strings as they are, all else as JSON."""
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in provenance.items()}


def written_with(path: Path) -> dict[str, str]:
    """What the features in a file were made with: the metadata of its schema, and `EARLIER`.

    Raises:
        OSError, ValueError: it is damaged, or no Parquet file.
    """
    metadata: dict[bytes, bytes] = arrow().parquet.read_schema(path).metadata or {}
    return EARLIER | {key.decode(): value.decode() for key, value in metadata.items()}


def rows_of(
    batch: Mapping[str, Any],
    features: Float[Tensor, "n d"],
    samples: ShardSamples,
    *,
    a_tile: bool,
) -> Any:
    """The table of a batch, without bad samples.

    Args:
        batch: of a loader.
        features: one of each sample, or one of each tile.
        samples: that the batch is of.
        a_tile: whether rows are tiles.
    """
    pa = arrow()
    flat = pa.array(features.flatten().numpy())
    counts = batch["tiles"] if a_tile else [1] * len(batch["key"])
    places = [(place, tile) for place, count in enumerate(counts) for tile in range(count)]
    urls = [samples.locate(sample)[0].url for sample in batch["sample"].tolist()]
    columns = {
        "url": [urls[place] for place, _ in places],
        "key": [batch["key"][place] for place, _ in places],
        "tile": pa.array([tile for _, tile in places], pa.int32()),
        "label": pa.array([batch["label"][place] or None for place, _ in places], pa.string()),
        "feature": pa.FixedSizeListArray.from_arrays(flat, features.shape[1]),
    }
    whole = pa.array([batch["whole"][place].item() for place, _ in places])
    return pa.table(columns).select(TILE_COLUMNS if a_tile else COLUMNS).filter(whole)


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
        way_out = f"make it with fcmae embed SHARDS {path} --weights FILE"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; {way_out}")
        try:
            # pyarrow would keep all of the file that it has read so far
            self.file = pa.parquet.ParquetFile(
                path, pre_buffer=False, page_checksum_verification=True
            )
            self.columns = self.file.schema_arrow.names
            self.provenance = written_with(path)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(
                f"{path} is damaged or no Parquet file ({error}); {way_out}"
            ) from error
        if self.columns not in (COLUMNS, TILE_COLUMNS) or "weights_sha256" not in self.provenance:
            raise ValueError(
                f"{path} was not written by finetune.embed, its columns are"
                f" {', '.join(self.columns)}; {way_out}"
            )
        if not len(self):
            raise ValueError(f"{path} has no samples, all of them were broken")

    def __len__(self) -> int:
        return self.file.metadata.num_rows

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        """The rows of some columns, in order, some at a time.

        Raises:
            ValueError: they differ from their checksums, or cannot be read at all.
        """
        try:
            yield from self.file.iter_batches(self.rows, columns=columns)
        except (arrow().ArrowException, OSError) as error:
            raise ValueError(f"{self.path} is damaged ({error}): embed the shards again") from error

    def features(self) -> Iterator[tuple[Int[Tensor, " m"], Float[Tensor, "m d"]]]:
        """The numbers and features of all rows, in order, some at a time.

        Raises:
            ValueError: a feature is not finite, and has no neighbours.
        """
        start = 0
        for batch in self._batches(["feature"]):
            rows = torch.arange(start, start := start + len(batch))
            part = torch.tensor(batch.column(0).flatten().to_numpy()).view(len(batch), -1)
            wrong = rows[~part.isfinite().all(1)]
            if len(wrong):
                raise ValueError(
                    f"{self.path}: the feature of row {int(wrong[0])} is not finite; embed again,"
                    " with weights and images that have no NaN"
                )
            yield rows, part

    def config(self) -> FittedConfig:
        """How the pictures were read, as the provenance tells.

        Raises:
            ValueError: an earlier version wrote the file, and cropped otherwise; or it is damaged.
        """
        settings = [field.name for field in fields(FittedConfig)]
        if lacking := set(settings) - self.provenance.keys():
            raise ValueError(
                f"{self.path} does not tell {', '.join(sorted(lacking))}: an earlier version wrote"
                " it, which read pictures otherwise; embed the shards again"
            )
        texts = {name: self.provenance[name] for name in settings}
        try:
            values = {
                name: text if name in ("pixels", "fit") else parse_json(text, name, object)
                for name, text in texts.items()
            }
            return as_dataclass(FittedConfig, values)
        except ValueError as error:
            raise ValueError(f"{self.path} is damaged: {error}") from error

    def pool(self) -> Pool:
        """What was pooled to the features, as the provenance tells.

        Raises:
            ValueError: it is nothing that this version knows.
        """
        pool = self.provenance[POOL]
        try:
            return typed(pool, Pool)
        except ValueError as error:
            raise ValueError(
                f"{self.path} has features of {POOL}={pool!r}, which this version does not make:"
                f" take a newer one, or embed the shards again with --pool"
                f" {', '.join(get_args(Pool))}"
            ) from error

    def feature(self, row: int) -> Float[Tensor, " d"]:
        """The feature of one row."""
        return next(part[rows == row][0] for rows, part in self.features() if row <= rows[-1])

    def names(self) -> Iterator[dict[str, Any]]:
        """`url`, `key`, `tile` if rows are tiles, and `label` of all rows, in order.

        A class that has a name is called by it.
        """
        told = self.provenance.get(CLASSES, "[]")
        classes = dict(enumerate(parse_json(told, f"{self.path}: {CLASSES!r}", list)))
        for batch in self._batches(self.columns[:-1]):
            for row in batch.to_pylist():
                yield row | {"label": classes.get(row["label"], row["label"])}

    def find(self, key: str, url: str | None = None, tile: int = 0) -> int:
        """The row of a sample.

        Args:
            key: of the sample.
            url: of its shard, which is needed where several have the key.
            tile: which of its tiles, if rows are tiles.

        Raises:
            ValueError: there is no such sample, or there are several.
        """
        wanted = {"key": key, "tile": tile} if "tile" in self.columns else {"key": key}
        named = (
            (i, names) for i, names in enumerate(self.names()) if wanted.items() <= names.items()
        )
        matches = [(row, names["url"]) for row, names in named if url in (None, names["url"])]
        if not matches:
            raise ValueError(
                f"{self.path} has no sample of key {key!r}{f' in {url}' if url else ''}"
                f"{f' with a tile {tile}' if tile else ''};"
                " a key is a member's name in the shard without its suffix"
            )
        if len(matches) > 1:
            raise ValueError(
                f"key {key!r} is ambiguous, {len(matches)} samples have it; url and key name one:"
                f" add --url {' or '.join(url for _, url in matches)}"
            )
        return matches[0][0]
