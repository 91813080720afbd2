"""Files are written whole or not at all, synced before they have their name."""

import errno
import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save_file

from fcmae.run import files
from fcmae.run.files import file_sha256, replacing, staged, write_json, write_text, writing
from tests.support.limits import files_end_at, masked


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


BIG = np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8)


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("big", BIG.tobytes())


def _directory(path: Path) -> None:
    path.mkdir()
    write_json(path / "inner.json", BIG.tolist())


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text(str(BIG.tolist())),
    "safetensors": lambda path: save_file({"x": torch.from_numpy(BIG)}, path),
    "parquet": lambda path: parquet.write_table(pa.table({"x": BIG.flatten()}), path),
    "png": lambda path: Image.fromarray(BIG).save(path),
    "pdf": lambda path: _drawn().savefig(path),
    "zip": _zip,
    "directory": _directory,
}


def _drawn() -> Figure:
    mpl.use("agg")
    figure = Figure()
    figure.add_subplot().scatter(*BIG[:2])
    return figure


@pytest.mark.parametrize("name", WRITERS)
def test_whoever_writes_the_error_names_the_file_and_nothing_is_left(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / f"out.{name}"
    wanted = f"^{path} cannot be written: File too large; raise the limit of the size of files"
    write = WRITERS[name]
    with (
        files_end_at(4096),
        pytest.raises(OSError, match=wanted) as raised,
        replacing(path) as partial,
    ):
        write(partial)
    assert raised.value.errno == errno.EFBIG
    assert names(tmp_path) == []


def test_an_error_of_another_file_stays_as_it_is(tmp_path: Path) -> None:
    wanted = r"No such file or directory: .*input"
    with pytest.raises(FileNotFoundError, match=wanted), replacing(tmp_path / "out"):
        (tmp_path / "input").read_text()
    with pytest.raises(FileExistsError, match=r"^told already$"), writing(tmp_path / "out"):
        raise FileExistsError("told already")


@pytest.mark.parametrize(
    ("place", "why"), [("file/out", "Not a directory"), ("full", "Directory not empty")]
)
def test_a_place_that_nothing_can_be_written_at_is_named(
    place: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "of").touch()
    wanted = f"^{tmp_path / place} cannot be written: {why}; name a place"
    with pytest.raises(OSError, match=wanted), replacing(tmp_path / place) as partial:
        partial.mkdir()
    assert names(tmp_path) == ["file", "full"]


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe is a device or a pipe"):
        write_text(tmp_path / "pipe", "text")
    assert names(tmp_path) == ["pipe"]


def test_a_name_may_be_as_long_as_the_disk_allows(tmp_path: Path) -> None:
    write_text(tmp_path / ("n" * 255), "text")
    assert names(tmp_path) == ["n" * 255]


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_files_and_directories_have_the_rights_that_the_umask_leaves(
    umask: int, tmp_path: Path
) -> None:
    (tmp_path / "old").touch(0o600)
    tmp_path.chmod(0o2755)  # new directories are of its group
    with masked(umask):
        for name in ("old", "new"):
            with replacing(tmp_path / name) as partial:
                save_file({"x": torch.zeros(1)}, partial)
        with staged(tmp_path / "folder") as partial:
            (partial / "inner").mkdir(parents=True)
            save_file({"x": torch.zeros(1)}, partial / "inner" / "file")
    modes = {
        str(path.relative_to(tmp_path)): path.stat().st_mode & 0o7777
        for path in tmp_path.rglob("*")
    }
    file, directory = 0o666 & ~umask, 0o2777 & ~umask
    assert modes == {
        **{"old": file, "new": file, "folder/inner/file": file},
        **{"folder": directory, "folder/inner": directory},
    }


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
    before = {"out", "inner", "file"} if directory else {"out"}
    at = events.index("replace")
    assert set(events[:at]) == before
    assert events[at + 1 :] == [tmp_path.name]


def test_who_reads_meanwhile_sees_a_whole_file(tmp_path: Path) -> None:
    texts = ["a" * 100_000, "b" * 200_000]
    write_text(tmp_path / "text", texts[0])
    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(write_text, tmp_path / "text", texts[i % 2]) for i in range(60)]
        while not all(writer.done() for writer in writers):
            assert (tmp_path / "text").read_text() in texts
        for writer in writers:
            writer.result()


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
