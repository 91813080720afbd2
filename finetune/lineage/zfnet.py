"""ZFNet (Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, 2013, figure 3).

    layer   maps, units   side   kernel, stride   trainable parameters
    1       96            110    7 x 7, 2         14,208
    pool    96            55     3 x 3, 2
    2       256           26     5 x 5, 2         614,656
    pool    256           13     3 x 3, 2
    3       384           13     3 x 3            885,120
    4       384           13     3 x 3            1,327,488
    5       256           13     3 x 3            884,992
    pool    256           6      3 x 3, 2
    6       4096                                  37,752,832
    7       4096                                  16,781,312
    8       1000                                  4,097,000

62.4 million parameters on images of 224 x 224 pixels. On ImageNet 2012 (validation) it has an error
of 38.4 % for the first guess and of 16.5 % for five (table 2), AlexNet 40.7 % and 18.2 %. What it
changes of AlexNet is what pictures of AlexNet's layers suggested: a first layer of smaller kernels
and smaller stride.
"""

from torch import nn

from finetune.lineage.network import Network


class ZFNet(Network):
    """ZFNet, at any image size: layer 6 reads 6 x 6 averages of the last map.

    At 224 pixels the last map has 6 x 6 sites, so that the average is what was there.

    Args:
        in_chans: number of channels of the images.
        outputs: number of values of the head; 0 makes none.
    """

    def __init__(self, in_chans: int = 3, outputs: int = 1000) -> None:
        maps = nn.Sequential(
            *(nn.Conv2d(in_chans, 96, 7, stride=2, padding=1), nn.ReLU(), overlapping(up=True)),
            nn.LocalResponseNorm(5, k=2),
            *(nn.Conv2d(96, 256, 5, stride=2), nn.ReLU(), overlapping(up=True)),
            nn.LocalResponseNorm(5, k=2),
            *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(), overlapping(up=False)),
        )
        vector = nn.Sequential(
            *(nn.AdaptiveAvgPool2d(6), nn.Flatten()),
            *(nn.Linear(256 * 6 * 6, 4096), nn.ReLU(), nn.Dropout()),
            *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()),
        )
        super().__init__(maps, vector, 4096, outputs)
        self.apply(initialise)


def overlapping(*, up: bool) -> nn.MaxPool2d:
    """Pool 3 x 3 sites by their maximum, at every second site, so that windows overlap.

    Args:
        up: whether sites that fill no window make one too: 55 of 110 sites, and not 54.
    """
    return nn.MaxPool2d(3, stride=2, ceil_mode=up)


def initialise(module: nn.Module) -> None:
    """Draw the weights with a standard deviation of 0.01, and set biases to zero (section 3).

    The paper sets all weights to 0.01, by which it means their size.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
