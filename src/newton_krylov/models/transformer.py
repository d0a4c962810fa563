"""A small transformer that predicts the next character (Radford et al. 2019, GPT-2's layout)."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from newton_krylov.errors import ConfigError
from newton_krylov.models.base import Interface
from newton_krylov.registry import register


@register("model", "transformer")
def transformer(
    interface: Interface,
    *,
    width: PositiveInt = 192,
    depth: PositiveInt = 4,
    heads: PositiveInt = 6,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    tied: bool = True,
) -> nn.Module:
    """Build a transformer of decoder blocks, with layer norms in front, for text.

    Each block adds causal self-attention and a perceptron four times as wide, with GELU. Weights
    are drawn from a normal distribution of standard deviation 0.02, those that end a residual
    branch from one smaller by sqrt(2 depth), as GPT-2's are; positions have learned vectors.

    Second derivatives need the attention kernel that is written out; an objective chooses it by
    itself, since the fast ones have none.

    Parameters
    ----------
    interface : Interface
        Of a text.
    width : int
        Length of a character's vector, a multiple of `heads`.
    depth : int
        Blocks.
    heads : int
        Attention heads of a block.
    dropout : float
        Probability, behind each branch.
    tied : bool
        Whether the last layer uses the characters' vectors, so that it has no weights of its own.

    Returns
    -------
    nn.Module
        Returns logits, shape (n, alphabet, context).

    Raises
    ------
    ConfigError
        For data that are no text, or a width that the heads do not divide.
    """
    if not interface.alphabet:
        raise ConfigError("model=transformer needs text, as dataset=text has it; choose model=mlp.")
    if width % heads:
        raise ConfigError(f"model.width={width} must be a multiple of model.heads={heads}.")
    return _Transformer(interface, width, depth, heads, dropout, tied=tied)


class _Transformer(nn.Module):
    def __init__(
        self, interface: Interface, width: int, depth: int, heads: int, drop: float, *, tied: bool
    ) -> None:
        super().__init__()
        (context,) = interface.inputs
        self.characters = nn.Embedding(interface.alphabet, width)
        self.positions = nn.Embedding(context, width)
        self.drop = nn.Dropout(drop)
        self.blocks = nn.ModuleList(_Block(width, heads, drop) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = None if tied else nn.Linear(width, interface.alphabet, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                ends = name.endswith(("attention.out.weight", "perceptron.2.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * depth) ** 0.5 if ends else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(self, x: Tensor) -> Tensor:
        z = self.characters(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        z = self.drop(z)
        for block in self.blocks:
            z = block(z)
        z = self.norm(z)
        z = F.linear(z, self.characters.weight) if self.head is None else self.head(z)
        return z.transpose(1, 2)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, drop: float) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.drop = nn.Dropout(drop)

    def forward(self, z: Tensor) -> Tensor:
        z = z + self.drop(self.attention(self.norm1(z)))
        out: Tensor = z + self.drop(self.perceptron(self.norm2(z)))
        return out


class _Attention(nn.Module):
    """Causal self-attention; no dropout of its weights, whose masks have no samples first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, z: Tensor) -> Tensor:
        n, length, width = z.shape
        split = self.qkv(z).view(n, length, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(attended.transpose(1, 2).reshape(n, length, width))
        return out
