"""What the wheel holds beside fcmae: the programs, in fcmae/app, where `fcmae.cli` finds them.

hatchling calls this when it builds a wheel. An editable installation finds them in the checkout.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROGRAMS = ("pretrain.py", "data/**/*", "finetune/**/*", "scripts/**/*")
LEFT_OUT = {".gz", ".pyc"}  # the embedded images, 21 MB, come with the checkout alone


class ProgramsHook(BuildHookInterface):
    """Put the programs and their recipes under fcmae/app."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Tell hatchling of the files; `version` is "editable" or "standard"."""
        if version == "editable":
            return
        root = Path(self.root)
        found = (path for pattern in PROGRAMS for path in root.glob(pattern) if path.is_file())
        build_data["force_include"] |= {
            str(path): f"fcmae/app/{path.relative_to(root)}"
            for path in sorted(found)
            if path.suffix not in LEFT_OUT
        }
