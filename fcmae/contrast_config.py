"""What users choose of the contrastive term; a help text shows it without torch."""

from dataclasses import dataclass

from fcmae.run.ranges import CountFrom0, Extent, NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    """A second term of the loss beside the reconstruction: two views of a sample attract."""

    weight: NotNegative = 0.0
    """Weight of the contrastive term beside the reconstruction; 0 leaves it out. With it, a sample
    gives two views, each with a crop and hidden patches of its own, so that a step encodes twice
    optim.batch_size images. Views of other samples of a micro-batch, over all processes, repel:
    optim.accumulate makes them fewer."""
    temperature: Positive = 0.2
    """Temperature of the term: the lower it is, the more the nearest of other samples count."""
    dim: Extent = 128
    """Number of channels in which views are compared, behind the projector."""
    hidden: Extent = 1024
    """Number of channels of the projector's hidden layer; the projector is for training alone."""
    neighbours: CountFrom0 = 0
    """Earlier samples that are kept in a queue; a view is then attracted by the other view's
    nearest neighbour among them (NNCLR, MAE-CT). 0: by the other view itself (SimCLR)."""

    @property
    def views(self) -> int:
        """Number of views that a sample gives."""
        return 2 if self.weight else 1


OFF = ContrastConfig()
