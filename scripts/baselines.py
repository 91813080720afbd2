"""Plain baselines on labelled shards: logistic regression on raw pixels and on HOG features.

    fcmae baselines --train 'DIR/train-{000000..000003}.tar' --test DIR/test-000000.tar
    fcmae baselines --train ... --test ... --out OUT.json --per_class 5 10

A pretrained encoder has to beat them before it is worth anything. The strength of regularisation is
chosen on training images of groups that are held out (`group` in a sample's json; an image without
one is a group by itself). The test images are used once.

With --per_class, ridge regression also learns from so many labels of each class: the draws and the
classifier of finetune.few_shot, on standardised features.
"""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from data.shards.reading import open_shards, read_sample
from fcmae.run.files import write_json
from fcmae.run.program import run_program
from fcmae.run.ranges import Count, checked
from fcmae.run.tables import print_table
from fcmae.run.waiting import counted
from finetune.training.curves import Curves

PIXELS = 32  # side of the image whose pixels are the features
HOG_PIXELS = 64  # side of the image that HOG describes
GRID = (1e-4, 1e-3, 1e-2)  # C, the inverse strength of regularisation, for standardised features
HELD_OUT = 0.2  # share of the training groups
RIDGE = 1.0  # its strength, as finetune.few_shot has it
TITLES = {"raw_pixels": "raw pixels, ridge", "hog": "HOG, ridge"}


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """The flags of the baselines."""

    train: str
    """Labelled training shards: a path or a brace pattern."""
    test: str
    """Labelled test shards: a path or a brace pattern."""
    out: Path | None = None
    """JSON file to write the results to; those on few labels go to a second one beside it, named
    after it with -few_labels at the end."""
    per_class: tuple[Count, ...] = ()
    """Numbers of labels of each class to learn from, beside all of them."""
    seeds: Count = 3
    """Draws of these labels; finetune.few_shot has the same ones."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """The features of a part of the data, with one row for each image."""

    raw_pixels: np.ndarray
    """Float32 array of pixels, from 0 to 1."""
    hog: np.ndarray
    """Float32 array of histograms of oriented gradients (HOG)."""
    labels: np.ndarray
    """Integer labels."""
    groups: list[str]
    """Names of the groups."""


def extract(spec: str) -> Features:
    """Decode the images of shards, and compute their features.

    Args:
        spec: a path or a brace pattern of shards.

    Raises:
        OSError: a shard cannot be read.
        ValueError: a shard is damaged, or a sample has no image or no label.
    """
    from skimage.feature import hog  # here, as below: a help text needs no classifier and no torch

    from data.targets import read_record

    raw_pixels = []
    hogs = []
    labels = []
    groups = []
    shards = open_shards(spec)
    places = [(shard, i) for shard in shards for i in range(shard.samples)]
    for shard, i in counted(places, "describing images", len(places), "images"):
        sample = read_sample(shard, i)
        image = next((sample[kind] for kind in ("png", "jpg", "jpeg") if kind in sample), None)
        if not isinstance(image, bytes) or "cls" not in sample:
            raise ValueError(
                f"{shard.url}: sample {sample['__key__']!r} needs an image (png, jpg) and a label "
                f"(cls), it has {sorted(sample)}; make labelled shards by fcmae shards make"
            )
        with Image.open(io.BytesIO(image)) as opened:
            rgb = opened.convert("RGB")
        small = rgb.resize((PIXELS, PIXELS), Image.Resampling.BILINEAR)
        raw_pixels.append(np.asarray(small, np.float32).ravel() / 255)
        large = rgb.resize((HOG_PIXELS, HOG_PIXELS), Image.Resampling.BILINEAR)
        described = hog(
            np.asarray(large), pixels_per_cell=(8, 8), cells_per_block=(2, 2), channel_axis=2
        )
        hogs.append(described.astype(np.float32))
        labels.append(int(sample["cls"]))
        about = read_record(sample)
        groups.append(about["group"] if "group" in about else str(sample["__key__"]))
    return Features(
        raw_pixels=np.stack(raw_pixels),
        hog=np.stack(hogs),
        labels=np.array(labels),
        groups=groups,
    )


def classify(train: Features, test: Features, kind: str) -> dict[str, float]:
    """Measure the accuracy of logistic regression, with C chosen on held-out groups.

    The features are standardised. The solver is L-BFGS, the fastest of scikit-learn's for some
    thousands of images and features, on one BLAS thread: a second one gains little, and on a busy
    machine it takes ten times as long. The demo data set takes under a minute.

    Args:
        train: features to learn from.
        test: features to measure the accuracy on.
        kind: which features: `raw_pixels` or `hog`.

    Returns:
        The test accuracy, the accuracy on the held-out groups, and the chosen C.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupShuffleSplit
    from sklearn.pipeline import Pipeline, make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    x = getattr(train, kind)
    labels = train.labels

    def fit(c: float, rows: np.ndarray) -> Pipeline:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000, tol=1e-3))
        with threadpool_limits(1, user_api="blas"):
            return model.fit(x[rows], labels[rows])

    split = GroupShuffleSplit(n_splits=1, test_size=HELD_OUT, random_state=0)
    rows, held_out = next(split.split(x, groups=train.groups))
    scores = {c: fit(c, rows).score(x[held_out], labels[held_out]) for c in GRID}
    best = max(GRID, key=scores.__getitem__)
    final = fit(best, np.arange(len(x)))
    accuracy = final.score(getattr(test, kind), test.labels)
    return {"accuracy": float(accuracy), "held_out": float(scores[best]), "C": best}


def draws(labels: np.ndarray, args: Baselines) -> list[tuple[int, np.ndarray]]:
    """Draw few labels of each class: their number, and their places among all.

    Args:
        labels: the classes of the training images.
        args: the flags.

    Raises:
        ValueError: a class has fewer samples.
    """
    if not args.per_class:
        return []
    import torch

    from finetune.training.few_labels import draw

    of_all = torch.from_numpy(labels)
    names = [str(label) for label in range(int(labels.max()) + 1)]
    drawn = []
    for size, seed in product(args.per_class, range(args.seeds)):
        generator = torch.Generator().manual_seed(seed)
        drawn.append((size, draw(of_all, names, size, generator, instead="").numpy()))
    return drawn


def on_few_labels(
    train: Features, test: Features, drawn: Sequence[tuple[int, np.ndarray]]
) -> Curves:
    """Measure the accuracy of ridge regression on few labels of each class.

    Args:
        train: features to learn from.
        test: features to measure the accuracy on.
        drawn: see `draws`.
    """
    import torch

    from finetune.frozen.few import ridge
    from finetune.frozen.whitening import standardise

    curves = Curves("accuracy")
    labels = torch.from_numpy(train.labels)
    classes = int(train.labels.max()) + 1
    for kind, title in TITLES.items():
        x, unseen = standardise(*(torch.from_numpy(getattr(side, kind)) for side in (train, test)))
        for size, chosen in drawn:
            answers = ridge(x[chosen], labels[chosen], classes, unseen, RIDGE).argmax(1).numpy()
            accuracy = float(np.mean(answers == test.labels))
            curves.add(f"{size} per class", title, len(chosen), {"accuracy": accuracy})
    return curves


def check_packages() -> None:
    """Check that the packages of the extra `demo` are installed.

    Raises:
        ModuleNotFoundError: one of them is missing.
    """
    for package in ("skimage", "sklearn", "threadpoolctl"):
        if find_spec(package) is None:
            raise ModuleNotFoundError(
                f"{package} is not installed; pip install fcmae[demo] (in a checkout: -e .[demo])"
            )


def main(argv: Sequence[str]) -> None:
    """Print the table, and write the JSON file.

    Raises:
        ModuleNotFoundError: a package of the extra `demo` is missing.
        OSError: a shard cannot be read, or the JSON file cannot be written.
        ValueError: the shards have no labels, or a single class or group; or see `draws`.
    """
    args = checked(tyro.cli(Baselines, description=__doc__, args=list(argv)))
    check_packages()
    train = extract(args.train)
    test = extract(args.test)
    if len(set(train.labels)) < 2 or len(set(train.groups)) < 2:
        raise ValueError(
            f"{args.train!r} has a single class or group; there is nothing to classify"
        )
    drawn = draws(train.labels, args)  # before what takes long: a class may have too few samples
    commonest = Counter(train.labels.tolist()).most_common(1)[0][0]
    results = dict[str, dict[str, float]]()
    for kind in counted(("raw_pixels", "hog"), "fitting classifiers", 2, "kinds of features"):
        results[kind] = classify(train, test, kind)
    accuracies = {kind: result["accuracy"] for kind, result in results.items()}
    accuracies["majority"] = float(np.mean(test.labels == commonest))
    if args.out is not None:
        sizes = {"train_images": len(train.labels), "test_images": len(test.labels)}
        write_json(args.out, accuracies | sizes | {"details": results})
    print_table("", ["baseline", "test accuracy"], accuracies.items())
    if drawn:
        curves = on_few_labels(train, test, drawn)
        curves.print_table(f"accuracy on few labels, {args.seeds} draws")
        if args.out is not None:
            write_json(args.out.with_stem(f"{args.out.stem}-few_labels"), curves.content())


if __name__ == "__main__":
    run_program(main)
