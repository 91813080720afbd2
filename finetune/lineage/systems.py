"""The systems of the line from LeNet-5 to ConvNeXt V2: their papers, ideas, code and flags.

Figures are those of the papers. What a system is here, and where its ideas stand in code, is beside
them, so that one table serves the runs, the measurements and the page.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["plain stacks", "branches and residuals", "attention", "modern ConvNets"]


@dataclass(frozen=True, kw_only=True)
class System:
    """A network of the line, and how it is trained here."""

    key: str
    """What it is called on a command line, and the name of the folder of its runs."""
    name: str
    """What it is called in its paper."""
    year: int
    """Of its first publication."""
    paper: str
    """Its authors and title."""
    kind: Kind
    """The colour of its points."""
    brought: str
    """What it brought, in a few words."""
    idea: str
    """Its idea in two plain sentences."""
    published: str
    """Its parameters, and what the paper reports."""
    top1: tuple[str, float] | None
    """A model of the paper, and its accuracy on ImageNet's validation images; None if the paper
    tells none."""
    code: tuple[str, ...]
    """The classes and functions in which the idea stands, as `module:name`."""
    backbone: str = ""
    """`--backbone` of its training from scratch; empty for the random start of the encoder."""
    encoder: str = ""
    """`--model.name` of its masked pretraining; empty if it is not pretrained here."""
    stem_stride: int | None = None
    """Stride of the stem where images are small; None for the only one that there is."""
    ratio: float = 0.6
    """Share of the patches that are hidden from it."""
    note: str = ""
    """What differs here from the protocol or from the paper."""


FIRST = (
    System(
        key="lenet5",
        name="LeNet-5",
        year=1998,
        paper="LeCun, Bottou, Bengio and Haffner: Gradient-Based Learning Applied to Document"
        " Recognition",
        kind="plain stacks",
        brought="local receptive fields and shared weights",
        idea="Each unit looks at a small window of the image, and all units of a map share the"
        " same weights, so that a pattern is found wherever it stands. Maps grow smaller and more"
        " numerous from layer to layer, and everything is learned from the pixels to the answer.",
        published="60,000 parameters; 0.95 % errors on MNIST",
        top1=None,
        code=(
            "finetune.lineage.lenet:LeNet5",
            "finetune.lineage.lenet:Subsampling",
            "finetune.lineage.lenet:PartlyConnected",
        ),
        backbone="lineage:lenet5",
        note="a linear layer in place of the radial basis functions of its output",
    ),
    System(
        key="alexnet",
        name="AlexNet",
        year=2012,
        paper="Krizhevsky, Sutskever and Hinton: ImageNet Classification with Deep Convolutional"
        " Neural Networks",
        kind="plain stacks",
        brought="ReLU, dropout and overlapping pooling",
        idea="The same plan, a thousand times larger, learns a million photographs on two graphics"
        " cards. Units that simply cut off below zero learn fast, and half of the units of the"
        " last layers are dropped at random, so that they do not learn the images by heart.",
        published="60 million parameters; 40.7 % errors on ImageNet 2012, 18.2 % in five guesses",
        top1=("AlexNet", 0.593),
        code=("torchvision.models.alexnet:AlexNet", "torch.nn.modules.dropout:Dropout"),
        backbone="lineage:alexnet",
        note="torchvision's, of the paper's successor for one graphics card (2014), without"
        " response normalisation",
    ),
    System(
        key="zfnet",
        name="ZFNet",
        year=2013,
        paper="Zeiler and Fergus: Visualizing and Understanding Convolutional Networks",
        kind="plain stacks",
        brought="layers explained",
        idea="Running a network backwards shows which pixels excite a unit, and the pictures told"
        " where AlexNet was too coarse. A first layer with smaller windows and smaller steps was"
        " the remedy, the first design that was made by looking inside.",
        published="62 million parameters; 38.4 % errors on ImageNet 2012, 16.5 % in five guesses",
        top1=("ZFNet", 0.616),
        code=("finetune.lineage.zfnet:ZFNet", "fcmae.responses:Responses"),
        backbone="lineage:zfnet",
        note="weights are drawn with a deviation of 0.01",
    ),
    System(
        key="vgg16",
        name="VGG-16",
        year=2014,
        paper="Simonyan and Zisserman: Very Deep Convolutional Networks for Large-Scale Image"
        " Recognition",
        kind="plain stacks",
        brought="stacks of 3 x 3 convolutions",
        idea="Two convolutions of 3 x 3 see as much as one of 5 x 5, with fewer weights and one"
        " more nonlinearity between them. So the network is nothing but 3 x 3 convolutions, sixteen"
        " layers deep, halved in size and doubled in width from stage to stage.",
        published="138 million parameters; 24.4 % errors on ImageNet 2012, 7.2 % in five guesses",
        top1=("VGG-16", 0.756),
        code=("torchvision.models.vgg:VGG", "torchvision.models.vgg:make_layers"),
        backbone="lineage:vgg16",
    ),
    System(
        key="googlenet",
        name="GoogLeNet",
        year=2014,
        paper="Szegedy et al.: Going Deeper with Convolutions",
        kind="branches and residuals",
        brought="1 x 1 convolutions and branches",
        idea="Windows of several sizes look at a map side by side, and what they find is put"
        " together. 1 x 1 convolutions make the map thin before the costly windows, and an average"
        " takes the place of the huge last layers, so that it needs a ninth of AlexNet's weights.",
        published="6.6 million parameters; 10.1 % errors in five guesses on ImageNet 2012 (one"
        " network, one crop), 6.7 % of seven networks",
        top1=None,
        code=("torchvision.models.googlenet:Inception",),
        backbone="lineage:googlenet",
        note="torchvision's, with batch normalisation, and without the two classifiers at middle"
        " layers",
    ),
    System(
        key="resnet18",
        name="ResNet-18",
        year=2015,
        paper="He, Zhang, Ren and Sun: Deep Residual Learning for Image Recognition",
        kind="branches and residuals",
        brought="residual connections",
        idea="A block does not have to make its whole output: what comes in is added to it, so that"
        " the block learns what to change. Gradients run through the sums to the first layer, and"
        " networks ten times as deep as before can be trained.",
        published="11.7 million parameters; 27.9 % errors on ImageNet 2012 (ten crops)",
        top1=("ResNet-18", 0.721),
        code=("timm.models.resnet:BasicBlock", "fcmae.encoders.masked_convnet:MaskedConvNet"),
        backbone="timm:resnet18",
        encoder="timm:resnet18",
        ratio=0.5,
    ),
    System(
        key="resnet50",
        name="ResNet-50",
        year=2015,
        paper="He, Zhang, Ren and Sun: Deep Residual Learning for Image Recognition",
        kind="branches and residuals",
        brought="bottlenecks",
        idea="A 1 x 1 convolution makes the map thin, a 3 x 3 one works on it, and another 1 x 1"
        " makes it wide again. With such blocks fifty layers cost little more than thirty-four of"
        " the plain ones.",
        published="25.6 million parameters; 22.9 % errors on ImageNet 2012, 6.7 % in five guesses"
        " (ten crops)",
        top1=("ResNet-50", 0.771),
        code=("timm.models.resnet:Bottleneck", "fcmae.encoders.on_visible:OnVisible"),
        backbone="timm:resnet50",
        encoder="timm:resnet50",
        ratio=0.5,
    ),
)
SECOND = (
    System(
        key="vit_tiny",
        name="ViT-Ti/16",
        year=2020,
        paper="Dosovitskiy et al.: An Image is Worth 16x16 Words; the size is that of Touvron et"
        " al., 2021 (DeiT)",
        kind="attention",
        brought="attention between patches",
        idea="An image is cut into patches, and each patch asks all others what matters to it. No"
        " window limits what a layer sees, and nothing of images is built in, so that it has to be"
        " learned from many more of them.",
        published="5.7 million parameters; 27.8 % errors on ImageNet 2012 (DeiT)",
        top1=("DeiT-Ti", 0.722),
        code=("timm.models.vision_transformer:Block", "timm.layers.attention:Attention"),
        backbone="timm:vit_tiny_patch16_224",
        encoder="mae_vit_tiny",
        ratio=0.75,
        note="pretrained as MAE (He et al., 2022); from scratch with the class token of ViT",
    ),
    System(
        key="vit_small",
        name="ViT-S/16",
        year=2020,
        paper="Dosovitskiy et al.: An Image is Worth 16x16 Words; the size is that of Touvron et"
        " al., 2021 (DeiT)",
        kind="attention",
        brought="attention, twice as wide",
        idea="The same network with vectors twice as long. Its cost grows with the square of the"
        " width and, where images are large, with the square of the number of patches.",
        published="22 million parameters; 20.2 % errors on ImageNet 2012 (DeiT)",
        top1=("DeiT-S", 0.798),
        code=("timm.models.vision_transformer:VisionTransformer",),
        backbone="timm:vit_small_patch16_224",
        note="from scratch alone: ViT-Ti stands for pretrained ones",
    ),
    System(
        key="convnext",
        name="ConvNeXt V1",
        year=2022,
        paper="Liu et al.: A ConvNet for the 2020s",
        kind="modern ConvNets",
        brought="large depthwise kernels, LayerNorm, GELU, LayerScale",
        idea="A ResNet that borrows from transformers what is not attention: windows of 7 x 7 in"
        " each channel by itself, then an MLP at each site. Normalised site by site and scaled"
        " down at the start, it is level with transformers of its size.",
        published="28.6 million parameters and 17.9 % errors on ImageNet 2012 (tiny)",
        top1=("ConvNeXt-T", 0.821),
        code=("fcmae.layers:Block", "fcmae.layers:Mlp"),
        encoder="convnext_atto",
        stem_stride=2,
        note="of the size atto, which is V2's and timm's",
    ),
    System(
        key="convmae",
        name="ConvMAE",
        year=2022,
        paper="Gao et al.: ConvMAE, Masked Convolution Meets Masked Autoencoders",
        kind="attention",
        brought="masked learning at several scales",
        idea="Convolutions on fine maps come first and attention on coarse ones last, and the"
        " network learns to paint hidden patches in from what all scales see. Hidden patches are"
        " kept out of every convolution, so that none can be copied from its neighbours.",
        published="85.0 % accuracy on ImageNet 2012 fine-tuned (base, 1600 epochs)",
        top1=("ConvMAE-B", 0.850),
        code=(
            "fcmae.encoders.convmae:ConvMAE",
            "fcmae.encoders.convmae:ConvBlock",
            "fcmae.masking:draw_visible",
            "fcmae.loss:reconstruction_loss",
        ),
        encoder="convmae_small",
        ratio=0.75,
    ),
    System(
        key="convnextv2",
        name="ConvNeXt V2",
        year=2023,
        paper="Woo et al.: ConvNeXt V2, Co-designing and Scaling ConvNets with Masked Autoencoders",
        kind="modern ConvNets",
        brought="GRN, and a ConvNet as a masked autoencoder",
        idea="Only visible patches are computed, by sparse convolutions, and the rest is painted in"
        " by a decoder of one block. Global response normalisation lets the channels of an image"
        " compete, without which masked learning makes them copies of each other.",
        published="3.7 million parameters and 76.7 % accuracy on ImageNet 2012 (atto, pretrained)",
        top1=("ConvNeXt V2-A", 0.767),
        code=(
            "fcmae.sparse.grn_mlp:GlobalResponseNorm",
            "fcmae.sparse.gathered:Gathered",
            "fcmae.model:FCMAE",
        ),
        encoder="convnextv2_atto",
        stem_stride=2,
        note="of the size atto",
    ),
)
SYSTEMS = {system.key: system for system in (*FIRST, *SECOND)}


def chosen(keys: tuple[str, ...]) -> list[System]:
    """Look systems up, in the order of the line; all of them for no key.

    Raises:
        ValueError: there is no such system.
    """
    for key in keys:
        if key not in SYSTEMS:
            raise ValueError(f"systems has {key}, which is none of {', '.join(SYSTEMS)}")
    return [system for key, system in SYSTEMS.items() if not keys or key in keys]
