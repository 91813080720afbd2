"""YAML of others: read within bounds, each key once, and refused in a line that names its place."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

MOST_BYTES = 4_000_000  # a recipe has a few thousand
MOST_VALUES = 100_000  # with those that aliases repeat
DEEPEST = 32  # levels; recipes have three
TAG = "tag:yaml.org,2002:"
PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")  # the values that a config holds


class Loader(yaml.SafeLoader):
    """The safe loader of PyYAML for numbers, truth values, texts, lists and mappings alone.

    Dates stay texts. `Texts` leaves all values but none the texts that they are in the file.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.values = 0
        self.sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a value, and count it; an alias counts as all that it repeats."""
        event = self.peek_event()
        before = self.values
        self.depth += 1
        if self.depth > DEEPEST:
            raise refused(event, f"values are nested more than {DEEPEST} levels deep")
        node = super().compose_node(parent, index)
        assert node is not None  # an event that begins a value gives one
        if isinstance(event, yaml.AliasEvent) and node not in self.sizes:
            raise refused(event, f"the alias *{event.anchor} stands inside of its own anchor")
        self.values += self.sizes.get(node, 1)
        if self.values > MOST_VALUES:
            raise refused(event, f"there are more than {MOST_VALUES} values")
        if node not in self.sizes and isinstance(node, yaml.MappingNode):
            check_keys(node)
        self.sizes[node] = self.values - before
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Make what a node stands for, such as a number."""
        try:
            return super().construct_object(node, deep)
        except LookupError as error:
            raise refused(node, "a value does not fit its tag") from error
        except ValueError as error:  # as a number without end
            raise refused(node, f"{error}") from error


class Texts(Loader):
    """Leaves all values but none as texts, which the types of flags give their meaning."""


def check_keys(node: yaml.MappingNode) -> None:
    """Check that the keys of a mapping are different texts.

    Raises:
        MarkedYAMLError: they are not.
    """
    seen = set[str]()
    for key, _ in node.value:
        if key.tag == f"{TAG}merge":
            continue
        if key.tag != f"{TAG}str":
            raise refused(key, "a key is no text: put it in quotes")
        if key.value in seen:
            raise refused(key, f"the key {key.value!r} comes twice")
        seen.add(key.value)


def refused(place: Any, rule: str) -> yaml.MarkedYAMLError:
    """The error of a rule that a node or an event breaks."""
    return yaml.MarkedYAMLError(problem=rule, problem_mark=place.start_mark)


def resolvers(tags: tuple[str, ...]) -> dict[str, list[tuple[str, Any]]]:
    """What of PyYAML's rules tells the types of values by their looks, for these types alone."""
    rules: dict[str, list[tuple[str, Any]]] = yaml.SafeLoader.yaml_implicit_resolvers
    return {
        first: [(tag, pattern) for tag, pattern in those if tag.removeprefix(TAG) in tags]
        for first, those in rules.items()
    }


Loader.yaml_implicit_resolvers = resolvers(("merge", *PLAIN))
Texts.yaml_implicit_resolvers = resolvers(("merge", "null"))
Loader.yaml_constructors = {
    None: yaml.SafeLoader.construct_undefined,
    **{f"{TAG}{name}": yaml.SafeLoader.yaml_constructors[f"{TAG}{name}"] for name in PLAIN},
}
Texts.yaml_constructors = Loader.yaml_constructors


def parse_yaml(text: str, where: object, loader: type[Loader] = Loader) -> Any:
    """The value that a YAML text holds; `where` it is begins the errors.

    Raises:
        ValueError: it is no YAML, has a key twice or one that is no text, a tag, values inside of
            themselves, or too many.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"{where} has {len(text)} characters of YAML, more than {MOST_BYTES}")
    line = 0
    try:
        reading = loader(text)
        try:
            return reading.get_single_data()
        finally:
            line = reading.line
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(
            f"{where} is no YAML: line {line} has the character {chr(error.character)!r}"
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line if mark else line
        told = " ".join(str(error.problem or error.context).split())
        raise ValueError(f"{where} is no YAML: line {line + 1}: {told}") from error
    except ValueError as error:  # an escape sequence of no character
        raise ValueError(f"{where} is no YAML: line {line + 1}: {error}") from error


def read_yaml(path: Path, loader: type[Loader] = Loader) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        ValueError: the file is not in UTF-8 or no mapping, or see `parse_yaml`.
        OSError: it cannot be read.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, more than {MOST_BYTES}")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path} is not in UTF-8: line {line}") from error
    tree = parse_yaml(text, path, loader)
    if not isinstance(tree, dict):
        raise ValueError(f"{path} must hold 'field: value' lines, found {type(tree).__name__}")
    return cast("dict[str, Any]", tree)


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Iterate over the dotted keys and the values of nested mappings, in their order."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(cast("Mapping[str, Any]", value), f"{prefix}{key}.")
        else:
            yield prefix + key, value
