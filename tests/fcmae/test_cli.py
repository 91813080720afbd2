"""The command `fcmae`: a door to the same programs, found wherever it is typed."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from fcmae.cli import COMMANDS, SHELLS, enter, split
from fcmae.run.recipes import RECIPES, names, recipe_of
from tests.support.programs import ROOT, run

SHARD = str(ROOT / "data/demo/test-000000.tar.gz")


def test_alone_it_lists_the_commands_in_the_order_of_their_need() -> None:
    done = run("-m", "fcmae")
    assert done.returncode == 0
    listed = [line[4:24].strip() for line in done.stdout.splitlines() if line[4:24].strip()]
    assert [name for name in listed if name in COMMANDS] == list(COMMANDS)
    order = ["shards make", "pretrain", "convert", "probe", "finetune", "predict", "report"]
    assert sorted(order, key=list(COMMANDS).index) == order


@pytest.mark.parametrize("words", [[], ["--version"], ["pretrain", "--help"]])
def test_it_needs_nothing_heavy_to_help(words: list[str]) -> None:
    code = """
import runpy, sys
sys.argv[0] = "fcmae"
try:
    runpy.run_module("fcmae", run_name="__main__", alter_sys=False)
except SystemExit as end:
    assert not end.code, end.code
print(*({"torch", "timm", "accelerate", "matplotlib"} & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize(("group", "members"), [("shards", 3), ("lookup", 2)])
def test_the_first_of_two_words_lists_the_second_ones(
    group: str, members: int, capsys: pytest.CaptureFixture[str]
) -> None:
    enter([group, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == members
    assert all(line.startswith(f"    {group} ") for line in lines)


@pytest.mark.parametrize("name", COMMANDS)
def test_behind_each_command_is_a_program(name: str) -> None:
    command = COMMANDS[name]
    program = importlib.import_module(command.module)
    assert isinstance(getattr(program, command.config), type)
    assert callable(program.main)
    assert command.about[0].islower()
    assert not command.about.endswith(".")


def test_every_program_that_users_start_is_behind_a_command() -> None:
    programs = {f"finetune.{path.stem}" for path in (ROOT / "finetune").glob("[!_]*.py")}
    scripts = {f"scripts.{path.stem}" for path in (ROOT / "scripts").glob("*.py")}
    of_developers = {"scripts.pictures", "scripts.soak", "scripts.wheel"}
    missing = (programs | scripts) - {c.module for c in COMMANDS.values()} - of_developers
    assert not missing


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        (["pretrian"], "fcmae pretrain"),
        (["shards", "mkae"], "make, index, verify"),
        (["shard", "make"], "fcmae shards make"),
        (["lookup"], "neighbours, duplicates"),
        (["few_shot"], "fcmae few-shot"),
        (["xyzzy"], "lists the commands"),
    ],
)
def test_a_misspelt_command_suggests_the_nearest(typed: list[str], nearest: str) -> None:
    with pytest.raises(ValueError, match=nearest):
        split(typed)


def test_a_misspelt_command_is_one_line_and_status_1() -> None:
    done = run("-m", "fcmae", "pretrian")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: no command is called 'pretrian'")


def test_a_misspelt_flag_suggests_the_nearest() -> None:
    done = run("-m", "fcmae", "convert", "a", "b", "--imagesize", "32")
    assert done.returncode != 0
    assert "--image_size" in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("-m", "data.shards", "verify", SHARD), ("shards", "verify", SHARD)),
        (("scripts/plan.py", "imagenet", "--json"), ("plan", "imagenet", "--json")),
    ],
)
def test_it_does_what_the_form_with_python_does(old: tuple[str, ...], new: tuple[str, ...]) -> None:
    expected, done = run(*old), run("-m", "fcmae", *new)
    assert expected.returncode == 0, expected.stderr
    assert (done.returncode, done.stdout) == (0, expected.stdout)


def test_modules_in_the_current_folder_do_not_get_into_its_way(tmp_path: Path) -> None:
    for name in ("data", "scripts", "finetune", "pretrain"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not mine')\n")
    done = run("-m", "fcmae", "shards", "verify", SHARD, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_recipes_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe_of("demo") == RECIPES / "demo.yaml"
    assert recipe_of("finetune/small") == RECIPES / "finetune/small.yaml"
    assert recipe_of("--help") is None
    assert {"demo", "imagenet", "small", "finetune/tiny"} <= set(names())
    Path("demo").mkdir()  # a folder of images, perhaps
    assert recipe_of("demo") is None
    with pytest.raises(
        FileNotFoundError, match=r"recipe dmo\.yaml does not exist; did you mean demo"
    ):
        recipe_of("dmo.yaml")
    with pytest.raises(FileNotFoundError, match="those that come with it: convmae, demo, elpv"):
        recipe_of("mine.yaml")


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_commands_and_flags(shell: str) -> None:
    done = run("-m", "fcmae", "completion", shell)
    assert done.returncode == 0, done.stderr
    for word in ("pretrain", "few-shot", "duplicates", "image_size", "max"):
        assert word in done.stdout


def test_bash_completes(tmp_path: Path) -> None:
    script = tmp_path / "fcmae.bash"
    script.write_text(run("-m", "fcmae", "completion", "bash").stdout)
    code = f'. {script}; COMP_WORDS=(fcmae shards ""); COMP_CWORD=2; _tyro_fcmae; '
    code += 'echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert {"make", "index", "verify"} <= set(done.stdout.split())


def test_another_shell_is_refused() -> None:
    done = run("-m", "fcmae", "completion", "tcsh")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "bash, zsh, fish" in done.stderr
