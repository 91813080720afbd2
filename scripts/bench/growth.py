"""Time of a step against ratio, image size and batch, as tables and as a picture."""

import statistics
from functools import partial
from pathlib import Path

from fcmae.architecture import Architecture
from fcmae.encoder import Encoder
from fcmae.run.files import replacing
from fcmae.run.tables import print_table
from fcmae.run.waiting import counted
from scripts.bench.steps import batch_of, step
from scripts.bench.timing import in_turn


def growth(runs: int, threads: int) -> dict[str, list[dict[str, float]]]:
    """Time of atto's step against ratio, image size and batch, others at 0.6, 224 px and 16.

    Args:
        runs: timed runs of each point.
        threads: of PyTorch, for the title.

    Returns:
        The points of each curve: its value, milliseconds an image and a visible patch.
    """
    usual = {"ratio": 0.6, "image_size": 224, "batch": 16}
    sweeps = {
        "ratio": (0.0, 0.2, 0.4, 0.6, 0.75, 0.9),
        "image_size": (128, 192, 224, 320, 448),
        "batch": (1, 2, 4, 8, 16, 32, 64),
    }
    curves: dict[str, list[dict[str, float]]] = {}
    for axis, values in sweeps.items():
        rows = list[tuple[str, str, int, str]]()
        curves[axis] = []
        for value in counted(values, f"timing {axis}", len(values), "points"):
            at = usual | {axis: value}
            size = int(at["image_size"])
            architecture = Architecture(name="convnextv2_atto", image_size=size)
            encoder = Encoder(architecture)
            b = int(at["batch"])
            images, visible = batch_of(b, size, architecture.patches, at["ratio"])
            (times,) = in_turn((partial(step, encoder, images, visible),), runs)
            image = 1e3 * statistics.median(times) / b
            v = int(visible[0].sum())
            curves[axis].append({axis: value, "ms_image": image, "ms_patch": image / v})
            rows.append((f"{value:g}", f"{image:.2f}", v, f"{image / v:.3f}"))
        print_table(
            f"encoder of atto against {axis}, {threads} threads",
            [axis, "ms an image", "visible patches", "ms a visible patch"],
            rows,
        )
    return curves


def draw(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    """The three curves of `growth`, time for a visible patch, each axis from zero."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(curves), 3))
    panels = figure.subplots(1, len(curves), sharey=True)
    for panel, (axis, points) in zip(panels, curves.items(), strict=True):
        panel.plot([p[axis] for p in points], [p["ms_patch"] for p in points], marker="o")
        panel.set_xlabel(axis)
    panels[0].set(ylabel="ms a visible patch", ylim=(0, None))  # shared: once all are drawn
    figure.tight_layout()
    with replacing(path) as partial:
        figure.savefig(partial)
