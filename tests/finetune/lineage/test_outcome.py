"""What the lineage writes out of results: tables, the page of results, and a page in Chromium."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fcmae.run.files import write_json
from finetune.lineage import charts, tables
from finetune.lineage.config import LineageConfig
from finetune.lineage.page import page
from finetune.lineage.rows import has, keep, kept, rows_of
from finetune.lineage.runs import Start, accuracy_of, check_protocol, starts, training_flags
from finetune.lineage.systems import SYSTEMS
from tests.support.browser import Pages, faults, overflow

if TYPE_CHECKING:
    from playwright.sync_api import Page

SIDES = (64, 128, 448)
PAGE = "before\n<!-- lineage: begin -->\nold\n<!-- lineage: end -->\nafter\n"


def config_of(out: Path, **fields: object) -> LineageConfig:
    """A protocol whose results lie in a folder."""
    return LineageConfig(out=out, sizes=SIDES, **fields)  # type: ignore[arg-type]


def leave_results(config: LineageConfig, keys: tuple[str, ...] = tuple(SYSTEMS)) -> None:
    """Leave the files that measurements and runs of systems leave."""
    for i, key in enumerate(keys, 1):
        system = SYSTEMS[key]
        whats = ("whole", "visible", "pretraining") if system.encoder else ("whole",)
        growth = [
            {"size": size, "what": what, "gflops": i * size**2 / 1e5 / n, "ms": i * size / n}
            for n, what in enumerate(whats, 1)
            for size in SIDES
        ]
        costs = {"parameters": 1000 * i, "flops": i * 10**8, "trained_per_s": 100 / i}
        write_json(config.out / key / "costs.json", {**costs, "seen_per_s": None, "growth": growth})
        seconds = {"pretraining": 3600, "scratch-seed0": 1800, "pretrained-seed0": 360}
        write_json(config.out / key / "seconds.json", seconds)
        for start in starts(config, [system]):
            gain = 0.1 if start.origin == "pretrained" else 0.0
            for rate, accuracy in zip(config.rates, (0.2, 0.3), strict=True):
                write_json(start.held_out(rate), {"accuracy": accuracy})
            for seed in range(config.seeds):
                accuracy = 0.4 + i / 100 + seed / 10 + gain
                write_json(start.final(seed), {"accuracy": accuracy})


@pytest.fixture
def config(tmp_path: Path) -> LineageConfig:
    """A protocol with results of all systems."""
    config = config_of(tmp_path)
    leave_results(config)
    return config


def test_rows_have_mean_and_spread_rates_and_hours(config: LineageConfig) -> None:
    rows = {row.system.key: row for row in rows_of(config)}
    assert list(rows) == list(SYSTEMS)
    score = rows["resnet18"].scores["pretrained"]
    assert str(score) == "0.660 ± 0.100"
    assert score.rate == config.rates[1]
    assert score.hours == pytest.approx(1.1)
    assert rows["resnet18"].hours == pytest.approx(1.6)
    assert rows["lenet5"].cell("pretrained") == "not pretrained"


def test_a_start_without_all_its_runs_is_not_in_the_table(config: LineageConfig) -> None:
    start = Start(config=config, system=SYSTEMS["resnet18"], origin="scratch")
    start.final(2).unlink()
    row = next(row for row in rows_of(config) if row.system.key == "resnet18")
    assert row.cell("scratch") == "not run"
    assert set(row.scores) == {"pretrained"}


def test_runs_of_several_checkouts_make_one_page(config: LineageConfig, tmp_path: Path) -> None:
    """One has made LeNet-5 and ResNet-18 from scratch, another goes on with the rest."""
    file = tmp_path / "lineage.json"
    lenet, resnet = SYSTEMS["lenet5"], SYSTEMS["resnet18"]
    begun = Start(config=config, system=resnet, origin="pretrained")
    begun.final(2).unlink()
    done = [row for row in rows_of(config) if row.system in (lenet, resnet)]
    keep(config, done, file)
    assert str(tmp_path) not in file.read_text()
    told = kept(config, file)
    assert list(told.values()) == done
    assert has(told, Start(config=config, system=resnet, origin="scratch"))
    assert not has(told, begun)
    more = Start(config=config_of(tmp_path, seeds=4), system=lenet, origin="scratch")
    assert not has(told, more)
    assert kept(config_of(tmp_path, epochs=20.0), file) == {}

    other = config_of(tmp_path / "other", seeds=2)
    leave_results(other, ("resnet18",))
    for path in (tmp_path / "other/resnet18").glob("scratch-*.json"):
        path.unlink()
    first, second = rows_of(other, told)
    assert first == done[0]
    assert second.scores["scratch"] == done[1].scores["scratch"]
    assert len(second.scores["pretrained"].accuracies) == 2


def test_the_rate_is_the_better_one_on_held_out_data(config: LineageConfig) -> None:
    start = Start(config=config, system=SYSTEMS["lenet5"], origin="scratch")
    write_json(start.held_out(config.rates[0]), {"accuracy": 0.31})
    assert start.rate() == config.rates[0]
    start.held_out(config.rates[1]).unlink()
    assert start.rate() is None
    start.final(0).write_text("{")
    with pytest.raises(ValueError, match=r"seed0\.json"):
        accuracy_of(start.final(0))


def test_all_systems_are_trained_alike_but_for_their_network(config: LineageConfig) -> None:
    own = {"--backbone", "--weights", "--random.name", "--random.seed", "--random.stem_stride"}
    shared = set[tuple[str, ...]]()
    for start in starts(config, list(SYSTEMS.values())):
        words = training_flags(start, Path("out.json"), rate=1e-3, seed=0, report_on="test")
        flags = [" ".join(words[i : i + 2]) for i in range(1, len(words), 1)]
        kept = [f for f in flags if f.startswith(("--optim.", "--data.", "--precision", "--run."))]
        shared.add(tuple(kept))
        if start.origin == "scratch":
            assert {"--random.image_size", "--random.mean"} <= set(words)
        assert own & set(words)
    assert len(shared) == 1


def test_runs_of_another_protocol_are_refused(tmp_path: Path) -> None:
    check_protocol(config_of(tmp_path))
    check_protocol(config_of(tmp_path, seeds=5, workers=1, systems=("lenet5",)))
    with pytest.raises(ValueError, match=r"another protocol \(epochs: 5\.0 -> 20\.0\); choose"):
        check_protocol(config_of(tmp_path, epochs=20.0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train": ("a.tar",)}, "train and test belong together"),
        ({"image_size": 32}, "a side of 32 pixels must be a multiple of 32, at least 64"),
        ({"image_size": 100}, "a side of 100 pixels must be a multiple of 32"),
    ],
)
def test_bad_input_is_refused(fields: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(tmp_path, **fields)


def test_the_page_of_results_gets_tables_whose_links_lead_somewhere(config: LineageConfig) -> None:
    made = tables.with_tables(PAGE, config, rows_of(config))
    assert made.startswith("before\n<!-- lineage: begin -->\n")
    assert made.endswith("<!-- lineage: end -->\nafter\n")
    assert "old" not in made
    assert "64 px, 5 passes, 3 seeds, fp32, 12." in made
    assert (
        "| ResNet-18 | 2015 | 6,000 | 0.6 | 16.7 | 0.560 ± 0.100 | 0.660 ± 0.100 | 1.60 |" in made
    )
    links = [part.partition(")")[0] for part in made.split("](")[1:]]
    root = tables.RECIPES
    assert "../../fcmae/layers.py" in links
    assert all((root / link).is_file() for link in links if link != tables.PICTURE)
    assert tables.with_tables(made, config, rows_of(config)) == made
    with pytest.raises(ValueError, match="lacks the lines <!-- lineage: begin -->"):
        tables.with_tables("no marks", config, [])


def test_names_beside_lines_do_not_cover_each_other(config: LineageConfig) -> None:
    points = [{"system": str(i), "size": 64, "ms": ms} for i, ms in enumerate((1, 1, 1.01, 1000))]
    placed = charts.labels(points, "ms")
    assert [label["system"] for label in placed] == ["0", "1", "2", "3"]
    heights = [label["ms"] for label in placed]
    assert heights[0] == pytest.approx(1)
    assert heights[0] < heights[1] < heights[2] < heights[3] == pytest.approx(1000)
    assert heights[2] / heights[1] == pytest.approx(1000 ** (charts.GAP / charts.HEIGHT))


def opened(pages: Pages, config: LineageConfig, **options: object) -> "Page":
    """The page of the results, when all its charts are there."""
    out = config.out / "report.html"
    out.write_text(page(config, rows_of(config)))
    opened = pages.open(out.as_uri(), **options)  # type: ignore[arg-type]
    opened.wait_for_selector("html[data-drawn]", state="attached")
    return opened


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(400, False), (1400, True)])
def test_everyone_can_use_the_page(
    width: int, dark: bool, pages: Pages, config: LineageConfig
) -> None:
    shown = opened(pages, config, width=width, dark=dark)
    assert shown.locator(".timeline > li").count() == len(SYSTEMS)
    shown.eval_on_selector_all(".timeline details", "all => all.forEach((e) => (e.open = true))")
    assert "class LeNet5(Network):\n" in shown.locator(".code").first.inner_text()
    assert shown.locator(".chart svg").count() == shown.locator(".chart").count() == 6
    assert faults(shown) == []
    assert overflow(shown) == 0
    assert "ResNet-18: +10.0 points" in shown.locator("#measured").inner_text()


def test_the_page_needs_neither_times_nor_results(pages: Pages, tmp_path: Path) -> None:
    config = config_of(tmp_path, timed_runs=0)
    leave_results(config, ("lenet5", "convnextv2"))
    for key in ("lenet5", "convnextv2"):
        path = config.out / key / "costs.json"
        costs = json.loads(path.read_text())
        rows = [{**point, "ms": None} for point in costs["growth"]]
        write_json(path, {**costs, "trained_per_s": None, "growth": rows})
        for result in path.parent.glob("*-*.json"):
            result.unlink()
    shown = opened(pages, config)
    assert shown.locator(".chart svg").count() == 3
    assert "not timed" in shown.locator("#measured").inner_text()
    assert "not run" in shown.locator("#measured").inner_text()
