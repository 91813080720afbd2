"""The embedded glyphs: hashes, split, licences, and that they can be built again."""

import gzip
import io
import json
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import get_data_path
from PIL import Image

from data.sets import demo, glyphs
from data.sets.drawn_fonts import (
    CHARACTERS,
    LICENCES,
    MARGIN,
    SIZE,
    Font,
    UnusableFont,
    copyright_of,
    draw_all,
    read_fonts,
)
from data.sets.embedded import held_out
from data.sets.fonts import FONTS, SCOPE
from data.sets.glyphs import make_samples
from data.sets.packages import Package, download
from data.shards.moments import Moments
from data.shards.reading import open_shards, read_sample
from fcmae.run.yaml_files import read_yaml
from tests.support.programs import ROOT

TYPEFACES = Path(get_data_path()) / "fonts/ttf"
SANS, SERIF = "DejaVuSans.ttf", "DejaVuSerif.ttf"
COPYRIGHT = "Copyright 2024 The Example Project Authors"


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict]]:
    """The samples of each split: key, pixels, cls and the fields of json."""
    read: dict[str, list[dict]] = {}
    for split, spec in (("train", glyphs.TRAIN), ("test", glyphs.TEST)):
        read[split] = []
        for shard in open_shards(spec):  # verifies the hashes of the committed files
            for i in range(shard.samples):
                sample = read_sample(shard, i)
                png = sample["png"]
                assert isinstance(png, bytes)
                pixels = np.asarray(Image.open(io.BytesIO(png)))
                about = {"key": sample["__key__"], "cls": int(sample["cls"]), "pixels": pixels}
                read[split].append(about | json.loads(sample["json"]))
    return read


def test_the_set_has_the_promised_size(splits: dict[str, list[dict]]) -> None:
    everything = [*splits["train"], *splits["test"]]
    assert len(everything) == len(FONTS) * len(CHARACTERS)
    assert {sample["pixels"].shape for sample in everything} == {(SIZE, SIZE)}
    assert sum(path.stat().st_size for path in glyphs.HERE.iterdir()) <= 8e6
    assert len(splits["test"]) == pytest.approx(0.2 * len(everything), rel=0.15)


def test_no_group_is_on_both_sides(splits: dict[str, list[dict]]) -> None:
    groups = {split: {sample["group"] for sample in samples} for split, samples in splits.items()}
    assert not groups["train"] & groups["test"]
    assert groups["test"] == held_out(groups["train"] | groups["test"])


def test_every_font_has_each_character_once(splits: dict[str, list[dict]]) -> None:
    seen = set()
    for sample in [*splits["train"], *splits["test"]]:
        name, character = sample["key"].split("/")
        assert CHARACTERS[sample["cls"]] == character
        assert sample["group"] == glyphs.group_of(name)
        seen.add((name, character))
    assert seen == {(font.name[len(SCOPE) :], c) for font in FONTS for c in CHARACTERS}
    assert json.loads((glyphs.HERE / "classes.json").read_text()) == list(CHARACTERS)


def test_every_train_shard_mixes_classes_and_styles() -> None:
    for shard in open_shards(glyphs.TRAIN, verify=False):
        samples = [read_sample(shard, i) for i in range(0, shard.samples, 4)]
        assert len({int(sample["cls"]) for sample in samples}) == len(CHARACTERS)
        styles = Counter(json.loads(sample["json"])["style"] for sample in samples)
        assert set(styles) == {"sans-serif", "serif", "monospace", "display", "handwriting"}


def test_the_index_and_the_recipe_have_the_statistics(splits: dict[str, list[dict]]) -> None:
    shards = open_shards(glyphs.TRAIN, verify=False)
    moments = Moments.merge([shard.moments for shard in shards if shard.moments is not None])
    pixels = np.stack([sample["pixels"] for sample in splits["train"]])
    counts = np.bincount(pixels.ravel())
    values = np.arange(len(counts)) / 255
    mean = counts @ values / pixels.size
    assert moments.counts == (pixels.size,)
    assert moments.mean() == pytest.approx((mean,))
    assert moments.std() == pytest.approx((np.sqrt(counts @ (values - mean) ** 2 / pixels.size),))
    data = read_yaml(ROOT / "scripts/recipes/glyphs.yaml")["data"]
    assert data["mean"] == pytest.approx(moments.mean(), abs=5e-4)
    assert data["std"] == pytest.approx(moments.std(), abs=5e-4)


def test_notice_names_every_font_with_its_version_and_licence() -> None:
    notice = (glyphs.HERE / "NOTICE").read_text()
    for font in FONTS:
        (line,) = (line for line in notice.splitlines() if line.startswith(f"  {font.name} "))
        assert line.removeprefix(f"  {font.name} {font.version}, ") in LICENCES
    assert notice.lower().count("\n  copyright") == len(FONTS)
    for licence, words in (("OFL-1.1", "SIL OPEN FONT LICENSE"), ("Apache-2.0", "Apache License")):
        assert words in (glyphs.HERE / f"LICENSE-{licence}").read_text()


def test_check_counts_classes_and_where_tells_of_both_sets(
    capsys: pytest.CaptureFixture[str], splits: dict[str, list[dict]]
) -> None:
    glyphs.main(["check"])
    counts = [str(len(splits[split])) for split in ("train", "test")]
    assert capsys.readouterr().out.splitlines()[-1].split() == ["all", *counts]
    demo.main([])
    told = capsys.readouterr().out
    for spec in (demo.TRAIN, demo.TEST, glyphs.TRAIN, glyphs.TEST):
        assert f" '{spec}'" in told


def package_in(
    folder: Path, name: str, typeface: str, licence: str = "OFL-1.1", attribution: str = COPYRIGHT
) -> Package:
    """Write a tarball like those of `npm pack`, for a typeface of matplotlib."""
    package = Package(f"@fontsource/{name}", "1.0.0")
    about = {"family": name.title(), "category": "serif", "license": {"attribution": attribution}}
    files = {
        "metadata.json": json.dumps(about).encode(),
        "package.json": json.dumps({"license": licence}).encode(),
        "LICENSE": b"SIL OPEN FONT LICENSE",
        # FreeType goes by the content
        f"files/{name}-latin-400-normal.woff": (TYPEFACES / typeface).read_bytes(),
    }
    with tarfile.open(folder / package.tarball, "w:gz") as tar:
        for file, content in files.items():
            header = tarfile.TarInfo(f"package/{file}")
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return package


def test_a_glyph_is_centred_up_to_the_margin_in_few_greys() -> None:
    drawn = draw_all((TYPEFACES / SANS).read_bytes())
    assert drawn.shape == (34, 64, 64)
    assert set(np.unique(drawn)) <= set(range(0, 256, 17))
    for glyph in drawn:
        rows, columns = np.nonzero(glyph < 128)
        sides = sorted((np.ptp(rows) + 1, np.ptp(columns) + 1))
        assert sides[1] == pytest.approx(64 - 2 * MARGIN, abs=1)
        assert rows.min() + rows.max() == pytest.approx(63, abs=2)
        assert columns.min() + columns.max() == pytest.approx(63, abs=2)


def test_fonts_without_these_characters_are_refused() -> None:
    with pytest.raises(UnusableFont, match=r"its A is equal to a (missing character|blank)"):
        draw_all((TYPEFACES / "STIXSizOneSymReg.ttf").read_bytes())
    with pytest.raises(UnusableFont, match="FreeType cannot read it"):
        draw_all(b"no font")


def test_fonts_of_no_use_are_left_out_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packages = [
        package_in(tmp_path, "plain", SANS),
        package_in(tmp_path, "again", SANS),
        package_in(tmp_path, "serif", SERIF),
        package_in(tmp_path, "other", SERIF, licence="UFL-1.0"),
        package_in(tmp_path, "nobody", SERIF, attribution="Somebody"),
    ]
    fonts = read_fonts(packages, tmp_path)
    assert [(font.name, font.family) for font in fonts] == [("plain", "Plain"), ("serif", "Serif")]
    assert capsys.readouterr().out.splitlines() == [
        "left out: @fontsource/again, which looks like @fontsource/plain",
        "left out: @fontsource/other, its licence is UFL-1.0, not Apache-2.0 or OFL-1.1",
        "left out: @fontsource/nobody, its package has no copyright line",
    ]
    assert f"Plain\n  @fontsource/plain 1.0.0, OFL-1.1\n  {COPYRIGHT}\n" in glyphs.notice(fonts)
    missing = Package("@fontsource/missing", "2.0.0")
    with pytest.raises(FileNotFoundError, match=r"with `npm pack @fontsource/missing@2\.0\.0`"):
        read_fonts([missing], tmp_path)
    (tmp_path / missing.tarball).write_bytes(gzip.compress(bytes(1024)))
    with pytest.raises(ValueError, match=r"has no package/metadata\.json: download"):
        read_fonts([missing], tmp_path)


@pytest.mark.parametrize(
    ("attribution", "line"),
    [
        (f"{COPYRIGHT} (a@b.org) A-Italic[wght].ttf: {COPYRIGHT}", f"{COPYRIGHT} (a@b.org)"),
        (f"{COPYRIGHT}\n\nThis Font Software is licensed under the SIL", COPYRIGHT),
        ("Google Inc.", "Copyright (c) 2009, A B, with Reserved Font Name C."),
    ],
)
def test_the_copyright_line_is_that_of_the_first_file(attribution: str, line: str) -> None:
    text = "Copyright (c) 2009, A B,\nwith Reserved Font Name C.\n\nThis Font Software ..."
    assert copyright_of(attribution, text) == line


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("alegreya", ["alegreya", "alegreya-sans"]),
        ("ibm-plex", ["ibm-plex-mono", "ibm-plex-sans", "ibm-plex-serif"]),
        ("source", ["source-code-pro", "source-sans-3", "source-serif-4"]),
        ("black-ops", ["black-ops-one"]),
        ("sansita", ["sansita"]),
    ],
)
def test_fonts_of_a_family_form_one_group(group: str, names: list[str]) -> None:
    assert {glyphs.group_of(name) for name in names} == {group}


def test_equal_fonts_give_equal_shards_in_any_order(tmp_path: Path) -> None:
    plain = Font(
        package=Package("@fontsource/plain", "1.0.0"),
        family="Plain",
        style="sans-serif",
        licence="OFL-1.1",
        copyright=COPYRIGHT,
        glyphs=draw_all((TYPEFACES / SANS).read_bytes()),
    )
    fonts = [replace(plain, package=Package(f"@fontsource/{name}", "1")) for name in "abcde"]
    written = []
    for i, order in enumerate((fonts, fonts[::-1])):
        sides = glyphs.split_fonts(order)
        assert [len(sides["train"]), len(sides["test"])] == [4, 1]
        train, test = (list(make_samples(sides[split])) for split in ("train", "test"))
        shards = glyphs.GLYPHS.write(tmp_path / str(i), train, test)
        written.append([(shard.name, shard.sha256) for shard in shards])
    assert written[0] == written[1]
    assert len(written[0]) == 5


@pytest.mark.slow
def test_the_committed_set_is_what_its_sources_make(
    tmp_path: Path, splits: dict[str, list[dict]]
) -> None:
    some = FONTS[::100]
    try:
        download(some, tmp_path)
    except OSError as error:
        pytest.skip(f"the sources cannot be downloaded here: {error}")
    committed = {sample["key"]: sample for side in splits.values() for sample in side}
    fonts = read_fonts(some, tmp_path)
    assert len(fonts) == len(some)
    for sample in make_samples(fonts):
        kept = committed[sample["__key__"]]
        assert kept["cls"] == sample["cls"]
        assert {name: kept[name] for name in sample["json"]} == sample["json"]
        made = np.asarray(Image.open(io.BytesIO(sample["png"])))
        assert np.array_equal(made, kept["pixels"])
