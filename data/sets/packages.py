"""Packages of npm: npm downloads their tarballs, and files are read out of these."""

import gzip
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.shards.tar import members_of, reader
from fcmae.run.json_files import parse_json
from fcmae.run.waiting import waiting

NAMED = 4  # packages that an error spells out


@dataclass(frozen=True)
class Package:
    """A package of npm, and its version."""

    name: str
    version: str

    @property
    def spec(self) -> str:
        """What `npm pack` takes for the package."""
        return f"{self.name}@{self.version}"

    @property
    def tarball(self) -> str:
        """The name of the file that `npm pack` writes for the package."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


def download(packages: Sequence[Package], folder: Path) -> None:
    """Download the tarballs of packages to a folder, with npm.

    Raises:
        FileNotFoundError: npm is not installed.
        ChildProcessError: npm failed.
    """
    specs = [package.spec for package in packages]
    named = " ".join(specs[:NAMED]) + (" ..." if len(specs) > NAMED else "")
    by_hand = f"run `npm pack {named}` where that works and give the folder: --source"
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(f"npm is not installed; install Node.js, or {by_hand}")
    command = [npm, "pack", "--pack-destination", str(folder), *specs]
    with waiting(f"downloading {len(specs)} packages"):
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        message = " ".join(result.stderr.split())
        raise ChildProcessError(f"npm pack failed; {by_hand}; npm said: {message}")


def refuse_missing(packages: Sequence[Package], folder: Path) -> None:
    """Check that a folder has the tarballs of all packages.

    Raises:
        FileNotFoundError: One is missing; the message has the command that brings it.
    """
    for package in packages:
        path = folder / package.tarball
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist; make it there with `npm pack {package.spec}`"
            )


def read_file(tarball: Path, member: str) -> bytes:
    """Read a file out of the tarball of a package.

    Raises:
        ValueError: The package lacks it, or is damaged.
    """
    with gzip.open(tarball) as file:
        read = reader(file)
        for found in members_of(read, None):
            if found.name == f"package/{member}":
                return read(found.start, found.size)
    raise ValueError(f"{tarball} has no package/{member}: download the package again")


def read_json(tarball: Path, member: str) -> Any:
    """Read a JSON file out of the tarball of a package.

    Raises:
        ValueError: The package lacks it, or is damaged.
    """
    return parse_json(read_file(tarball, member), f"{tarball}: {member}", dict)
