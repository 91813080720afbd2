"""scripts/reproduce.py: tables out of what was measured, and the commands that measure."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from data.sets import parts
from data.shards.reading import open_shards, read_sample
from fcmae.convert import ConvertConfig
from fcmae.run.fields import field_names
from finetune.training.config import FewShotConfig
from finetune.training.pretraining import PretrainConfig
from scripts.baselines import Baselines
from scripts.reproduce import main
from scripts.reproducing import rivals, search, uses
from scripts.reproducing.ablations import verdict
from scripts.reproducing.config import SetName
from scripts.reproducing.data_sets import DATA_SETS, tiny
from scripts.reproducing.figures import ranking
from scripts.reproducing.results import Entry, Results
from scripts.reproducing.runs import Run, with_needs
from scripts.reproducing.sets import RESULTS, SETS
from scripts.reproducing.setting import Setting
from scripts.reproducing.tables import PAGE, between_marks
from scripts.reproducing.transfer import OF_EMOJI
from tests.support.programs import ROOT
from tests.support.shards import write_colours

MARKED = """before
<!-- reproduce elpv: begin -->
of elpv
<!-- reproduce elpv: end -->
between
<!-- reproduce emoji: begin -->
of emoji
<!-- reproduce emoji: end -->
after
"""


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """No results yet."""
    return Results(tmp_path / "results" / "some.json")


def entry(kept: Mapping[str, Any], seconds: float = 60.0) -> Entry:
    """An entry of a run that has come to this."""
    spent = {"seconds": seconds, "processor_seconds": 2 * seconds}
    return Entry(commands=("pretrain",), kept=dict(kept), **spent)


def measure(results: Results, start: str, seeds: int, first: float) -> None:
    """Add the results of a fine-tuning, and the hours of two runs."""
    values = {"accuracy": [first + seed / 10 for seed in range(seeds)]}
    values |= {"balanced_accuracy": [0.25] * seeds, "auc": [0.75] * seeds}
    kept = results.kept("fcmae") | {f"10pc {start} finetune": values}
    results.add("fcmae", entry(kept, 3600))
    results.add("pretrain", entry({}, 1800))


def test_table_has_mean_and_spread_over_seeds_and_hours(results: Results) -> None:
    measure(results, "pretrained", 3, 0.3)
    made = "\n".join(OF_EMOJI.table(results))
    assert (
        "| convnextv2_atto, FCMAE | finetune | 0.400 ± 0.100 | 0.250 ± 0.000 | 0.750 ± 0.000 |"
        in made
    )
    assert "600 steps, 3 seeds, 1.5 h:" in made


def test_table_leaves_out_models_that_lack_seeds(results: Results) -> None:
    measure(results, "pretrained", 3, 0.3)
    measure(results, "random", 2, 0.3)
    assert "convnextv2_atto, random" not in "\n".join(OF_EMOJI.table(results))


def test_table_replaces_its_own_and_nothing_else(results: Results) -> None:
    measure(results, "pretrained", 3, 0.3)
    lines = OF_EMOJI.table(results)
    made = between_marks(MARKED, "emoji", lines)
    assert "of emoji" not in made
    assert made.startswith(MARKED.partition("of emoji")[0])
    assert made.endswith("<!-- reproduce emoji: end -->\nafter\n")
    assert between_marks(made, "emoji", lines) == made


def test_a_page_without_marks_is_an_error() -> None:
    with pytest.raises(ValueError, match="lacks the lines <!-- reproduce other: begin -->"):
        between_marks(MARKED, "other", ["a table"])


def test_the_page_has_the_tables_of_the_results_that_are_committed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (ROOT / PAGE).read_text()
    for name, one in SETS.items():
        found = Results(ROOT / RESULTS / f"{name}.json")
        lines = one.table(found)
        made = between_marks(page, name, lines)
        assert not found.entries or made == page, name
    main(["--table"])  # which therefore writes what is there
    assert (ROOT / PAGE).read_text() == page


def test_a_set_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--sets", "nothing"])
    assert "nothing" in capsys.readouterr().err


def all_runs(tmp_path: Path, name: SetName) -> list[Run]:
    """The runs of a set on all data sets; those that are not in a checkout are a few samples."""
    train, test = write_colours(tmp_path, "train", 6), write_colours(tmp_path, "test", 3)
    few = {n: replace(one, train=train, test=test) for n, one in DATA_SETS.items() if one.fetch}
    setting = Setting(folder=tmp_path / name, data={**DATA_SETS, **few})
    return [*with_needs(SETS[name].runs(setting))]


@pytest.mark.parametrize("name", SETS)
def test_names_are_unique_and_every_flag_of_every_command_is_known(
    tmp_path: Path, name: SetName
) -> None:
    runs = all_runs(tmp_path, name)
    assert len({run.name for run in runs}) == len({run.makes for run in runs}) == len(runs)
    found = Results(tmp_path / "some.json")
    for run in runs:  # of rivals, short runs tell the lengths of the others
        found.entries[run.name] = entry({"steps": 10 if run.name.endswith("-10-steps") else 60})
    of_pretraining = {*field_names(PretrainConfig)}
    known = {
        "few-shot": {*field_names(FewShotConfig)},
        "convert": {*field_names(ConvertConfig)},
        "baselines": {*field_names(Baselines)},
    }
    for run in runs:
        for call in run.calls(found):
            allowed = of_pretraining
            if call.program in known or "few-shot" in call.words[:2]:
                allowed = known.get(call.program, known["few-shot"])
            flags = {word[2:] for word in call.words if word.startswith("--")}
            assert flags <= allowed, (run.name, flags - allowed)


@pytest.mark.parametrize("name", SETS)
def test_the_table_of_a_set_takes_any_part_of_its_results(tmp_path: Path, name: SetName) -> None:
    runs = all_runs(tmp_path, name)
    values = {"accuracy": [0.3, 0.5], "balanced_accuracy": [0.4, 0.6], "auc": [0.5, 0.7]}
    kept: dict[str, Any] = {
        f"{size} {start} {method}": values
        for size in ("10pc", "1pc", "5_per_class", "10_per_class")
        for start in ("pretrained", "random")
        for method in ("probe", "finetune")
    }
    kept |= {"5_per_class HOG, ridge": {"accuracy": [0.3, 0.5]}}
    kept |= {"steps": 100, "images": 3200, "loss": 0.5, "collapse": [0.4, 0.3], "rankme": 9.0}
    for part in (runs[:4], runs):
        found = Results(tmp_path / "some.json")
        found.entries = {run.name: entry(kept) for run in part}
        made = "\n".join(SETS[name].table(found))
        assert f"`fcmae reproduce --sets {name}`: " in made
        assert "|---|" in made
    if name != "emoji" and name != "elpv":
        assert "± 0.141" in made


@pytest.mark.parametrize(
    ("base", "other", "better", "said"),
    [
        ([0.50, 0.51], [0.40, 0.41], 1, "agrees (+0.100)"),
        ([0.40, 0.41], [0.50, 0.51], 1, "disagrees (-0.100)"),
        ([0.40, 0.60], [0.45, 0.56], 1, "cannot be told (-0.005)"),
        ([0.40, 0.60], [0.45, 0.56], 0, "agrees: level (-0.005)"),
        ([0.50, 0.51], [0.40, 0.41], 0, "disagrees (+0.100)"),
        ([0.50], [0.40, 0.41], 1, ""),
    ],
)
def test_a_claim_is_agreed_with_beyond_two_standard_errors(
    base: list[float], other: list[float], better: int, said: str
) -> None:
    assert verdict(base, other, better) == said


def test_the_budget_is_divided_by_what_a_step_costs_more(tmp_path: Path, results: Results) -> None:
    names = ("emoji-fcmae-10-steps", "emoji-fcmae-60-steps")
    timed = [run for run in all_runs(tmp_path, "rivals") if run.name in names]
    for run, steps, spent in zip(timed, (10, 60), (25.0, 50.0), strict=True):
        results.entries[run.name] = replace(entry({"steps": steps}), processor_seconds=spent)
    # 0.5 s a step, 20 s before the first
    assert rivals.affordable(results, timed) == (rivals.BUDGET - 20) / 0.5


def test_a_dry_run_has_a_few_images_of_each_class_and_of_several_groups(tmp_path: Path) -> None:
    train = write_colours(tmp_path, "train", 90, shards=4)
    test = write_colours(tmp_path, "test", 30)
    data = tiny(replace(DATA_SETS["emoji"], train=train, test=test), tmp_path / "dry")
    (shard,) = open_shards(data.train)
    samples = [read_sample(shard, place) for place in range(shard.samples)]
    assert Counter(sample["cls"] for sample in samples) == dict.fromkeys((b"0", b"1", b"2"), 8)
    assert len({json.loads(sample["json"])["object"] for sample in samples}) >= 4


def test_numbers_of_a_data_set_are_those_of_its_shards_and_its_recipe() -> None:
    emoji = DATA_SETS["emoji"]
    assert (emoji.images, emoji.unseen) == (4886, 1164)  # as the page says
    assert (emoji.batch, emoji.base_lr) == (32, 1.6e-2)
    assert emoji.pixels() == {"in_chans": 3, "mean": [0.5], "std": [0.25]}  # 3 by default


def test_samples_of_a_data_set_name_their_groups_as_it_says(tmp_path: Path) -> None:
    parts.build(parts.PartsConfig(out=tmp_path, classes=2, train=2, test=2))
    few = replace(DATA_SETS["parts"], train=f"{tmp_path}/train-000000.tar")
    for data in (DATA_SETS["emoji"], DATA_SETS["glyphs"], few):
        about = json.loads(read_sample(open_shards(data.train)[0], 0)["json"])
        assert {data.group} - {""} <= about.keys()


def test_rates_are_peaks_whatever_the_batch_is() -> None:
    mae = next(method for method in rivals.METHODS if method.name == "mae")
    for data in DATA_SETS.values():
        base_lr = mae.of(data)["optim.base_lr"]
        assert base_lr * data.batch / 256 == pytest.approx(5e-4)  # as optim.base_lr is defined


def test_the_best_trial_is_that_of_the_highest_mean_over_labels_and_draws() -> None:
    scores = {"a": [[0.1, 0.2], [0.5]], "b": [[0.3], [0.4]], "not run": []}
    assert search.chosen(scores) == "b"
    assert search.bold("b", "b") == "**b**"


def test_figures_are_ranked_by_the_accuracy_that_goes_with_them() -> None:
    judged = [
        ({"rankme": float(i), "alpha_req": 1 + 0.1 * i, "loss": 1 - 0.1 * i}, [[0.1 * i], [0.2]])
        for i in range(5)
    ]
    made = ranking(judged)
    assert "| effective rank (RankMe) | 5 | +1.00 |" in made
    assert "| alpha-ReQ, nearness to 1 | 5 | -1.00 |" in made
    assert "| reconstruction loss | 5 | +1.00 |" in made
    assert ranking(judged[:3]) == []


def test_trials_encode_as_many_views_as_the_base() -> None:
    for trial, data in product(search.TRIALS, DATA_SETS.values()):
        batch = trial.of(data).get("optim.batch_size", data.batch)
        views = trial.steps(data) * batch * trial.views
        assert views == pytest.approx(trial.length * search.VIEWS, rel=0.02), trial.name


def test_trials_go_on_from_runs_that_keep_their_checkpoints(tmp_path: Path) -> None:
    begun = [run for run in all_runs(tmp_path, "few_labels") if run.name.startswith("emoji-after")]
    pretrainings = [run for run in begun if run.makes.name == "encoder.safetensors"]
    assert len(pretrainings) == 2
    for run in pretrainings:
        assert not run.needs[0].stripped
        words = run.calls(Results(tmp_path / "some.json"))[0].words
        assert words[words.index("--init.weights") + 1] == str(run.needs[0].makes.parent)


def test_measures_of_cells_are_collected_by_labels_start_and_method(tmp_path: Path) -> None:
    for seed, accuracy in ((1, 0.4), (0, 0.3)):
        cell = tmp_path / f"5_per_class-seed{seed}-pretrained-probe.json"
        cell.write_text(f'{{"measured": {{"accuracy": {accuracy}, "per_class": {{}}}}}}')
    (tmp_path / "other.json").write_text("{}")
    found = uses.measured_in(tmp_path)
    assert found == {"5_per_class pretrained probe": {"accuracy": [0.3, 0.4]}}
