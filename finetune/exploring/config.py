"""What users choose of the page on a checkpoint; a help text shows it without torch."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from fcmae.run.ranges import CountFrom0, Port
from fcmae.run.threads import ThreadsConfig
from finetune.labels.config import InferenceConfig


@dataclass(frozen=True, kw_only=True)
class ExploreConfig(InferenceConfig, ThreadsConfig):
    """Show a checkpoint in a page on this machine, to play with.

    Drop an image, hide patches, and see what the model predicts, its feature maps, which patches it
    finds alike, and its classes. The page asks no other machine, and keeps no image on disk.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    """A run, a step_* directory, fine-tuned weights, or what else fcmae convert reads and tells of
    its images, such as timm:convnextv2_atto.fcmae. Reconstructions need a run of fcmae pretrain."""
    data: tuple[str, ...] = ()
    """Shards, a folder or a table of images to choose from and to look for similar patches in."""
    compare: CountFrom0 = 256
    """How many images of the data, evenly spread, are searched for similar patches. Their features
    are computed at the start; 0 for none."""
    host: str = "127.0.0.1"
    """The address to listen on. Any but that of this machine alone demands a token, which is
    in the URL that is printed."""
    port: Port = 8000
    """The port to listen on; 0 for a free one."""

    def __post_init__(self) -> None:
        if self.fit == "tiles":
            raise ValueError("fit=tiles: the page shows one image of a picture; take crop or pad")
