"""Modules that people have: each with its right Hessian by plain autograd, or why it is refused.

A new kind of module joins the tests by one line in `RIGHT` or in `REFUSED`.
"""

import copy
import random
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from problems import randn
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

N = 8
Y = torch.arange(N) % 3
VECTORS = randn(N, 4, seed=1)
SEQUENCES = randn(N, 5, 4, seed=2)
IMAGES = randn(N, 3, 6, 6, seed=3)
TOKENS = torch.randint(9, (N, 5), generator=torch.Generator().manual_seed(4))
WEIGHTS = torch.tensor([1.0, 5.0, 0.2]).double()
PADDED = torch.randint(3, (N, 5), generator=torch.Generator().manual_seed(5))
PADDED[:, 3:], PADDED[2], PADDED[5, 0] = -100, -100, -100
Answer = namedtuple("Answer", "loss logits")


class Wrap(nn.Module):
    """Parts, and a forward pass as a function of them and of x."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


def last(recurrent: nn.Module, width: int = 3) -> nn.Module:
    return Wrap(lambda s, x: s.head(s.recurrent(x)[0][:, -1]), recurrent=recurrent,
                head=nn.Linear(width, 3))  # fmt: skip


def packed(s: Any, x: Tensor) -> Tensor:
    lengths = torch.full((len(x),), x.shape[1])
    both = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
    return s.head(s.recurrent(both)[1][0][-1])


def attended(layer: nn.Module, **options: Any) -> nn.Module:
    return Wrap(lambda s, x: s.head(s.layer(x, x, x, **options)[0].mean(1)), layer=layer,
                head=nn.Linear(4, 3))  # fmt: skip


def pooled(layer: nn.Module) -> nn.Module:
    return Wrap(lambda s, x: s.head(s.layer(x).mean(1).tanh()), layer=layer, head=nn.Linear(4, 3))


def between(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), layer, nn.Tanh(), nn.Linear(5, 3))


def kept_in_graph(s: Any, x: Tensor) -> Tensor:
    s.features = torch.tanh(s.a(x))
    return s.b(s.features)


def checkpointed(reentrant: bool) -> nn.Module:
    block = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Tanh())
    return Wrap(lambda s, x: s.head(checkpoint(s.block, x, use_reentrant=reentrant)),
                block=block, head=nn.Linear(5, 3))  # fmt: skip


def in_segments() -> nn.Module:
    block = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5))
    return Wrap(lambda s, x: s.head(checkpoint_sequential(s.block, 2, x, use_reentrant=False)),
                block=block, head=nn.Linear(5, 3))  # fmt: skip


def unchecked(net: Any) -> nn.Module:
    return Wrap(lambda s, x: s.head(s.block(x)), block=net.block, head=net.head)


def without_dropout(net: nn.Module) -> nn.Module:
    """Turn off what drops, and nothing else."""
    for part in net.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd | nn.RNNBase):
            part.eval() if not isinstance(part, nn.RNNBase) else setattr(part, "dropout", 0.0)
        if isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0
    return net


def tied() -> nn.Module:
    a, b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4)
    b.weight = a.weight
    return nn.Sequential(a, nn.Tanh(), b)


class Counter(nn.Module):
    """Counts its calls, and lets its outputs depend on the count."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer, self.kind, self.calls = nn.Linear(4, 3), kind, 0
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "buffer in place":
            self.count += 1
        elif self.kind == "buffer":
            self.count = self.count + 1
        else:
            self.calls += 1
        return self.layer(x) * (1 + self.count + self.calls)


class Tokens(nn.Module):
    """Takes a batch by keywords and returns a record."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, input_ids: Tensor, mask: Tensor) -> Answer:
        return Answer(None, self.head((self.embed(input_ids) * mask[..., None]).mean(1).tanh()))


class Two(nn.Module):
    """Takes two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.layer(torch.tanh(a * b))


def tagger(*, flat: bool = False) -> nn.Module:
    def forward(s: Any, x: Tensor) -> Tensor:
        z = s.head(s.embed(x).tanh())
        return z.flatten(0, 1) if flat else z.transpose(1, 2)

    return Wrap(forward, embed=nn.Embedding(9, 4), head=nn.Linear(4, 3))


def line(outputs: int = 3) -> nn.Module:
    return nn.Linear(4, outputs)


@dataclass(frozen=True)
class Case:
    """A module with data, and how plain torch computes its loss.

    Attributes
    ----------
    name : str
        For the tests' names.
    build : callable
        Makes the module, in training mode; converted to float64.
    X : Tensor, tuple or dict
        Inputs.
    y : Tensor
        Targets.
    criterion : callable
        Of outputs and targets.
    call : callable
        (module, X) -> outputs, by plain torch.
    plain : callable
        The module for plain torch, where it is not the same.
    options : dict
        Of `hessian`.
    """

    name: str
    build: Callable[[], nn.Module]
    X: Any
    y: Tensor = field(default_factory=lambda: Y)
    criterion: Callable[..., Tensor] = field(default_factory=nn.CrossEntropyLoss)
    call: Callable[[Any, Any], Tensor] = lambda net, X: net(X)
    plain: Callable[[Any], nn.Module] = lambda net: net
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def module(self) -> nn.Module:
        """Build it, with weights that are drawn from the same seed each time."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return self.build().double()

    def products(self, net: nn.Module, V: Tensor) -> Tensor:
        """Return the Hessian times the columns of V by plain autograd."""
        net = self.plain(copy.deepcopy(net))
        parameters = list(net.parameters())
        kernel = torch.nn.attention.SDPBackend.MATH
        with torch.nn.attention.sdpa_kernel(kernel):
            loss = self.criterion(self.call(net, self.X), self.y)
            gradient = flat(loss, parameters, create_graph=True)
            columns = [flat(gradient @ v, parameters, retain_graph=True) for v in V.T]
            return torch.stack(columns, 1)


def flat(of: Tensor, parameters: list[nn.Parameter], **options: bool) -> Tensor:
    if not of.requires_grad:
        return torch.cat([torch.zeros_like(p).reshape(-1) for p in parameters])
    found = torch.autograd.grad(of, parameters, materialize_grads=True, **options)
    return torch.cat([g.reshape(-1) for g in found])


RIGHT = [
    # Recurrent layers, with dropout between their layers in torch's own kernel.
    Case("lstm with dropout", lambda: last(nn.LSTM(4, 3, 2, dropout=0.5, batch_first=True)),
         SEQUENCES, plain=without_dropout),
    Case("gru both ways", lambda: last(nn.GRU(4, 3, 2, dropout=0.5, batch_first=True,
         bidirectional=True), 6), SEQUENCES, plain=without_dropout),
    Case("rnn", lambda: last(nn.RNN(4, 3, nonlinearity="relu", batch_first=True)), SEQUENCES),
    Case("lstm with projections", lambda: last(nn.LSTM(4, 5, proj_size=3, batch_first=True)),
         SEQUENCES),
    Case("lstm with the time first, mistaken for samples", lambda: last(nn.LSTM(4, 3)), SEQUENCES),
    Case("packed", lambda: Wrap(packed, recurrent=nn.LSTM(4, 3, batch_first=True),
         head=nn.Linear(3, 3)), SEQUENCES),
    Case("cell", lambda: Wrap(lambda s, x: s.head(s.cell(x)[0]), cell=nn.LSTMCell(4, 3),
         head=nn.Linear(3, 3)), VECTORS),
    Case("lstm in a sequence", lambda: nn.Sequential(nn.LSTM(4, 3, batch_first=True),
         Wrap(lambda s, t: t[0][:, -1]), nn.Linear(3, 3)), SEQUENCES),
    # Attention.
    Case("attention with weights", lambda: attended(nn.MultiheadAttention(4, 2, dropout=0.3,
         batch_first=True)), SEQUENCES, plain=without_dropout),
    Case("fused attention", lambda: attended(nn.MultiheadAttention(4, 2, batch_first=True),
         need_weights=False), SEQUENCES),
    Case("encoder layer", lambda: pooled(nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)),
         SEQUENCES, plain=without_dropout),
    Case("encoder in evaluation", lambda: pooled(nn.TransformerEncoder(nn.TransformerEncoderLayer(
         4, 2, 6, batch_first=True, activation="gelu", norm_first=True), 1,
         enable_nested_tensor=False)).eval(), SEQUENCES),
    Case("causal", lambda: Wrap(lambda s, x: s.head(F.scaled_dot_product_attention(
         s.query(x), x, x, is_causal=True).mean(1)), query=nn.Linear(4, 4), head=nn.Linear(4, 3)),
         SEQUENCES),
    # Weights by formulas.
    Case("weight norm", lambda: nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 2, 3),
         dim=1), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3)), IMAGES,
         plain=lambda net: by_formula(net, (0, 2, 3))),
    Case("spectral norm", lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 5)),
         nn.Tanh(), nn.Linear(5, 3)), VECTORS),
    Case("older spectral norm", lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 5)),
         nn.Tanh(), nn.Linear(5, 3)), VECTORS),
    Case("orthogonal", lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)),
         nn.Tanh(), nn.Linear(4, 3)), VECTORS),
    Case("tied", tied, VECTORS),
    # Normalizations.
    Case("group norm", lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(),
         nn.Flatten(), nn.Linear(64, 3)), IMAGES),
    Case("instance norm with averages", lambda: nn.Sequential(nn.Conv2d(3, 4, 3),
         nn.InstanceNorm2d(4, affine=True, track_running_stats=True), nn.Tanh(), nn.Flatten(),
         nn.Linear(64, 3)), IMAGES),
    Case("batch norm", lambda: between(nn.BatchNorm1d(5, momentum=None)), VECTORS),
    Case("synchronized batch norm", lambda: between(nn.SyncBatchNorm(5)), VECTORS),
    Case("batch norm by hand", lambda: between(Wrap(lambda s, x: (x - x.mean(0)) / x.std(0))),
         VECTORS),
    Case("batch norm by a function", lambda: between(Wrap(lambda s, x: torch.batch_norm(
         x, None, None, None, None, True, 0.1, 1e-5, False))), VECTORS),
    # Recomputation, memory formats, layouts.
    Case("checkpoint", lambda: checkpointed(False), VECTORS,
         plain=lambda net: without_dropout(unchecked(net))),
    Case("older checkpoint", lambda: checkpointed(True), VECTORS,
         plain=lambda net: without_dropout(unchecked(net))),
    Case("checkpoints in segments", in_segments, VECTORS, plain=unchecked),
    Case("view", lambda: Wrap(lambda s, x: s.head(torch.tanh(s.conv(x)).view(len(x), -1)),
         conv=nn.Conv2d(3, 2, 3), head=nn.Linear(32, 3)), IMAGES),
    Case("squeezed", lambda: Wrap(lambda s, x: s.b(s.a(x).tanh()).squeeze(), a=nn.Linear(4, 5),
         b=nn.Linear(5, 3)), VECTORS),
    Case("dropout in place", lambda: between(nn.Dropout(0.5, inplace=True)), VECTORS,
         plain=without_dropout),
    # Embeddings.
    Case("embedding", lambda: pooled(nn.Embedding(9, 4, padding_idx=0)), TOKENS),
    Case("sparse embedding", lambda: pooled(nn.Embedding(9, 4, sparse=True)), TOKENS,
         plain=lambda net: set_(net, "layer.sparse", False)),
    Case("bounded embedding", lambda: pooled(nn.Embedding(9, 4, max_norm=1.0)), TOKENS),
    Case("bag", lambda: nn.Sequential(nn.EmbeddingBag(9, 4), nn.Tanh(), nn.Linear(4, 3)), TOKENS,
         plain=lambda net: nn.Sequential(Wrap(lambda s, x: F.embedding(x, s.weight).mean(1),
         weight=net[0].weight), *net[1:])),
    # State.
    Case("counter in a buffer", lambda: Counter("buffer"), VECTORS),
    Case("counter in place", lambda: Counter("buffer in place"), VECTORS),
    Case("counter in an attribute", lambda: Counter("attribute"), VECTORS),
    Case("features kept", lambda: Wrap(kept_in_graph, a=nn.Linear(4, 5), b=nn.Linear(5, 3)),
         VECTORS),
    # What goes in and comes out.
    Case("two inputs", Two, (VECTORS, VECTORS.flip(0)), call=lambda net, X: net(*X)),
    Case("a tuple", lambda: Wrap(lambda s, t: s.layer(torch.tanh(t[0] * t[1])),
         layer=nn.Linear(4, 3)), (VECTORS, VECTORS.flip(0))),
    Case("keywords and a record", Tokens, {"input_ids": TOKENS, "mask": randn(N, 5, seed=6)},
         call=lambda net, X: net(**X).logits, options={"output": lambda answer: answer.logits}),
    Case("a dict", lambda: Wrap(lambda s, batch: {"z": s.layer(batch["features"])}, layer=line()),
         {"features": VECTORS}, call=lambda net, X: net(X)["z"],
         options={"output": lambda d: d["z"]}),
    Case("rows are the data", lambda: tagger(flat=True), TOKENS, PADDED.clamp(min=0).flatten(),
         options={"chunk": 3}),
    Case("fourier", lambda: Wrap(lambda s, x: s.b(torch.fft.rfft(s.a(x)).abs()), a=line(4),
         b=nn.Linear(3, 3)), VECTORS),
    # Criteria whose mean over a batch is not that of the means of its parts.
    Case("class weights", line, VECTORS, criterion=nn.CrossEntropyLoss(weight=WEIGHTS),
         options={"chunk": 3}),
    Case("class weights in a function", line, VECTORS, options={"chunk": 3},
         criterion=lambda z, y: F.cross_entropy(z, y, weight=WEIGHTS)),
    Case("smoothed, weighted, ignored", line, VECTORS, options={"chunk": 3},
         criterion=nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.1, ignore_index=1)),
    Case("probabilities of classes", line, VECTORS, torch.softmax(randn(N, 3, seed=7), 1),
         criterion=nn.CrossEntropyLoss(weight=WEIGHTS), options={"chunk": 3}),
    Case("padding", tagger, TOKENS, PADDED, options={"chunk": 3}),
    Case("padding, a part of it alone", tagger, TOKENS, PADDED, options={"chunk": 1}),
    Case("padding in a function", tagger, TOKENS, PADDED, options={"chunk": 3},
         criterion=lambda z, y: F.cross_entropy(z.movedim(1, -1).flatten(0, 1), y.flatten())),
    Case("logarithms", lambda: nn.Sequential(line(), nn.LogSoftmax(1)), VECTORS,
         criterion=nn.NLLLoss(weight=WEIGHTS), options={"chunk": 3}),
    Case("divergence", lambda: nn.Sequential(line(), nn.LogSoftmax(1)), VECTORS,
         torch.softmax(randn(N, 3, seed=7), 1), nn.KLDivLoss(reduction="batchmean"),
         options={"chunk": 3}),
    Case("a weight for each sample", line, VECTORS, randn(N, 3, seed=8).sigmoid(),
         nn.BCEWithLogitsLoss(weight=randn(N, 1, seed=9).exp()), options={"chunk": 3}),
    Case("a sum", line, VECTORS, options={"chunk": 3},
         criterion=lambda z, y: F.cross_entropy(z, y, reduction="sum")),
    Case("contrastive", line, VECTORS, options={"chunk": 3},
         criterion=lambda z, y: F.cross_entropy(z @ z.T, torch.arange(len(z)))),
    Case("one output for n targets", lambda: line(1), VECTORS, randn(N, seed=8), nn.MSELoss(),
         options={"chunk": 3}),
]  # fmt: skip


def set_(net: nn.Module, path: str, value: Any) -> nn.Module:
    owner, _, name = path.rpartition(".")
    setattr(net.get_submodule(owner), name, value)
    return net


def by_formula(net: Any, over: tuple[int, ...]) -> nn.Module:
    """Write weight norm out: torch's own has a wrong second derivative."""
    conv = net[0]
    own = conv.parametrizations.weight

    def forward(s: Any, x: Tensor) -> Tensor:
        v = s.v
        length = v.square().sum(over, keepdim=True).sqrt()
        return F.conv2d(x, s.g * v / length, s.bias)

    # In the order of the module's own parameters.
    return nn.Sequential(
        Wrap(forward, bias=conv.bias, g=own.original0, v=own.original1), *list(net)[1:]
    )


class Flipping(torch.autograd.Function):
    """exp, with a derivative whose own derivative is wrong."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * x.exp() * torch.arange(1.0, 6).to(x) * x[:, :1]


class Once(torch.autograd.Function):
    """exp, differentiable once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.exp())
        return x.exp()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0]


class Global(nn.Module):
    """Depends on how often any of its kind was called."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        Global.calls += 1
        return self.layer(x) * (1 + Global.calls)


def noisy(draw: Callable[[Any, Tensor], Any], **parts: Any) -> nn.Module:
    """Skip or scale by a random number, inside a part named `inner`."""
    return Wrap(lambda s, x: s.head(s.inner(x)), head=nn.Linear(4, 3),
                inner=Wrap(draw, **parts))  # fmt: skip


def skipping(number: Callable[[Any], float], **parts: Any) -> nn.Module:
    return noisy(lambda s, x: x if number(s) < 0.99 else 2 * x, **parts)


REFUSED = {
    "python's random": (lambda: skipping(lambda s: random.random()), VECTORS,
                        r"draws random numbers, in 'inner' \(Wrap\)"),
    "numpy's random": (lambda: skipping(lambda s: np.random.rand()), VECTORS, "'inner'"),  # noqa: NPY002
    "a generator of numpy's": (lambda: skipping(lambda s: s.own.random(),
                               own=np.random.default_rng(0)), VECTORS, "'inner'"),
    "a generator of python's": (lambda: skipping(lambda s: s.own.random(),
                                own=random.Random(0)), VECTORS, "'inner'"),
    "log-normal": (lambda: noisy(lambda s, x: x * torch.empty_like(x).log_normal_()), VECTORS,
                   "'inner'"),
    "native dropout": (lambda: noisy(lambda s, x: torch.native_dropout(x, 0.5, True)[0]), VECTORS,
                       "'inner'"),
    "a distribution": (lambda: noisy(lambda s, x: torch.distributions.Normal(x, 1.0).rsample()),
                       VECTORS, r"calls normal_\(\)"),
    "alpha dropout": (lambda: between(nn.AlphaDropout(0.5)), VECTORS, r"calls alpha_dropout\(\)"),
    "a global counter": (Global, VECTORS, r"changes from one evaluation .*itself \(Global\)"),
    "a script": (lambda: torch.jit.script(between(nn.Tanh())), VECTORS, "is compiled"),
    "a part that is a trace": (lambda: nn.Sequential(torch.jit.trace(line().double(), VECTORS),
                               nn.Tanh()), VECTORS, "The module '0' is compiled"),
    "compiled": (lambda: torch.compile(between(nn.Tanh())), VECTORS, "is compiled"),
    "data parallel": (lambda: nn.DataParallel(line()), VECTORS, "give the module inside"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), VECTORS, "has no shape yet"),
    "a record": (lambda: Wrap(lambda s, x: Answer(None, s.layer(x)), layer=line()), VECTORS,
                 "returns Answer, not a tensor: say by `output`"),
    "a loss": (lambda: Wrap(lambda s, x: s.layer(x).square().mean(), layer=line()), VECTORS,
               "samples must come first"),
    "complex outputs": (lambda: Wrap(lambda s, x: torch.fft.rfft(s.layer(x)), layer=line()),
                        VECTORS, "outputs are torch.complex128"),
    "whole numbers into a layer": (line, torch.ones(N, 4).long(), "as they are"),
    "a wrong second derivative": (lambda: between(Wrap(lambda s, x: Flipping.apply(x))), VECTORS,
                                  "are not symmetric"),
    "differentiable once": (lambda: between(Wrap(lambda s, x: Once.apply(x))), VECTORS,
                            "not symmetric|differentiated twice"),
    "no second derivative": (lambda: nn.Sequential(nn.EmbeddingBag(9, 3, mode="max")), TOKENS,
                             "cannot be differentiated twice"),
}  # fmt: skip
