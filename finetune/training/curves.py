"""Learning curves: a measure against the number of labels, as JSON, as a table and as a picture."""

from pathlib import Path
from typing import Any

from fcmae.run.files import replacing, write_json
from fcmae.run.tables import print_table
from fcmae.run.terminal import beside, say
from finetune.labels.results import draw_beside, spread


class Curves:
    """One value a run, by row (how many labels) and column (start and method).

    Args:
        metric: which of the measures of a run is its value.
    """

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.values: dict[str, dict[str, list[float]]] = {}
        self.samples = dict[str, int]()

    def add(self, label: str, column: str, samples: int, measured: dict[str, Any]) -> None:
        """Add a run.

        Args:
            label: of the row.
            column: of the table.
            samples: how many labels the run has learned from.
            measured: its measures by name.

        Raises:
            ValueError: the metric is not defined for the data that were reported on.
        """
        if measured[self.metric] is None:
            known = [name for name, value in measured.items() if isinstance(value, float)]
            raise ValueError(
                f"metric={self.metric} is not defined for these data: take {', '.join(known)};"
                " what has run is kept"
            )
        self.samples[label] = samples
        row = self.values.setdefault(label, {})
        row.setdefault(column, []).append(measured[self.metric])

    def spreads(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Mean and spread over the seeds, by row and column."""
        return {
            label: {column: spread(values) for column, values in row.items()}
            for label, row in self.values.items()
        }

    def content(self) -> dict[str, Any]:
        """What a file has of them, in which reports find a result of few labels."""
        return {"metric": self.metric, "samples": self.samples, "results": self.spreads()}

    def print_table(self, title: str) -> None:
        """Print mean and spread of all runs."""
        spreads = self.spreads()
        columns = list(next(iter(spreads.values())))
        rows = [
            [
                f"{label} ({self.samples[label]})",
                *(f"{row[c]['mean']:.3f} ± {row[c]['std']:.3f}" for c in columns),
            ]
            for label, row in spreads.items()
        ]
        print_table(title, ["labels", *columns], rows)

    def write(self, out: Path, weights: str, pool: str, seeds: int) -> None:
        """Write the JSON file and the picture beside it, and print the table.

        Args:
            out: the JSON file.
            weights: what the runs started from.
            pool: what was pooled to features.
            seeds: how many there are of each run.

        Raises:
            OSError: a file cannot be written.
        """
        write_json(out, {"weights": weights, "pool": pool, **self.content()})
        picture = out.with_suffix(".png")
        with beside("the table", out):
            self.print_table(f"{self.metric}, {seeds} seeds")
        draw_beside((picture, self.draw), out)
        say(f"written: {out}, {picture}, and each run in {out.with_suffix('')}/")

    def draw(self, path: Path) -> None:
        """Draw mean and standard deviation against the number of labels, one curve a column."""
        from matplotlib.figure import Figure

        spreads = self.spreads()
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        labels = sorted(spreads, key=self.samples.__getitem__)
        for column in spreads[labels[0]]:
            points = [spreads[label][column] for label in labels]
            axes.errorbar(
                [self.samples[label] for label in labels],
                [point["mean"] for point in points],
                [point["std"] for point in points],
                marker="o",
                capsize=3,
                label=column,
            )
        axes.set(xscale="log", xlabel="labels", ylabel=self.metric)
        axes.legend()
        with replacing(path) as partial:
            figure.savefig(partial)
