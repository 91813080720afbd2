"""Files are written whole or not at all, synced before they have their name."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from fcmae.run import files
from fcmae.run.files import file_sha256, replacing, staged, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_written_file_is_there_alone_and_in_new_directories(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "text", "é\n")
    assert (tmp_path / "a" / "b" / "text").read_bytes() == "é\n".encode()
    assert names(tmp_path / "a" / "b") == ["text"]


def test_json_is_indented_for_people_and_sorted_for_programs(tmp_path: Path) -> None:
    content = {"b": [1, 0.1], "a": "é"}
    write_json(tmp_path / "people", content)
    assert (tmp_path / "people").read_text() == json.dumps(content, indent=2) + "\n"
    write_json(tmp_path / "programs", content, compact=True)
    assert (tmp_path / "programs").read_text() == '{"a": "\\u00e9", "b": [1, 0.1]}\n'


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "old")
    with pytest.raises(RuntimeError, match="half"), replacing(tmp_path / "text") as partial:  # noqa: PT012
        partial.write_text("ne")
        raise RuntimeError("half")
    assert (tmp_path / "text").read_text() == "old"
    assert names(tmp_path) == ["text"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with replacing(tmp_path / "text") as ours, replacing(tmp_path / "text") as theirs:
        ours.write_text("ours")
        theirs.write_text("theirs")
        assert ours.read_text() == "ours"
    assert (tmp_path / "text").read_text() == "ours"  # whose block ended last
    assert names(tmp_path) == ["text"]


@pytest.mark.parametrize("directory", [False, True])
def test_all_is_synced_before_it_has_its_name(
    directory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, events = tmp_path / "out", list[str]()
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def noted_replace(path: Path, target: Path) -> Path:
        events.append("replace")
        return replace(path, target)

    monkeypatch.setattr(files.os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    with staged(out) as partial:
        if directory:
            (partial / "inner").mkdir(parents=True)
            (partial / "inner" / "file").write_text("x")
        else:
            partial.write_text("x")
    before = {"out.tmp", "inner", "file"} if directory else {"out.tmp"}
    at = events.index("replace")
    assert set(events[:at]) == before
    assert events[at + 1 :] == [tmp_path.name]


def test_what_is_staged_is_not_written_over(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with staged(out) as partial:  # over an empty directory
        partial.mkdir()
        (partial / "file").write_text("kept")
    with pytest.raises(FileExistsError, match="is not written over"), staged(out):
        pass
    assert (out / "file").read_text() == "kept"


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert file_sha256(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()
