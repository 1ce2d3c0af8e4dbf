"""The image tower: uint8 pixels in, vectors of the shared space out. Knows no file format and no augmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import timm
import torch
from timm.data.config import resolve_data_config
from timm.models import load_state_dict
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unimir.config import ImageConfig

CACHED_PICTURES = 32
"""Pictures whose activations are in memory at the same time, of a cached batch."""


class ImageEncoder(nn.Module):
    """A timm backbone without its classifier, and a projection to the shared space."""

    mean_C11: Tensor
    std_C11: Tensor

    def __init__(self, config: ImageConfig, *, dim: int) -> None:
        super().__init__()
        if not timm.is_model(config.name):
            raise ValueError(f"image backbone {config.name!r}; timm has no model of this name")
        self.backbone = _created(config)
        if config.checkpoint:
            _load(self.backbone, config)
        self.passes: Callable[[int], int] = int  # as of the text tower
        self.data_config: dict[str, Any] = resolve_data_config({}, model=self.backbone)
        # Some families have a hidden layer between features and classifier, which stays when that goes.
        hidden = getattr(self.backbone, "head_hidden_size", None) or self.backbone.num_features
        self.projection = nn.Linear(cast(int, hidden), dim, bias=False)
        mean, std = torch.tensor(self.data_config["mean"]), torch.tensor(self.data_config["std"])
        self.register_buffer("mean_C11", 255 * mean[:, None, None], persistent=False)
        self.register_buffer("std_C11", 255 * std[:, None, None], persistent=False)

    def forward(self, pixels_BHWC: Tensor, *, cached: bool = False) -> Tensor:
        """Vectors [B, D], not normalised, of uint8 pictures [B, height, width, 3].

        With `cached`, activations of one chunk of pictures at a time are in memory, as in the text tower, with a
        gradient or without.
        """
        if not cached:
            return self._encode(pixels_BHWC)
        chunks = list(pixels_BHWC.split(CACHED_PICTURES))
        chunks += [pixels_BHWC[:1]] * (self.passes(len(chunks)) - len(chunks))
        again = partial(checkpoint, self._encode, use_reentrant=False)
        vectors = [(again if torch.is_grad_enabled() else self._encode)(chunk) for chunk in chunks]
        return torch.cat(vectors)[: len(pixels_BHWC)]

    def _encode(self, pixels_BHWC: Tensor) -> Tensor:
        pixels_BCHW = (pixels_BHWC.permute(0, 3, 1, 2).float() - self.mean_C11) / self.std_C11
        dtype = self.projection.weight.dtype
        # Whoever rounds the weights leaves constants (Swin's masks, positions of RoPE) in fp32, which no product takes.
        mixed = any(one.is_floating_point() and one.dtype != dtype for one in self.backbone.buffers())
        with torch.autocast(pixels_BCHW.device.type, dtype, enabled=mixed):
            vectors: Tensor = self.projection(self.backbone(pixels_BCHW.to(dtype)))
        return vectors.to(dtype)


def _created(config: ImageConfig) -> Any:
    """The backbone. ValueError if its constructor takes no such arguments, or its weights cannot be fetched."""
    try:
        return timm.create_model(config.name, pretrained=config.pretrained, num_classes=0, **_args(config))
    except (TypeError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"image backbone {config.name!r} with {dict(config.args)} cannot be made ({reason})"
        ) from error


def _load(backbone: nn.Module, config: ImageConfig) -> None:
    """The backbone's weights of a local checkpoint, whose classifier is left out. ValueError if it is of another."""
    try:
        found = load_state_dict(config.checkpoint, weights_only=True)
    except Exception as error:  # of a file that is none, torch raises whatever its first bytes lead to
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise ValueError(f"{config.checkpoint}: no checkpoint that can be read ({reason})") from error
    try:
        backbone.load_state_dict({name: found[name] for name in backbone.state_dict()})
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{config.checkpoint} is no checkpoint of {config.name} ({reason})") from error


def _args(config: ImageConfig) -> dict[str, Any]:
    """Constructor arguments; YAML and JSON have lists where timm wants tuples."""
    args: Mapping[str, Any] = config.args
    return {key: tuple(value) if isinstance(value, list) else value for key, value in args.items()}
