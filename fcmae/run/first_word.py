"""What may be meant by a first word that is no recipe, or by the recipe of another program."""

import difflib
import shlex
from collections.abc import Sequence
from pathlib import Path

from fcmae.run.fields import field_names, flatten
from fcmae.run.recipes import RECIPES, names
from fcmae.run.yaml_files import Texts, read_yaml


def way_out(word: str, config: type) -> str:
    """What may be meant by a first word that is neither a flag nor a recipe.

    Args:
        word: the word.
        config: the dataclass of the config.

    Returns:
        The flag for data of that path; or the nearest of the recipes that `config` can be made of,
        or all of them.
    """
    fitting = fitting_recipes(config)
    last = {Path(name).name: name for name in fitting}  # small: finetune/small
    if names_data(word) and "data.train" in field_names(config):
        same = last.get(Path(word).name)
        recipe = f", and for the recipe of that name {RECIPES / same}.yaml" if same else ""
        return f"to learn from what is there, give --data.train {shlex.quote(word)}{recipe}"
    close = difflib.get_close_matches(Path(word).name, last, n=1)
    if close:
        return f"did you mean {last[close[0]]}?"
    recipes = f"; recipes are {', '.join(fitting)}" if fitting else ""
    return f"values stand behind flags, which --help lists{recipes}"


def names_data(word: str) -> bool:
    """Whether a word looks like images or shards: a place that exists, a pattern, or a URL."""
    if "://" in word or any(sign in word for sign in "{*?["):
        return True
    try:
        return bool(word) and Path(word).exists()  # Path("") would be this folder
    except OSError:  # too long for a name
        return False


def fitting_recipes(config: type) -> list[str]:
    """The names of the recipes that come with the programs and that `config` can be made of."""
    known = set(field_names(config))
    trees = {name: read_yaml(RECIPES / f"{name}.yaml", Texts) for name in names()}
    return [name for name, tree in trees.items() if flatten(tree).keys() <= known]


def for_another_program(recipe: str, foreign: Sequence[str], config: type) -> str:
    """Tell that a recipe that comes with the programs is for another one.

    Args:
        recipe: its name.
        foreign: the fields that it sets and `config` lacks.
        config: the dataclass of the config.

    Returns:
        A line with the recipe of the same last name that `config` can be made of, or with all.
    """
    fitting = fitting_recipes(config)
    same = [name for name in fitting if Path(name).name == Path(recipe).name]
    if same:
        hint = f"did you mean {same[0]}?"
    elif fitting:
        hint = f"recipes for this one are {', '.join(fitting)}"
    else:
        hint = "this one has none, and --help lists its flags"
    told = ", ".join(foreign[:3])
    return f"recipe {recipe} is for another program, with fields such as {told}; {hint}"
