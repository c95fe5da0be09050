"""Whole networks."""

from sa_flax.models.dncnn import DnCNN
from sa_flax.models.registry import create_model, list_models
from sa_flax.models.sa_resnet import SAResNet
from sa_flax.models.unet import AttentionUNet

__all__ = ["AttentionUNet", "DnCNN", "SAResNet", "create_model", "list_models"]
