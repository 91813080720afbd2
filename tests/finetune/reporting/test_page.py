"""The file of a report: whole in itself, small, and no text of a run becomes a part of the page."""

import json
import re
from pathlib import Path
from typing import Any

import altair as alt
import pytest

from finetune.reporting.curves import MOST_POINTS
from finetune.reporting.page import SECTIONS, as_script, page
from finetune.reporting.record import read_run, read_runs
from tests.support.records import write_bad_samples, write_run

EVIL = "<script>alert(1)</script>"
TURNED = "\u202etxt.exe"


def markup_of(html: str) -> str:
    """A page without what is in its script elements."""
    return re.sub(r"(<script[^>]*>).*?(</script>)", r"\1\2", html, flags=re.DOTALL)


def data_of(html: str) -> dict[str, Any]:
    """The numbers in a page, as a program finds them."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found[1])["sections"]


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A run that is called EVIL, with such texts wherever a run has texts."""
    config = {"data": {"train": [EVIL, "https://user:hidden@host/a.tar?key=hidden"], EVIL: EVIL}}
    run = write_run(
        tmp_path / "<script>alert(1)<" / "script>",
        config=config,
        columns={EVIL: lambda i: EVIL, "collapse": lambda i: [EVIL]},
    )
    write_bad_samples(run, EVIL, "</td><img src=x onerror=alert(1)>", TURNED)
    (run / "environment.json").write_text(json.dumps([{"command": [EVIL], "packages": {EVIL: 1}}]))
    (run / "data.json").write_text(json.dumps({"shards": [[EVIL, 100, EVIL]]}))
    (run / f"{EVIL[:-9]}.json").write_text("{")
    return run


@pytest.fixture
def evil_page(hostile: Path, tmp_path: Path) -> str:
    return page(read_runs([hostile, write_run(tmp_path / "other" / "script>")]))


def test_texts_of_a_run_are_no_part_of_the_page(evil_page: str) -> None:
    assert evil_page.count("<script") == evil_page.count("</script>") == 4
    assert "<img" not in markup_of(evil_page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in evil_page
    assert TURNED not in evil_page
    assert r"\u202etxt.exe" in evil_page


def test_no_password_is_shown(evil_page: str) -> None:
    assert "hidden@" not in evil_page
    assert "key=hidden" not in evil_page
    assert "https://user:***@host/a.tar" in evil_page


def test_nothing_is_fetched_and_nothing_else_runs(evil_page: str) -> None:
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', evil_page)
    assert policy.startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert "unsafe-eval" not in policy
    assert "script-src &#39;unsafe-inline" not in policy
    markup = markup_of(evil_page)
    links = re.findall(r'(?:href|src|action|srcset)="([^"]*)"', markup)
    assert links
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"<link|<iframe|<object|<base|@import|url\(|<[^>]*\son\w+=", markup)


def test_every_link_has_its_place(evil_page: str) -> None:
    for anchor in re.findall(r'href="#([^"]*)"', markup_of(evil_page)):
        assert f'id="{anchor}"' in evil_page


def test_the_numbers_are_in_the_file(trained: Path) -> None:
    (run,) = read_runs([trained])
    rows = data_of(page([run]))["curves"]["data"]["loss"]
    assert [(row["step"], row["value"]) for row in rows] == run.series("loss")


def test_the_terms_of_the_loss_have_curves_where_a_run_has_them(tmp_path: Path) -> None:
    both = {"reconstruction": lambda i: 0.5, "contrast": lambda i: 2.0, "uniformity": lambda i: -2}
    run = write_run(tmp_path / "both", columns=both)
    html = page(read_runs([run, write_run(tmp_path / "plain")]))
    data = data_of(html)["curves"]["data"]
    assert {row["run"] for row in data["loss"]} == {"both", "plain"}
    assert {row["run"] for row in data["contrast"]} == {"both"}
    assert {row["value"] for row in data["uniformity"]} == {-2}
    assert "alignment" not in data
    assert "Contrastive term" in html


@pytest.mark.slow
def test_a_long_run_stays_small_and_keeps_its_mean(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, 3000, total=3000) for name in ("a", "b", "c")]
    records = read_runs(runs)
    html = page(records)
    assert len(html.encode()) < 5e6
    assert "Runs have up to 3000 logged steps; each point is a mean" in html
    rows = data_of(html)["curves"]["data"]["loss"]
    assert len(rows) == 3 * MOST_POINTS
    losses = [value for _, value in records[0].series("loss")]
    mean = sum(row["value"] for row in rows) / len(rows)
    assert mean == pytest.approx(sum(losses) / len(losses))
    assert rows[MOST_POINTS - 1]["step"] == 3000


def test_charts_are_what_vega_lite_knows(trained: Path) -> None:
    sections = [make(read_runs([trained])) for make in SECTIONS]
    charts = [spec for section in sections if section for spec in section.charts.values()]
    assert len(charts) >= 6
    for spec in charts:
        alt.Chart.from_dict(dict(spec))


def test_values_that_are_no_json_become_null() -> None:
    text = as_script({"a": [float("nan"), float("inf"), 1.5], "b": "</script>\u2028&"})
    assert text == r'{"a":[null,null,1.5],"b":"\u003c/script\u003e\u2028\u0026"}'
    assert json.loads(text) == {"a": [None, None, 1.5], "b": "</script>\u2028&"}


def test_what_differs_between_runs_is_told(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", config={"seed": 0, "data": {"workers": 2}})
    other = write_run(tmp_path / "other", config={"seed": 1, "watch": {"knn_train": []}})
    html = page(read_runs([one, other]))
    table = html[html.index("Settings in which the runs differ</caption>") :].partition("</table>")
    rows = re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', table[0])
    assert rows == [
        ("data.workers", "2", "-"),
        ("seed", "0", "1"),
        ("watch.knn_train", "-", "none"),
    ]
    same = page(
        read_runs([one, write_run(tmp_path / "same", config={"seed": 0, "data": {"workers": 2}})])
    )
    assert "The runs have the same settings." in same


def test_a_run_alone_has_no_table_of_differences(trained: Path) -> None:
    html = page([read_run(trained, "trained")])
    assert "What differs" not in html
    assert "4,886 samples in 4 shards, mean [0.5] and standard deviation [0.25]" in html
    assert "pretrain.py scripts/recipes/demo.yaml" in html
