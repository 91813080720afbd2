"""A recipe is a saved command line, and a config is a recipe again."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

from fcmae.convnexts import SIZES
from fcmae.run.config import differences, parse, to_tree, to_yaml
from fcmae.run.fields import field_names, flatten
from fcmae.run.program import run_program
from fcmae.run.ranges import Count, Positive
from finetune.planning.config import ImagesPlan
from finetune.training.config import TrainConfig
from finetune.training.pretraining import PretrainConfig

RECIPES = sorted((Path(__file__).parents[3] / "scripts" / "recipes").glob("*.yaml"))
DEMO = RECIPES[0].parent / "demo.yaml"
FINETUNE_RECIPES = sorted((RECIPES[0].parent / "finetune").glob("*.yaml"))


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Inner."""

    size: Count | tuple[Count, Count] = 8
    """A size."""
    names: tuple[str, ...] = ("a",)
    """Names."""
    flip: bool = True
    """A switch."""
    clip: Positive | None = None
    """A bound."""


@dataclass(frozen=True, kw_only=True)
class Outer:
    """Outer."""

    out: Path
    """A path."""
    inner: Inner = field(default_factory=Inner)
    kind: Literal["x", "y"] = "x"
    """A kind."""


def recipe(tmp_path: Path, text: str) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return str(path)


def read(*argv: str) -> Outer:
    return parse(Outer, argv, description="test")


def test_a_recipe_equals_its_flags(tmp_path: Path) -> None:
    text = "out: a/b\ninner: {size: [4, 6], names: [p, q], flip: false, clip: 1e-3}\nkind: y\n"
    flags = "--out a/b --inner.size 4 6 --inner.names p q --inner.flip False --inner.clip 1e-3"
    config = read(recipe(tmp_path, text))
    assert config == read(*flags.split(), "--kind", "y")
    assert config.inner == Inner(size=(4, 6), names=("p", "q"), flip=False, clip=1e-3)


def test_no_flags_at_all_give_the_defaults() -> None:
    assert parse(Inner, [], description="") == Inner()


def test_what_is_typed_wins_over_the_recipe(tmp_path: Path) -> None:
    path = recipe(tmp_path, "out: a\ninner: {names: [p, q]}\n")
    assert read(path, "--inner.names", "r").inner.names == ("r",)


def test_a_written_config_reads_back_equal(tmp_path: Path) -> None:
    config = Outer(out=Path("a"), inner=Inner(size=(4, 6), names=("p", "q"), flip=False, clip=0.1))
    assert read(recipe(tmp_path, to_yaml(config))) == config


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_parses_and_round_trips(path: Path, tmp_path: Path) -> None:
    config = parse(PretrainConfig, [str(path), "--data.train", "a.tar"], description="test")
    again = recipe(tmp_path, to_yaml(config))
    assert parse(PretrainConfig, [again], description="test") == config
    written = flatten(yaml.safe_load(path.read_text()))
    assert written.keys() <= set(field_names(PretrainConfig))


@pytest.mark.parametrize("path", FINETUNE_RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_fine_tuning_parses_and_round_trips(path: Path, tmp_path: Path) -> None:
    flags = ["--data.train", "a.tar", "--data.test", "b.tar", "--out", "a.json"]
    config = parse(TrainConfig, [str(path), *flags], description="test")
    again = recipe(tmp_path, to_yaml(config))
    assert parse(TrainConfig, [again], description="test") == config
    assert flatten(yaml.safe_load(path.read_text())).keys() <= set(field_names(TrainConfig))


def test_recipes_of_fine_tuning_are_those_of_the_papers_sizes() -> None:
    # xlarge is V1's alone, and small.yaml is for few labels, not for V1's small
    own = {"convmae"}  # published for another model
    assert {path.stem for path in FINETUNE_RECIPES} - own == SIZES.keys() - {"xlarge"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inner: {siez: 3}", "no field is called inner.siez; did you mean inner.size?"),
        ("zzz: 1", "no field is called zzz; known are out, inner.size"),
        ("- 1", "must hold 'field: value' lines, found list"),
        ("a: [1", "is no YAML: "),
    ],
)
def test_a_wrong_recipe_is_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"recipe\.yaml") as error:
        read(recipe(tmp_path, text))
    assert message in str(error.value)


@pytest.mark.parametrize("flags", [("--inner.siez", "3"), ("--inner.flip", "maybe"), ()])
def test_wrong_flags_exit_with_a_message(
    flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        read("--kind", "y", *flags)
    assert exit_.value.code == 2
    assert (flags or ("--out",))[0] in capsys.readouterr().err


def test_differences_name_the_field_and_both_values() -> None:
    a = to_tree(Outer(out=Path("a"), inner=Inner(clip=1.0), kind="x"))
    b = to_tree(Outer(out=Path("a"), inner=Inner(clip=2.0), kind="y"))
    assert differences(a, b, ignore=("inner.",)) == ["kind: x -> y"]


LINK = "    For further information visit https://errors.pydantic.dev/2/v/literal_error"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("Traceback (most recent call last):\n ...\nValueError: 3 is odd"), "3 is odd"),
        (
            ValueError(f"1 error for Settings\nmode\n  no such\n{LINK}"),
            "1 error for Settings mode no such",
        ),
        (FileNotFoundError(2, "No such file", "a.tar"), "No such file: 'a.tar'"),
        (ValueError(), "ValueError"),
    ],
)
def test_a_program_turns_an_expected_error_into_one_line(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(argv: object) -> None:
        raise error

    monkeypatch.setattr("sys.argv", ["program"])
    with pytest.raises(SystemExit) as exit_:
        run_program(main)
    assert exit_.value.args == (f"error: {line}",)


def test_a_recipe_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"recipe nowhere.yaml does not exist; those that"):
        read("nowhere.yaml")


def test_a_first_word_that_is_no_recipe_is_told_where_it_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "my photos", "demo", "small"):
        Path(name).mkdir()
    for config, word, message in (
        (PretrainConfig, "smal", "'smal' is no recipe; did you mean small?"),
        (PretrainConfig, "photos/", "there, give --data.train photos/"),
        (PretrainConfig, "my photos", "there, give --data.train 'my photos'"),
        (PretrainConfig, "s3://a/b.tar", "there, give --data.train s3://a/b.tar"),
        (PretrainConfig, "b-{00..09}.tar", "there, give --data.train 'b-{00..09}.tar'"),
        (PretrainConfig, "x" * 300, "imagenet, mae_vit, parts, small"),  # too long for a file
        (
            PretrainConfig,
            "",
            "imagenet, mae_vit, parts, small",
        ),  # no folder, though Path("") is one
        (PretrainConfig, "demo", f"--data.train demo, and for the recipe of that name {DEMO}"),
        (TrainConfig, "small", f"recipe of that name {DEMO.with_name('finetune')}/small.yaml"),
        (TrainConfig, "smal", "did you mean finetune/small?"),
        (TrainConfig, "photos", "there, give --data.train photos"),
        (Outer, "smal", "'smal' is no recipe; values stand behind flags, which --help lists"),
    ):
        with pytest.raises(ValueError, match=f"{re.escape(message)}$"):
            parse(config, [word, "--seed", "1"], description="")


@pytest.mark.parametrize(
    ("config", "word", "fields", "hint"),
    [
        (TrainConfig, "small", "data.mean, data.std, model.name", "did you mean finetune/small?"),
        (TrainConfig, "demo", "data.mean", "recipes for this one are finetune/atto, finetune/base"),
        (PretrainConfig, "finetune/small", "augment.scale", "did you mean small?"),
        (PretrainConfig, "finetune/atto", "drop_path", "recipes for this one are convmae, demo"),
        (Outer, "small", "data.mean", "this one has none, and --help lists its flags"),
    ],
)
def test_a_recipe_for_another_program_is_called_so(
    config: type, word: str, fields: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for named in (word, str(DEMO.parent / f"{word}.yaml")):
        with pytest.raises(ValueError, match=r"^recipe") as error:
            parse(config, [named, "--out", "a"], description="")
        told, _, way_out = str(error.value).partition("; ")
        begin = f"recipe {word} is for another program, with fields such as {fields}"
        assert told.startswith(begin)
        assert way_out.startswith(hint)


def test_a_copy_of_a_recipe_for_another_program_is_a_file_of_the_user(tmp_path: Path) -> None:
    copy = recipe(tmp_path, DEMO.with_name("small.yaml").read_text())
    with pytest.raises(ValueError, match=f"^{re.escape(copy)}: no field is called data.mean; did"):
        parse(TrainConfig, [copy], description="")


def test_words_that_a_program_takes_need_not_be_recipes() -> None:
    config = parse(ImagesPlan, ["photos/", "--hours", "1"], description="")
    assert config.images == ("photos/",)


def test_a_switch_needs_no_value(tmp_path: Path) -> None:
    flags = ["--data.train", "a.tar", "--run.dir", str(tmp_path)]
    for switch in (["--dry-run"], ["--dry_run"], ["--dry_run", "True"], ["--dry-run=True"]):
        assert parse(PretrainConfig, [*switch, *flags], description="").dry_run
        assert parse(PretrainConfig, [*flags, *switch], description="").dry_run
    assert not parse(PretrainConfig, [*flags, "--dry_run", "False"], description="").dry_run
