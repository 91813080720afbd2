"""The table of the quickstart is made of results that may be damaged."""

import json
from pathlib import Path

import pytest

from scripts.report import main

PROBE = json.dumps({"test_accuracy": {"mean": 0.5, "std": 0.01}})
BASELINES = json.dumps({"raw_pixels": 0.1, "hog": 0.2, "majority": 0.3})
RESULTS = [
    f"{name}-{probe}" for name in ("random", "pretrained") for probe in ("linear_probe", "knn")
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name in RESULTS:
        (tmp_path / f"{name}.json").write_text(PROBE)
    (tmp_path / "baselines.json").write_text(BASELINES)
    return tmp_path


def test_the_table_has_all_results(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(run)])
    table = capsys.readouterr().out
    assert table.count("0.500 ± 0.010") == 4
    assert all(number in table for number in ("0.100", "0.200", "0.300"))


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"\xff\0", b"[" * 100_000, b"[]", b"3", b"null", b"{}"),
        *(b'{"test_accuracy": 3}', b'{"test_accuracy": {"mean": "x", "std": 1}}'),
        b'{"raw_pixels": null}',
    ],
)
@pytest.mark.parametrize("name", [RESULTS[0], "baselines"])
def test_a_damaged_result_is_named(name: str, content: bytes, run: Path) -> None:
    (run / f"{name}.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}\.json (is .*JSON|is damaged: it lacks numbers)"):
        main([str(run)])
