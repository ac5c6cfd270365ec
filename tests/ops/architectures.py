"""The networks whose exports are tried: published ones by torchvision and timm, and four more.

Weights are seeded, never downloaded: He's scale for matrices, statistics, scales and biases that
matter, so that a step of SGD reaches every one of them. Depth and joints are the published ones;
pictures are small, so that a network runs in milliseconds.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, library, nn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


@dataclass(frozen=True)
class Network:
    """How to make a network.

    Attributes:
        origin: the library it is from; `here` for those written out in this file.
        make: returns the network, without its weights set.
        inputs: what it is exported and run with.
        note: what differs from the published network.
        masks: whether it makes masks in its forward pass that an exporter stores as floats; a
            gradient reaches them, and is zero.
    """

    origin: str
    make: Callable[[], nn.Module]
    inputs: tuple[Tensor, ...]
    note: str = ""
    masks: bool = False


@functools.cache
def torchvision() -> ModuleType:
    """Import torchvision, beside a torch built for the CPU too.

    Its operators of detection are compiled for a CUDA torch and do not load beside another; their
    declarations are enough to import the classifiers.
    """
    try:
        import torchvision
    except RuntimeError:
        signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for name in ("nms", "qnms"):
            library.define(f"torchvision::{name}", signature)
        import torchvision
    return torchvision


def timm() -> ModuleType:
    """Import timm, which imports torchvision."""
    torchvision()
    import timm

    return timm


class Attention(nn.Module):
    def __init__(self, width: int, heads: int = 2, *, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        n, length, width = x.shape
        qkv = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) / (width // self.heads) ** 0.5
        if self.causal:
            steps = torch.arange(length, device=x.device)
            future = steps[None] > steps[:, None]
            scores = scores.masked_fill(future, -1e4)
        if mask is not None:
            scores = scores + mask
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, length, width))


class Block(nn.Module):
    def __init__(self, width: int, *, causal: bool = False, first: bool = True) -> None:
        super().__init__()
        self.first = first
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, causal=causal)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.first:
            x = x + self.attention(self.norm1(x), mask)
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attention(x, mask))
        return self.norm2(x + self.mlp(x))


class Bert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 16), nn.Embedding(8, 16)
        self.norm, self.block = nn.LayerNorm(16), Block(16, first=False)
        self.pooler, self.head = nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.places(places))
        x = self.block(x, (1.0 - mask[:, None, None, :].to(x.dtype)) * -1e4)
        return self.head(torch.tanh(self.pooler(x[:, 0])))


class Gpt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 16), nn.Embedding(8, 16)
        self.blocks = nn.Sequential(Block(16, causal=True), Block(16, causal=True))
        self.norm = nn.LayerNorm(16)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        return self.norm(self.blocks(x)) @ self.words.weight.T  # tied


class Recurrent(nn.Module):
    def __init__(self, kind: type) -> None:
        super().__init__()
        self.layer = kind(6, 8, num_layers=2, batch_first=True, bidirectional=kind is nn.LSTM)
        self.head = nn.Linear(16 if kind is nn.LSTM else 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0].mean(1))


def vision(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: torchvision().models.get_model(name, weights=None, num_classes=10, **options)


def image(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: timm().create_model(name, pretrained=False, num_classes=10, **options)


def narrow_vgg() -> nn.Module:
    network = vision("vgg11_bn", init_weights=False)()
    first, *_, last = network.classifier
    network.classifier = nn.Sequential(
        nn.Linear(first.in_features, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(),
        nn.Dropout(), nn.Linear(64, last.out_features),
    )  # fmt: skip
    return network


def small_vit() -> nn.Module:
    return torchvision().models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=6, num_heads=3, hidden_dim=192, mlp_dim=768,
        num_classes=10,
    )  # fmt: skip


@functools.cache
def networks() -> dict[str, Network]:
    """Return every network by name."""
    seeded = torch.Generator().manual_seed(0)

    def pictures(size: int) -> tuple[Tensor, ...]:
        return (torch.randn(2, 3, size, size, generator=seeded),)

    ids = torch.arange(16).reshape(2, 8) % 20
    mask = (torch.arange(8) < 6).long().repeat(2, 1)
    series = torch.randn(2, 7, 6, generator=seeded)
    thin = "its two layers of 4,096 narrowed to 64"
    return {
        "resnet18": Network("torchvision", vision("resnet18"), pictures(64)),
        "resnet50": Network("torchvision", vision("resnet50"), pictures(64)),
        "mobilenet_v3_small": Network("torchvision", vision("mobilenet_v3_small"), pictures(64)),
        "efficientnet_b0": Network("torchvision", vision("efficientnet_b0"), pictures(64)),
        "densenet121": Network("torchvision", vision("densenet121"), pictures(64)),
        "vgg11_bn": Network("torchvision", narrow_vgg, pictures(224), thin),
        "inception_v3": Network(
            "torchvision", vision("inception_v3", aux_logits=False, init_weights=False),
            pictures(96), "without the auxiliary head",
        ),
        "shufflenet_v2_x0_5": Network("torchvision", vision("shufflenet_v2_x0_5"), pictures(64)),
        "regnet_y_400mf": Network("torchvision", vision("regnet_y_400mf"), pictures(64)),
        "convnext_tiny": Network("torchvision", vision("convnext_tiny"), pictures(64)),
        "vit": Network("torchvision", small_vit, pictures(32), "6 layers of ViT-tiny's width"),
        "swin_t": Network("torchvision", vision("swin_t"), pictures(64), masks=True),
        "mobilenetv3_small_050": Network("timm", image("mobilenetv3_small_050"), pictures(64)),
        "regnety_002": Network("timm", image("regnety_002"), pictures(64)),
        "convnext_atto": Network("timm", image("convnext_atto"), pictures(64)),
        "vit_tiny_patch16_224": Network(
            "timm", image("vit_tiny_patch16_224", img_size=64), pictures(64)
        ),
        "swin_tiny_patch4_window7_224": Network(
            "timm", image("swin_tiny_patch4_window7_224", img_size=64, window_size=4), pictures(64),
            "windows of 4",
        ),
        "bert": Network("here", Bert, (ids, mask)),
        "gpt-2": Network("here", Gpt, (ids,)),
        "lstm": Network("here", lambda: Recurrent(nn.LSTM), (series,)),
        "gru": Network("here", lambda: Recurrent(nn.GRU), (series,)),
    }  # fmt: skip


def build(name: str) -> nn.Module:
    """Make a network in evaluation mode, its weights and statistics seeded."""
    network = networks()[name].make()
    seeded = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if not tensor.is_floating_point() or tensor.numel() < 2:
                continue
            if tensor.ndim > 1:
                scale = (2 * len(tensor) / tensor.numel()) ** 0.5
                tensor.normal_(0, scale, generator=seeded)
            elif key.endswith(("running_mean", "bias")):
                tensor.normal_(0.1, 0.1, generator=seeded)
            else:
                tensor.uniform_(0.5, 1.5, generator=seeded)
    return network.eval()
