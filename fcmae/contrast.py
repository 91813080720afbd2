"""The contrastive term: two views of a sample attract, views of others repel (NT-Xent, NNCLR).

Sources: SimCLR (Chen et al. 2020, arXiv 2002.05709), NNCLR (Dwibedi et al. 2021, arXiv 2104.14548),
and MAE-CT (Lehner et al. 2023, arXiv 2304.10520), which tunes masked autoencoders so.

Letters: n samples, each with v = 2 views, d channels.
"""

import torch
import torch.distributed as dist
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn import functional as F

from fcmae.contrast_config import ContrastConfig
from fcmae.layers import initialise


class Contrast(nn.Module):
    """The projector of features, and the loss of what it makes of the two views of samples.

    The projector is an MLP with one hidden layer (SimCLR, section 2.1) and batch norm behind both
    of its layers (MoCo v3, arXiv 2104.02057, section 4.2), whose statistics are of the samples of
    all processes. Fresh features all point nearly the same way, and without these norms the term
    has to unlearn that first.

    Args:
        dim: number of channels of a feature.
        config: of the term.
        generator: source of the initial weights, and of the queue's first neighbours; the global
            one by default.
    """

    queue: Tensor | None

    def __init__(
        self, dim: int, config: ContrastConfig, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.weight = config.weight
        self.temperature = config.temperature
        self.projector = nn.Sequential(
            nn.Linear(dim, config.hidden, bias=False),
            nn.BatchNorm1d(config.hidden, track_running_stats=False),
            nn.GELU(),
            nn.Linear(config.hidden, config.dim, bias=False),
            nn.BatchNorm1d(config.dim, affine=False, track_running_stats=False),
        )
        initialise(self.projector, generator)
        queue = None
        if config.neighbours:
            drawn = torch.randn(config.neighbours, config.dim, generator=generator)
            queue = F.normalize(drawn, dim=1)
        self.register_buffer("queue", queue)  # a checkpoint carries it

    def forward(
        self, features: Float[Tensor, "nv d"]
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Compute the term over the samples of all processes, and feed the queue, if there is one.

        Args:
            features: of the views of this process, the two of a sample one after the other.

        Returns:
            The term, the same on every process, and `alignment` and `uniformity` of the views.

        Raises:
            ValueError: views are not in pairs, or of one sample alone.
        """
        if len(features) % 2:
            raise ValueError(
                f"the contrastive term takes two views of a sample, one after the other, and there"
                f" are {len(features)}: pass pairs, or call eval() to reconstruct alone"
            )
        z = self.embed(of_all_processes(features))
        if len(z) < 2:
            raise ValueError(
                "the contrastive term compares samples, and a micro-batch has one: raise"
                " optim.batch_size, or lower optim.accumulate"
            )
        with torch.autocast(z.device.type, enabled=False):
            if self.queue is None:
                loss = nt_xent(z, self.temperature)
            else:
                loss = nnclr(z, nearest(z, self.queue), self.temperature)
                self.feed(z[:, 0].detach())
            figures = {"alignment": alignment(z.detach()), "uniformity": uniformity(z.detach())}
        return loss, figures

    def embed(self, features: Float[Tensor, "nv d"]) -> Float[Tensor, "n v c"]:
        """Project features to vectors of length 1 in which views are compared, in full precision.

        Args:
            features: of the views of all processes, the two of a sample one after the other.
        """
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        with torch.autocast(features.device.type, enabled=False):
            z = self.projector(features)
        return F.normalize(rearrange(z, "(n v) c -> n v c", v=2), dim=-1)

    def feed(self, newest: Float[Tensor, "n d"]) -> None:
        """Put samples at the end of the queue, and as many at its front out of it."""
        assert self.queue is not None
        self.queue.copy_(torch.cat([self.queue, newest])[-len(self.queue) :])


def pooled(
    latent: Float[Tensor, "b v d"] | list[Float[Tensor, "b v _ _ _"]],
) -> Float[Tensor, "b d"]:
    """The mean over the visible patches of the last scale.

    Args:
        latent: what the decoder takes: the features of the last scale, or those of each.
    """
    last = latent[-1].flatten(1, 3) if isinstance(latent, list) else latent
    return last.mean(dim=1)


def of_all_processes(features: Float[Tensor, "nv d"]) -> Float[Tensor, "mv d"]:
    """The features of all processes, in the order of the global batch.

    Each process computes the same loss of them. The gradient of a process's own features is the sum
    of these losses' gradients, one of each process; the mean over the processes, which replicas and
    shards take, then is that of one process with all samples.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return features
    return torch.cat(all_gather(features.contiguous()))


def nt_xent(z: Float[Tensor, "n v d"], temperature: float) -> Float[Tensor, ""]:
    """Normalised temperature-scaled cross entropy (SimCLR, eq. 1), the mean over all 2n views.

    Of a view i with its partner j, it is -log exp(z_i z_j / t) / sum_(k != i) exp(z_i z_k / t),
    with all other views in the sum.

    Args:
        z: vectors of length 1, of at least two samples.
        temperature: t.
    """
    views = rearrange(z, "n v d -> (n v) d")
    logits = views @ views.T / temperature
    own = torch.arange(len(views), device=z.device)
    logits = logits.masked_fill(own[:, None] == own, -torch.inf)
    return F.cross_entropy(logits, own ^ 1)  # the partner of view 2i is 2i + 1


def nnclr(
    z: Float[Tensor, "n v d"], neighbours: Float[Tensor, "n v d"], temperature: float
) -> Float[Tensor, ""]:
    """The loss of nearest neighbours (NNCLR, eq. 2), the mean over both views of each sample.

    Of a sample i, whose one view has the neighbour q_i and whose other view is z_i, it is
    -log exp(q_i z_i / t) / sum_k exp(q_i z_k / t), with the other views of all samples in the sum.
    NNCLR's prediction head, which its authors call a small boost, is left out.

    Args:
        z: vectors of length 1, of at least two samples.
        neighbours: of each of them.
        temperature: t.
    """
    logits = torch.einsum("nvd,mvd->vnm", neighbours, z.flip(1)) / temperature
    sample = torch.arange(len(z), device=z.device).repeat(2)
    return F.cross_entropy(logits.flatten(0, 1), sample)


@torch.no_grad()
def nearest(z: Float[Tensor, "n v d"], queue: Float[Tensor, "q d"]) -> Float[Tensor, "n v d"]:
    """The nearest of the queue to each vector, all of length 1 (NNCLR, eq. 1)."""
    return queue[(z @ queue.T).argmax(dim=-1)]


def alignment(z: Float[Tensor, "n v d"]) -> Float[Tensor, ""]:
    """Mean squared distance between the two views of a sample (Wang and Isola 2020, section 4.1).

    0 where they are the same, 2 where they have nothing in common (arXiv 2005.10242).
    """
    return (z[:, 0] - z[:, 1]).square().sum(dim=-1).mean()


def uniformity(z: Float[Tensor, "n v d"]) -> Float[Tensor, ""]:
    """Log of the mean of exp(-2 |x - y|^2) over samples x, y (Wang and Isola 2020, section 4.1.2).

    Of each view by itself; the mean of both. 0 where all samples are the same, and the lower the
    more evenly they lie on the sphere, down to nearly -4 (arXiv 2005.10242).
    """
    values = [F.pdist(view).square().mul(-2).exp().mean().log() for view in z.unbind(1)]
    return torch.stack(values).mean()
