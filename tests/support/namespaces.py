"""Programs in a mount namespace of their own, where file systems can be small or read-only."""

import os
import shutil
import subprocess
import sys
from functools import cache

import pytest

from tests.support.programs import ONE_THREAD, ROOT


@cache
def _are_allowed() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0


def run_after(mount: str, code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in the root of the project after a shell command that mounts something.

    The test is skipped where this machine allows no namespaces.
    """
    if not _are_allowed():
        pytest.skip("no mount namespaces here")
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$0" -c "$1"', sys.executable, code],
        cwd=ROOT,
        env=os.environ | ONE_THREAD | env,
        capture_output=True,
        text=True,
    )
