"""Maps and neighbours of features that are made on purpose, against scikit-learn and by hand."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from finetune.reporting import features
from finetune.reporting.features import MOST_CLASSES, MOST_IMAGES, OTHER, UNKNOWN, section
from finetune.reporting.maps import nearest, pca, tsne
from finetune.reporting.record import read_run
from finetune.reporting.section import Section
from tests.support.watched import decoded, photographs, write_images, write_step


def groups(count: int, each: int, seed: int = 0) -> np.ndarray:
    """Features in groups one after the other, far from each other, `[count * each, 16]`."""
    rng = np.random.default_rng(seed)
    centres = 20 * np.eye(16)[:count].repeat(each, 0)
    return (100 + centres + rng.normal(size=centres.shape)).astype(np.float16)


def made_of(
    run: Path, labels: list[int], steps: dict[int, np.ndarray], classes: list[str] | None = None
) -> Section | None:
    """The section of a run with these features."""
    pixels = photographs(len(labels))
    write_images(run, pixels, labels, classes or [])
    for step, values in steps.items():
        write_step(run, step, {"features": values})
    (run / "metrics.jsonl").touch()
    return section([read_run(run, "run")])


def test_pca_is_that_of_scikit_learn() -> None:
    x = groups(3, 10)
    found, held = pca(x)
    reference = PCA(2, svd_solver="full").fit(x.astype(np.float64))
    np.testing.assert_allclose(found, reference.transform(x.astype(np.float64)))
    assert held == pytest.approx(reference.explained_variance_ratio_.sum())


@pytest.mark.parametrize("method", [lambda x: pca(x)[0], tsne])
def test_maps_are_the_same_on_every_call(method) -> None:
    x = groups(3, 12)
    assert np.array_equal(method(x), method(x.copy()))


def test_t_sne_keeps_groups_together() -> None:
    places = tsne(groups(4, 12))
    _, found = NearestNeighbors(n_neighbors=6).fit(places).kneighbors()
    assert (found // 12 == np.arange(48)[:, None] // 12).all()


@pytest.mark.parametrize("method", [lambda x: pca(x)[0], tsne])
def test_features_that_are_all_the_same_have_one_place(method) -> None:
    assert np.array_equal(method(np.ones((9, 5), np.float16)), np.zeros((9, 2)))


def test_neighbours_are_those_of_a_loop() -> None:
    x = np.random.default_rng(0).normal(3, 1, size=(20, 6))
    rows, cosines = nearest(x, 4)
    centred = x - x.mean(0)
    for i in range(20):
        by_hand = sorted(
            (-(centred[i] @ y) / np.linalg.norm(centred[i]) / np.linalg.norm(y), j)
            for j, y in enumerate(centred)
            if j != i
        )[:4]
        assert rows[i].tolist() == [j for _, j in by_hand]
        np.testing.assert_allclose(cosines[i], [-cosine for cosine, _ in by_hand])


def test_neighbours_of_equal_features_are_the_first_ones() -> None:
    rows, cosines = nearest(np.ones((5, 3)), 2)
    assert rows.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]
    assert np.array_equal(cosines, np.zeros((5, 2)))


def test_before_and_after_are_the_first_and_the_last_step(tmp_path: Path) -> None:
    labels = [i // 10 for i in range(30)]
    mixed = groups(3, 10)[np.random.default_rng(1).permutation(30)]
    steps = {0: mixed, 5: mixed, 90: groups(3, 10)}
    made = made_of(tmp_path, labels, steps, ["cat", "dog", "cow"])
    assert made is not None
    table = made.data["map0"]
    assert [row["key"] for row in table] == [f"key{i}" for i in range(30)]
    assert table[29]["class"] == table[29]["group"] == "cow"
    for when, step in (("before", 0), ("after", 90)):
        expected, _ = pca(steps[step])
        found = [[row[f"pca_{when}_x"], row[f"pca_{when}_y"]] for row in table]
        np.testing.assert_allclose(found, expected, atol=1e-9)
        assert {f"map0-{method}-{when}" for method in ("pca", "tsne")} <= set(made.charts)
    assert "Before pretraining" in made.body
    assert "100% after step 90 are of the same class; by chance it would be 31%." in made.body
    asked = made.body.partition('nearest to key0 (cat)">')[2].partition("</ol>")[0]
    assert asked.count("<li>") == 5
    thumbnails = {row["picture"]: row["image"] for row in made.data["pictures"]}
    pixels = photographs(30)
    for i, row in enumerate(table):
        assert np.array_equal(decoded(thumbnails[row["picture"]]), pixels[i])


def test_neighbours_are_those_of_the_step(tmp_path: Path) -> None:
    made = made_of(tmp_path, [-1] * 30, {0: groups(3, 10), 1: groups(5, 6)})
    assert made is not None
    before, after = (
        made.body.partition(f'{title}, nearest to key0">')[2].partition("</ol>")[0]
        for title in ("Before pretraining", "After step 1")
    )
    assert all(f'alt="key{i}"' in after for i in range(1, 6))
    assert before.count('alt="key') == 5
    assert all(int(name.partition('"')[0]) < 10 for name in before.split('alt="key')[1:])
    assert "same class" not in made.body
    assert "color" not in made.charts["map0-pca-before"]["encoding"]


def test_features_that_are_not_finite_are_passed_over(tmp_path: Path) -> None:
    lost = groups(2, 10)
    lost[3] = np.inf
    made = made_of(tmp_path, [0] * 20, {0: lost, 4: groups(2, 10), 9: lost})
    assert made is not None
    assert "At step 4" in made.body
    assert not any(name.endswith("-after") for name in made.charts)


@pytest.mark.parametrize("steps", [{}, {0: np.full((20, 16), np.nan, np.float16)}])
def test_without_features_there_is_no_section(tmp_path: Path, steps: dict[int, np.ndarray]) -> None:
    assert made_of(tmp_path, [0] * 20, steps) is None


def test_too_few_images_are_not_mapped(tmp_path: Path) -> None:
    assert made_of(tmp_path, [0] * 7, {0: groups(1, 7)}) is None
    assert made_of(tmp_path / "eight", [0] * 8, {0: groups(1, 8)}) is not None


def test_rare_classes_are_one_where_there_are_many(tmp_path: Path) -> None:
    labels = [*range(20), *range(15), -1, -1]
    made = made_of(tmp_path, labels, {0: groups(1, 37)})
    assert made is not None
    shown = {row["group"] for row in made.data["map0"]}
    assert len(shown) == MOST_CLASSES
    assert OTHER in shown
    assert UNKNOWN in {row["class"] for row in made.data["map0"]}
    assert made.charts["map0-tsne-before"]["encoding"]["shape"]["field"] == "group"


def test_runs_that_watch_the_same_images_share_their_pictures(tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        made_of(tmp_path / name, [0] * 20, {0: groups(2, 10)})
        runs.append(read_run(tmp_path / name, name))
    made = features.section(runs)
    assert made is not None
    assert len(made.data["pictures"]) == 20
    assert made.data["map1"][3]["picture"] == 3


def test_all_runs_together_have_a_bounded_number_of_pictures(tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        write_images(
            tmp_path / name, photographs(MOST_IMAGES, 4) + (name == "b"), [0] * MOST_IMAGES
        )
        write_step(tmp_path / name, 0, {"features": groups(10, MOST_IMAGES // 10)})
        (tmp_path / name / "metrics.jsonl").touch()
        runs.append(read_run(tmp_path / name, name))
    made = features.section(runs)
    assert made is not None
    assert len(made.data["pictures"]) == MOST_IMAGES
    assert len(made.data["map1"]) == MOST_IMAGES // 2
    assert made.data["map1"][-1]["key"] == f"key{MOST_IMAGES - 1}"
