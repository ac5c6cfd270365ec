"""Small networks of every family that matters, written out: what their exports are made of.

Each has the operators and the joints of the architecture it is named after (residual sums, squeeze
and excitation, channel shuffles, shifted windows, tied embeddings), at a size that trains in
milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

Make = Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]


def unit(cin: int, cout: int, k: int = 3, s: int = 1, g: int = 1, act: type = nn.ReLU) -> nn.Module:
    conv = nn.Conv2d(cin, cout, k, s, k // 2, groups=g, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout), act())


class Residual(nn.Module):
    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + (x if self.shortcut is None else self.shortcut(x))


class Squeeze(nn.Module):
    def __init__(self, width: int, gate: type) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, 4, 1),
            nn.ReLU(),
            nn.Conv2d(4, width, 1),
            gate(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class Branches(nn.Module):
    def __init__(self, *branches: nn.Module, own: bool = False) -> None:
        super().__init__()
        self.branches, self.own = nn.ModuleList(branches), own

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(([x] if self.own else []) + [branch(x) for branch in self.branches], 1)


class Shuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.right = nn.Sequential(unit(8, 8, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8), unit(8, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        x = torch.cat([left, self.right(right)], 1)
        n, c, h, w = x.shape
        return x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class ConvNextBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, 1, 3, groups=width)
        self.norm, self.up = nn.LayerNorm(width), nn.Linear(width, 4 * width)
        self.down, self.scale = nn.Linear(4 * width, width), nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


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


class Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 17, 16))
        self.blocks = nn.Sequential(Block(16), Block(16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.blocks(x)[:, 0])


class Windows(nn.Module):
    """Attention in windows of 4×4, every second time shifted by two."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift, self.block = shift, Block(16)
        self.bias = nn.Parameter(torch.randn(2, 49))
        at = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
        apart = at[:, :, None] - at[:, None, :] + 3
        self.register_buffer("index", apart[0] * 7 + apart[1])

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x = x.reshape(n, h // 4, 4, w // 4, 4, c).transpose(2, 3).reshape(-1, 16, c)
        x = self.block(x, self.bias[:, self.index])
        x = x.reshape(n, h // 4, w // 4, 4, 4, c).transpose(2, 3).reshape(n, h, w, c)
        return torch.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x


class Swin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 2, 2)
        self.windows = nn.Sequential(Windows(0), Windows(2))
        self.merge, self.norm = nn.Linear(64, 16, bias=False), nn.LayerNorm(64)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.windows(self.patches(x).permute(0, 2, 3, 1))
        corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.head(self.merge(self.norm(torch.cat(corners, -1))).mean((1, 2)))


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


def pictures(*layers: nn.Module, width: int) -> Make:
    def make() -> tuple[nn.Module, tuple[Tensor, ...]]:
        end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)]
        return nn.Sequential(*layers, *end), (torch.randn(2, 3, 16, 16),)

    return make


def of(kind: Callable[[], nn.Module], *inputs: Tensor) -> Make:
    return lambda: (kind(), inputs)


def ids() -> Tensor:
    return torch.arange(16).reshape(2, 8) % 20


def networks() -> dict[str, Make]:
    """Return how to make each network and an example of its inputs, by name."""
    torch.manual_seed(0)
    image, mask = torch.randn(2, 3, 16, 16), (torch.arange(8) < 6).long().repeat(2, 1)
    return {
        "resnet": pictures(
            unit(3, 8),
            nn.MaxPool2d(3, 2, 1),
            Residual(nn.Sequential(unit(8, 8), unit(8, 8))),
            Residual(nn.Sequential(unit(8, 16, s=2), unit(16, 16)), unit(8, 16, 1, 2)),
            width=16,
        ),
        "mobilenet-v3": pictures(
            unit(3, 8, s=2, act=nn.Hardswish),
            Residual(
                nn.Sequential(
                    unit(8, 16, 1, act=nn.Hardswish),
                    unit(16, 16, 5, g=16, act=nn.Hardswish),
                    Squeeze(16, nn.Hardsigmoid),
                    unit(16, 8, 1),
                )
            ),
            width=8,
        ),
        "efficientnet": pictures(
            unit(3, 8, s=2, act=nn.SiLU),
            Residual(
                nn.Sequential(
                    unit(8, 16, 1, act=nn.SiLU),
                    unit(16, 16, g=16, act=nn.SiLU),
                    Squeeze(16, nn.Sigmoid),
                    unit(16, 8, 1),
                )
            ),
            nn.Dropout(0.2),
            width=8,
        ),
        "densenet": pictures(
            unit(3, 8),
            Branches(
                nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, 1, 1)), own=True
            ),
            Branches(
                nn.Sequential(nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 4, 3, 1, 1)), own=True
            ),
            nn.AvgPool2d(2),
            width=16,
        ),
        "vgg": pictures(
            nn.Conv2d(3, 8, 3, 1, 1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, 1, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(128, 16),
            nn.ReLU(),
            nn.Dropout(),
            nn.Unflatten(1, (16, 1, 1)),
            width=16,
        ),
        "inception": pictures(
            unit(3, 8),
            Branches(
                unit(8, 4, 1),
                nn.Sequential(unit(8, 4, 1), nn.Conv2d(4, 4, (1, 7), padding=(0, 3))),
                nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), unit(8, 4, 1)),
                nn.MaxPool2d(3, 1, 1),
            ),
            width=20,
        ),
        "shufflenet": pictures(unit(3, 16), Shuffle(), Shuffle(), width=16),
        "regnet": pictures(
            unit(3, 16),
            Residual(nn.Sequential(unit(16, 16, 1), unit(16, 16, g=4), Squeeze(16, nn.Sigmoid))),
            width=16,
        ),
        "convnext": pictures(nn.Conv2d(3, 8, 2, 2), ConvNextBlock(8), ConvNextBlock(8), width=8),
        "vit": of(Vit, image),
        "swin": of(Swin, image),
        "bert": of(Bert, ids(), mask),
        "gpt-2": of(Gpt, ids()),
        "lstm": of(lambda: Recurrent(nn.LSTM), torch.randn(2, 7, 6)),
        "gru": of(lambda: Recurrent(nn.GRU), torch.randn(2, 7, 6)),
    }
