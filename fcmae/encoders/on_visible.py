"""Dense operations on visible sites alone, for networks that know nothing of hidden patches.

SparK (Tian et al. 2023, arXiv 2301.03580, section 3.1) pretrains ConvNets by sparse operations.
Here they take the place of the dense ones while a network runs, so that no line of it changes:

- what mixes sites (convolutions, pooling, padding) reads zeros at hidden sites, or nothing;
- what reduces over sites (batch, group and instance norm, means, norms and maxima over an image, as
  in squeeze-and-excitation and GRN) does so over the visible ones.

What works on each site alone is left as it is: what it leaves at hidden sites is never read.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Args = tuple[Any, ...]
SPATIAL = ((2, 3), (1, 2))  # dimensions of sites: channels first, channels last


class OnVisible(TorchFunctionMode):
    """Restricts what is computed within it to the visible patches of a batch.

    Args:
        visible: True where the network sees the patch; n patches in raster order.
        grid: rows and columns of patches.

    Raises:
        ValueError: within it, an activation has a size that patches do not tile.
    """

    def __init__(self, visible: Bool[Tensor, "b n"], grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.visible = visible.reshape(len(visible), 1, *grid)
        self.masks = dict[tuple[int, int], Bool[Tensor, "b 1 h w"]]()
        self.padded: Tensor | None = None  # the last one, whose hidden sites are filled already

    def __torch_function__(
        self, func: Any, types: Any, args: Args = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        known = OPERATIONS.get(func)
        x = args[0] if args else None
        if known is None or not isinstance(x, Tensor) or not self.holds(x):
            return func(*args, **(kwargs or {}))
        return known(self, func, *args, **(kwargs or {}))

    def holds(self, x: Tensor) -> bool:
        """Whether a tensor is an activation of the batch, and no weight or pooled vector."""
        sites = x.ndim == 4 and max(x.shape[1:3]) > 1 and max(x.shape[2:]) > 1
        return sites and len(x) == len(self.visible)

    def at(self, sizes: Iterable[int]) -> Bool[Tensor, "b 1 h w"]:
        """Mark the visible sites of an activation with `sizes` rows and columns.

        Raises:
            ValueError: patches do not tile it.
        """
        h, w = sizes
        if (h, w) not in self.masks:
            rows, columns = self.grid
            if h % rows or w % columns:
                raise ValueError(
                    f"its activation of {h}x{w} sites is not tiled by {rows}x{columns} patches"
                )
            grown = self.visible.repeat_interleave(h // rows, 2)
            self.masks[h, w] = grown.repeat_interleave(w // columns, 3)
        return self.masks[h, w]

    def filled(self, x: Float[Tensor, "b c h w"], value: float = 0.0) -> Float[Tensor, "b c h w"]:
        """Put a value in place of whatever stands at hidden sites."""
        if x is self.padded:
            return x
        return x.masked_fill(~self.at(x.shape[2:]), value)

    def means(
        self, x: Float[Tensor, "b c h w"], dims: tuple[int, ...], *, shared: bool = False
    ) -> Float[Tensor, "#b #c #h #w"]:
        """Average over dimensions, of which those of sites count visible sites only.

        Args:
            x: the activation.
            dims: the dimensions.
            shared: whether other processes have images of the same batch.
        """
        mask = self.at(x.shape[2:])
        sums = x.masked_fill(~mask, 0).sum(dims, keepdim=True)
        of_sites = [d for d in dims if d != 1]
        counts = mask.sum(of_sites, keepdim=True) * (x.shape[1] if 1 in dims else 1)
        if shared and dist.is_initialized() and dist.get_world_size() > 1:
            whole = torch.stack([sums, counts.expand_as(sums).to(sums.dtype)])
            sums, counts = all_reduce(whole)
        return sums / counts

    def centred(
        self,
        x: Float[Tensor, "b c h w"],
        dims: tuple[int, ...],
        eps: float,
        *,
        shared: bool = False,
    ) -> tuple[Float[Tensor, "b c h w"], Tensor, Tensor, Tensor]:
        """Subtract the mean of the visible sites, in float32; they are left to be divided.

        Returns:
            The centred activation, the inverse of the deviation, the mean and the variance.
        """
        x = x.float()
        mean = self.means(x, dims, shared=shared)
        x = x - mean
        var = self.means(x.square(), dims, shared=shared)
        return x, (var + eps).rsqrt(), mean, var


def convolve(
    sites: OnVisible, func: Any, x: Tensor, weight: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """Convolve, reading zeros at hidden sites; a 1x1 kernel reads its own site alone."""
    return func(x if weight.shape[2:] == (1, 1) else sites.filled(x), weight, *args, **kwargs)


def pad(
    sites: OnVisible,
    func: Any,
    x: Tensor,
    pad: Any,
    mode: str = "constant",
    value: float | None = None,
) -> Tensor:
    """Pad, with the padding's own value at hidden sites, too."""
    if mode != "constant":
        raise ValueError(f"its padding has the mode {mode!r}, which copies sites")
    padded = func(sites.filled(x, value or 0.0), pad, mode, value)
    sites.padded = padded
    return padded


def max_pool(sites: OnVisible, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Take maxima over the visible sites of each window."""
    return func(sites.filled(x, float("-inf")), *args, **kwargs).nan_to_num(neginf=0.0)


def avg_pool(sites: OnVisible, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Average over the visible sites of each window, with padding where the network counts it."""
    mask = sites.at(x.shape[2:]).to(x.dtype)
    share = func(mask, *args, **kwargs) / func(torch.ones_like(mask), *args, **kwargs)
    return func(sites.filled(x), *args, **kwargs) / share.masked_fill(share == 0, 1)


def global_pool(
    sites: OnVisible, func: Any, x: Tensor, output_size: Any, return_indices: bool = False
) -> Tensor:
    """Average, or take the maximum, over the visible sites of an image."""
    if return_indices:
        raise ValueError("it asks where the maxima are")
    if output_size not in (1, (1, 1), [1, 1]):
        raise ValueError(f"it pools to {output_size} sites, which patches do not tile")
    if func is F.adaptive_max_pool2d:
        return sites.filled(x, float("-inf")).amax((2, 3), keepdim=True)
    return sites.means(x, (2, 3))


def batch_norm(
    sites: OnVisible,
    func: Any,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise by the statistics of the visible sites of all images of the batch.

    The images of all processes count. The running statistics are those of visible sites.
    """
    if not training:
        return func(x, running_mean, running_var, weight, bias, training, momentum, eps)
    y, scale, mean, var = sites.centred(x, (0, 2, 3), eps, shared=True)
    if running_mean is not None and running_var is not None:
        world = dist.get_world_size() if dist.is_initialized() else 1
        count = world * sites.at(x.shape[2:]).sum()  # all processes have as many
        with torch.no_grad():
            running_mean.lerp_(mean.flatten(), momentum)
            running_var.lerp_((var * count / (count - 1)).flatten(), momentum)
    if weight is not None:
        scale = scale * weight[:, None, None]
    y = y * scale if bias is None else torch.addcmul(bias[:, None, None], y, scale)
    return y.to(x.dtype)


def group_norm(
    sites: OnVisible,
    func: Any,
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each group of channels of an image by the statistics of its visible sites."""
    groups = x.unflatten(1, (num_groups, -1)).flatten(0, 1)
    repeated = OnVisible(sites.visible.repeat_interleave(num_groups, 0).flatten(1), sites.grid)
    y, scale, _, _ = repeated.centred(groups, (1, 2, 3), eps)
    y = (y * scale).reshape(x.shape)
    if weight is not None:
        y = y * weight[:, None, None]
    return (y if bias is None else y + bias[:, None, None]).to(x.dtype)


def reduce(sites: OnVisible, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Reduce over the visible sites of an image, or over channels, as it is."""
    names = REDUCTIONS[func]
    given = dict(zip(names, args, strict=False)) | kwargs
    dim = given.get("dim", given.get("axis"))
    dims = sorted(d % 4 for d in ([dim] if isinstance(dim, int) else dim or ()))
    layout = next((layout for layout in SPATIAL if dims == list(layout)), None)
    if layout is None:
        return func(x, *args, **kwargs)
    last = layout == (1, 2)
    moved = x.permute(0, 3, 1, 2) if last else x
    if func in (torch.amax, Tensor.amax):
        moved = sites.filled(moved, float("-inf"))
    elif func in (torch.mean, Tensor.mean):
        mask = sites.at(moved.shape[2:])
        moved = moved.masked_fill(~mask, 0) * (mask[0].numel() / mask[0].sum())
    else:
        moved = sites.filled(moved)
    return func(moved.permute(0, 2, 3, 1) if last else moved, *args, **kwargs)


REDUCTIONS = {
    **dict.fromkeys((torch.mean, Tensor.mean, torch.sum, Tensor.sum), ("dim", "keepdim")),
    **dict.fromkeys((torch.amax, Tensor.amax), ("dim", "keepdim")),
    **dict.fromkeys((torch.norm, Tensor.norm), ("p", "dim", "keepdim")),
    torch.linalg.vector_norm: ("ord", "dim", "keepdim"),
}
OPERATIONS: dict[Any, Callable[..., Tensor]] = {
    F.conv2d: convolve,
    F.pad: pad,
    F.max_pool2d: max_pool,
    torch.max_pool2d: max_pool,
    F.avg_pool2d: avg_pool,
    F.adaptive_avg_pool2d: global_pool,
    F.adaptive_max_pool2d: global_pool,
    F.batch_norm: batch_norm,
    F.group_norm: group_norm,
    **dict.fromkeys(REDUCTIONS, reduce),
}
