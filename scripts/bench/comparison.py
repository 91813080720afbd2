"""Ratios of two works, ours and a rival's, as a table."""

import multiprocessing
import statistics

import torch

from fcmae.run.tables import print_table
from fcmae.run.terminal import say
from fcmae.run.waiting import waiting
from scripts.bench.loading import IMAGES, LOADING
from scripts.bench.saving import SAVING
from scripts.bench.steps import MEMORY, TIMES, batch_of, model_of, peak_memory, step
from scripts.bench.timing import in_turn


def compare(what: str, only: str, *, runs: int, threads: int) -> dict[str, float | None]:
    """Measure ratios and print them as a table.

    Args:
        what: step, data or save.
        only: the one key to measure; empty for all.
        runs: timed runs of each side.
        threads: of PyTorch, for the title.

    Returns:
        The ratio of each key; None where a rival is not installed.

    Raises:
        ValueError: there is no such key.
    """
    times_of = {"data": LOADING, "save": SAVING}.get(what, TIMES)
    keys = [*times_of, MEMORY] if what == "step" else [*times_of]
    if only and only not in keys:
        raise ValueError(f"--only {only} is none of {', '.join(keys)}")
    rows = list[tuple[str, ...]]()
    ratios: dict[str, float | None] = {}
    for key, (make, aim) in times_of.items():
        if only in ("", key):
            try:
                works = make()
            except ValueError as error:  # a rival that is not installed
                say(f"{key}: not measured: {error}")
                ratios[key] = None
                continue
            with waiting(f"timing {key}"):
                above, below = in_turn(works, runs)
            ratios[key] = statistics.median(above) / statistics.median(below)
            pairs = [a / b for a, b in zip(above, below, strict=True)]
            row = [f"{ratios[key]:.2f}", f"{min(pairs):.2f} to {max(pairs):.2f}", aim]
            if what == "data":  # of images/s, ours is the numerator
                row += [f"{IMAGES / statistics.median(t):.0f} images/s" for t in (below, above)]
            else:
                row += [f"{1e3 * statistics.median(t):.0f} ms" for t in (above, below)]
            rows.append((key, *row))
            say(" ".join(rows[-1]), flush=True)
    if MEMORY in keys and only in ("", MEMORY):
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            ours, theirs = pool.map(peak_memory, (False, True), chunksize=1)
        ratios[MEMORY] = ours / theirs
        sizes = (f"{m / 2**20:.0f} MiB" for m in (ours, theirs))
        rows.append((MEMORY, f"{ours / theirs:.2f}", "", "<= 0.40", *sizes))
    print_table(
        f"{threads} threads, medians of {runs} runs in turn",
        ["key", "ratio", "of pairs", "aim", "numerator", "denominator"],
        rows,
    )
    if what == "step" and not only:
        model = model_of("convnextv2_atto")
        step(model, *batch_of(1, 224, model.n, model.ratio))
        optimizer = torch.optim.AdamW(model.parameters())
        (times,) = in_turn((optimizer.step,), runs)
        say(f"AdamW, atto: {1e3 * statistics.median(times):.1f} ms a step, not counted")
    return ratios
