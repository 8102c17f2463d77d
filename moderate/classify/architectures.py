"""Architectures that timm lacks: networks whose weights stock timm loads and then runs wrongly.

Importing this module registers them with timm, as timm's own modules do. The names of parameters
are those of timm's nearest network.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.conv_bn_act import ConvNormAct
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.inception_v3 import InceptionV3
from timm.models.resnet import Bottleneck, ResNet
from torch import nn
from torch.nn import functional

OPEN_NSFW = "moderate_open_nsfw_resnet50"
NSFWJS_INCEPTION = "moderate_nsfwjs_inception_v3"

default_cfgs = generate_default_cfgs(
    {
        OPEN_NSFW: {
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.875,
            "crop_mode": "squash",
            "interpolation": "bilinear",
            "mean": (123 / 255, 117 / 255, 104 / 255),
            "std": (1 / 255, 1 / 255, 1 / 255),
            "num_classes": 2,
            "first_conv": "conv1",
            "classifier": "fc",
        },
        NSFWJS_INCEPTION: {
            "input_size": (3, 299, 299),
            "pool_size": (8, 8),
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "interpolation": "bilinear",
            "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
            "num_classes": 5,
            "first_conv": "Conv2d_1a_3x3.conv",
            "classifier": "fc",
        },
    }
)


@register_model
def moderate_open_nsfw_resnet50(pretrained: bool = False, **arguments: Any) -> ResNet:
    """Yahoo's open_nsfw: a ResNet-50 of half the width, as Caffe lays it out.

    Caffe halves the image in a block's first 1 x 1 convolution, not in its 3 x 3 one, and its
    pooling rounds up and does not pad.
    """
    model: ResNet = build_model_with_cfg(
        ResNet,
        OPEN_NSFW,
        pretrained,
        block=Bottleneck,
        layers=(3, 4, 6, 3),
        channels=(32, 64, 128, 256),
        **arguments,
    )
    model.add_module("maxpool", nn.MaxPool2d(3, stride=2, ceil_mode=True))
    for module in model.modules():
        if isinstance(module, Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
    return model


class KerasPoolBranch(ConvNormAct):
    """The convolution after an average pooling that was computed as Keras computes it.

    timm counts the padding as zeros in the average; Keras with `padding = same` averages the
    values that there are. The input is corrected here, so that parameter names stay timm's.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """N x C x H x W averages, of which timm took each over nine values."""
        share = functional.avg_pool2d(
            torch.ones_like(images[:1, :1]), kernel_size=3, stride=1, padding=1
        )
        convolved: torch.Tensor = super().forward(images / share)  # type: ignore[no-untyped-call]
        return convolved


@register_model
def moderate_nsfwjs_inception_v3(pretrained: bool = False, **arguments: Any) -> InceptionV3:
    """nsfwjs's InceptionV3, which Keras trained: other averages beside the borders than timm's."""
    model: InceptionV3 = build_model_with_cfg(
        InceptionV3, NSFWJS_INCEPTION, pretrained, **arguments
    )
    for block in model.children():
        branch = getattr(block, "branch_pool", None)
        if isinstance(branch, ConvNormAct):
            block.branch_pool = KerasPoolBranch(
                branch.conv.in_channels,
                branch.conv.out_channels,
                kernel_size=1,
                padding=0,
                norm_kwargs={"eps": branch.bn.eps},
                act_layer="relu",
                act_kwargs={"inplace": True},
            )
    return model
