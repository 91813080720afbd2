"""Every number that a user chooses has a range, and is refused outside of it before all else."""

import ast
import importlib
import math
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest

from fcmae.run.config import parse, recipe_flags
from fcmae.run.ranges import Count, Positive, Range, checked, numbers_of, real, whole
from finetune.frozen.config import EmbedConfig
from finetune.knn import KnnConfig
from finetune.linear_probe import LinearProbeConfig
from finetune.training.config import FewShotConfig, SegmentConfig, TrainConfig
from finetune.training.pretraining import PretrainConfig
from tests.support.programs import ROOT, run
from tests.test_programs import LIGHT

PARSERS = {"parse", "tyro.cli", "tyro.extras.subcommand_cli_from_dict"}


def configs() -> Iterator[type]:
    """The dataclasses that the programs parse their command lines into."""
    for program in LIGHT:
        place = Path(program)
        tree = ast.parse((ROOT / place).read_text())
        module = importlib.import_module(program.removesuffix(".py").replace("/", "."))
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in PARSERS:
                first = call.args[0]
                names = first.values if isinstance(first, ast.Dict) else [first]
                yield from (getattr(module, ast.unparse(name)) for name in names)


def leaves(hint: Any) -> Iterator[Any]:
    """The types in a type; a number is with its range, or without one."""
    if any(isinstance(part, Range) for part in get_args(hint)):
        yield next(part for part in get_args(hint) if isinstance(part, Range))
    elif get_origin(hint) is Annotated:
        yield from leaves(get_args(hint)[0])
    elif get_args(hint):
        for part in get_args(hint):
            yield from leaves(part)
    elif is_dataclass(hint):
        for part in get_type_hints(hint, include_extras=True).values():
            yield from leaves(part)
    else:
        yield hint


def test_the_configs_are_found() -> None:
    found = {config.__name__ for config in configs()}
    assert {"PretrainConfig", "TrainConfig", "Neighbours", "Verify", "MakeShards"} <= found
    assert len(found) >= 20


@pytest.mark.parametrize("config", sorted(set(configs()), key=str), ids=lambda c: c.__name__)
def test_every_number_of_every_program_has_a_range_and_no_nan(config: type) -> None:
    for leaf in leaves(config):
        assert leaf not in (int, float), f"a number of {config.__name__} has no range"
        if isinstance(leaf, Range):
            for value in (math.nan, math.inf, -math.inf):
                assert leaf.broken(value) == "must be a finite number"


def test_command_lines_are_checked_where_they_are_parsed() -> None:
    for program in (*LIGHT, "data/sets/elpv.py", "data/sets/parts.py", "data/sets/scenes.py"):
        for call in ast.walk(ast.parse((ROOT / program).read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in PARSERS - {"parse"}:
                assert f"checked({ast.unparse(call)})" in ast.unparse(
                    ast.parse((ROOT / program).read_text())
                ), program


def test_a_number_without_a_range_is_a_fault_of_ours() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Bare:
        sizes: tuple[int, ...] | None = (1,)

    with pytest.raises(AssertionError, match="sizes has no range"):
        checked(Bare())


@pytest.mark.parametrize(
    ("bounds", "value", "rule"),
    [
        (whole(1), 0, "must be at least 1"),
        (whole(1), 2**53 + 1, "must be at most 9007199254740992"),
        (whole(1), 10**400, "must be at most 9007199254740992"),
        (whole(0, 255), 256, "must be at most 255"),
        (real(0, above=True), 0.0, "must be above 0"),
        (real(0, 1, below=True), 1.0, "must lie in [0, 1)"),
        (real(0, 1, above=True), 0.0, "must lie in (0, 1]"),
        (real(0, 1), math.nan, "must be a finite number"),
        (real(), -1e300, ""),
    ],
)
def test_a_rule_is_said_in_words(bounds: Range, value: int | float, rule: str) -> None:
    assert bounds.broken(value) == rule


NEEDED: dict[type, list[str]] = {
    PretrainConfig: ["--data.train", "a.tar", "--run.dir", "/nowhere/run"],
    TrainConfig: ["--data.train", "a", "--data.test", "b", "--out", "/nowhere/o.json"],
    EmbedConfig: ["a.tar", "/nowhere/o.parquet", "--weights", "w"],
}
for probe in (SegmentConfig, FewShotConfig):
    NEEDED[probe] = NEEDED[TrainConfig]
for probe in (KnnConfig, LinearProbeConfig):
    NEEDED[probe] = [*NEEDED[TrainConfig], "--weights", "w"]


@pytest.mark.parametrize(
    ("config", "flag", "message"),
    [
        (PretrainConfig, "--optim.clip_grad 0", "optim.clip_grad=0.0 must be above 0"),
        (PretrainConfig, "--optim.clip_grad -1", "optim.clip_grad=-1.0 must be above 0"),
        (PretrainConfig, "--data.std 0.2 -1 1", "data.std=-1.0 must be at least 0 for channel 1"),
        (
            PretrainConfig,
            "--data.mean 0 nan",
            "data.mean=nan must be a finite number for channel 1",
        ),
        (PretrainConfig, "--optim.weight_decay -.1", "optim.weight_decay=-0.1 must be at least 0"),
        (PretrainConfig, "--run.keep_every 0", "run.keep_every=0 must be at least 1"),
        (PretrainConfig, "--run.keep -1", "run.keep=-1 must be at least 1"),
        (PretrainConfig, "--run.save_minutes 0", "run.save_minutes=0.0 must be above 0"),
        (PretrainConfig, "--run.picture_every -1", "run.picture_every=-1 must be at least 0"),
        (PretrainConfig, "--run.recompute 0 4", "run.recompute=4 must be at most 3"),
        (PretrainConfig, "--watch.knn_every 0", "watch.knn_every=0.0 must be above 0"),
        (PretrainConfig, "--optim.epochs inf", "optim.epochs=inf must be a finite number"),
        (PretrainConfig, "--optim.epochs nan", "optim.epochs=nan must be a finite number"),
        (PretrainConfig, "--optim.epochs 1e300", "optim.epochs=1e+300 must be at most 1000000"),
        (PretrainConfig, "--optim.betas 0.9 1", "optim.betas=1.0 must lie in [0, 1)"),
        (PretrainConfig, "--optim.ema 1", "optim.ema=1.0 must lie in [0, 1)"),
        (PretrainConfig, f"--seed {2**63}", f"seed={2**63} must be at most {2**63 - 1}"),
        (PretrainConfig, "--seed -1", "seed=-1 must be at least 0"),
        (PretrainConfig, "--data.nodata inf", "data.nodata=inf must be a finite number"),
        (PretrainConfig, "--data.workers 100000", "data.workers=100000 must be at most 4096"),
        (
            PretrainConfig,
            "--model.image_size 32 9999999",
            "model.image_size=9999999 must be at most 65536",
        ),
        (PretrainConfig, "--data.source.timeout 0", "data.source.timeout=0.0 must lie in (0, 1"),
        (PretrainConfig, "--data.scale 0 1", "data.scale=0.0 must lie in (0, 1]"),
        (TrainConfig, "--task.smoothing 1", "task.smoothing=1.0 must lie in [0, 1)"),
        (TrainConfig, "--random.seed -1", "random.seed=-1 must be at least 0"),
        (SegmentConfig, "--mask_values 0 256", "mask_values=256 must be at most 255"),
        (FewShotConfig, "--fractions 0.1 0", "fractions=0.0 must lie in (0, 1]"),
        (FewShotConfig, "--seeds 0", "seeds=0 must be at least 1"),
        (KnnConfig, "--ks 1 0", "ks=0 must be at least 1"),
        (KnnConfig, "--temperature 0", "temperature=0.0 must be above 0"),
        (LinearProbeConfig, "--lrs 1 nan", "lrs=nan must be a finite number"),
        (EmbedConfig, "--piece 0", "piece=0 must be at least 1"),
    ],
)
def test_a_number_out_of_its_range_is_named(config: type, flag: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^.* must .*$") as error:
        parse(config, [*NEEDED[config], *flag.split()], description="test")
    assert str(error.value).startswith(message)


def test_recipes_have_ranges_too(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("optim: {steps: 0}\n")
    assert recipe_flags(path, PretrainConfig) == ["--optim.steps", "0"]
    with pytest.raises(ValueError, match=r"^optim\.steps=0 must be at least 1$"):
        parse(PretrainConfig, [str(path), *NEEDED[PretrainConfig]], description="test")


def test_a_program_ends_in_one_line_before_it_makes_anything(tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ("--run.dir", str(out), "--data.train", str(tmp_path / "no.tar"), "--seed", str(2**63))
    done = run("pretrain.py", *flags)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: seed={2**63} must be at most {2**63 - 1}\n"
    assert not list(tmp_path.iterdir())


def test_help_shows_ranges(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(LinearProbeConfig, ["--help"], description="test")
    told = " ".join(capsys.readouterr().out.split())
    assert "--epochs 1<=INT" in told
    assert "--data.held_out 0<FLOAT<1" in told


def test_defaults_lie_in_their_ranges() -> None:
    for config in set(configs()):
        for field in fields(config):
            made = field.default_factory() if field.default_factory is not MISSING else None
            if is_dataclass(made):
                checked(made)


def test_numbers_are_found_in_unions_and_tuples() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Config:
        either: Count | tuple[Count, Positive] | None = None
        many: tuple[Count, ...] = ()
        switch: bool = True

    found = [number for _, number, _ in numbers_of(Config(either=(1, 2.0), many=(3, 4)))]
    assert found == [1, 2.0, 3, 4]
    assert [name for name, _, _ in numbers_of(Config(either=5))] == ["either"]
