"""What a few samples show of a network before anything is computed with it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.network.forward import FixedForward, Seen
from newton_krylov.objectives.network.inputs import Samples
from newton_krylov.objectives.network.layout import Stage, mapped, run, stages_of, tensors_of
from newton_krylov.objectives.network.private import protected, random_states

_FEW = 2
"""Samples that are looked at."""


@dataclass(frozen=True)
class Probed:
    """What was found.

    Attributes
    ----------
    stages : list of Stage
        Stages of the network, its output function the last.
    samples : Samples
        In a layout that the network takes.
    seen : Seen
        What a forward pass does, counted for one sample.
    outputs : Tensor, shape (k, ...)
        Outputs of the first samples.
    """

    stages: list[Stage]
    samples: Samples
    seen: Seen
    outputs: Tensor


def probe(
    module: nn.Module, samples: Samples, output: Callable[[Any], Tensor] | None, rows: int
) -> Probed:
    """Pass two samples through a network, twice together and once one by one.

    Parameters
    ----------
    module : nn.Module
        A private copy.
    samples : Samples
        Samples, of which the first are taken.
    output : callable or None
        What the network returns, to its outputs.
    rows : int
        How many rows of outputs there should be for a sample.

    Raises
    ------
    UnsupportedError
        If the outputs are no tensor with the samples first, or differ from one evaluation to the
        next.
    """
    return _Probe(module, samples, output).found(rows)


class _Probe:
    """A network with the samples that it is tried on."""

    def __init__(
        self, module: nn.Module, samples: Samples, output: Callable[[Any], Tensor] | None
    ) -> None:
        self.module, self.samples, self.output = module, samples, output
        self.tensors = [parameter.detach() for parameter in module.parameters()]
        self.count = min(_FEW, len(samples))
        self.stages = self._stages(cut=True)

    def _stages(self, *, cut: bool) -> list[Stage]:
        stages = stages_of(self.module, cut=cut)
        return stages if self.output is None else [*stages, Stage(len(stages), self.output, {})]

    def found(self, rows: int) -> Probed:
        seen, first = self._first()
        if any(seen.rows[stage.number] != self.count for stage in self.stages[:-1]):
            self.stages = self._stages(cut=False)  # only tensors with the samples first are kept
            seen, first = self._first()
        outputs = self._checked(first, rows)
        if outputs.isnan().any():
            raise UnsupportedError(
                "The network's outputs for the first samples are not numbers (nan): look for nan "
                "in the inputs and in the weights."
            )
        if not torch.equal(outputs, self._run(0, self.count)):
            self._refuse("its value changes from one evaluation to the next", self._another_output)
        if not seen.batch_norm and self._depends(outputs, rows):
            seen.batch_norm |= {stage.number for stage in self.stages}
        for counted in (seen.numbers, seen.outputs):
            counted |= {stage: -(-numbers // self.count) for stage, numbers in counted.items()}
        return Probed(self.stages, self.samples, seen, outputs)

    def _first(self) -> tuple[Seen, Any]:
        """Run for the first time: see what the modules change, and whether they draw numbers."""
        states = random_states(self.module, self.tensors[0].device)
        versions = [tensor._version for tensor in self.tensors]
        with protected(self.module) as changed:
            try:
                seen, first = self._seen()
            except RuntimeError as error:
                seen, first = self._again(error)
        rewritten = any(t._version != v for t, v in zip(self.tensors, versions, strict=True))
        self.stages = [
            replace(stage, changing=rewritten or any(part in changed for part in _modules(stage)))
            if isinstance(stage.module, nn.Module)
            else stage
            for stage in self.stages
        ]
        if states != random_states(self.module, self.tensors[0].device):
            self._refuse("it draws random numbers", self._drew)
        return seen, first

    def _again(self, error: RuntimeError) -> tuple[Seen, Any]:
        """Try images in their own layout; say so where whole numbers meet real weights."""
        if self.samples.channels_last:
            self.samples = replace(self.samples, channels_last=False)
            return self._seen()
        whole = any(not t.is_floating_point() for t in tensors_of(self.samples.X))
        if whole and self.samples.images is None and "dtype" in str(error):
            raise UnsupportedError(
                f"The inputs are whole numbers and are given to the network as they are, but: "
                f"{error} If they are not indices, convert them (inputs.float())."
            ) from error
        raise error

    def _seen(self) -> tuple[Seen, Any]:
        seen = Seen()
        return seen, self._run(0, self.count, seen)

    def _run(self, start: int, stop: int, seen: Seen | None = None) -> Any:
        with torch.no_grad():
            x = mapped(torch.clone, self.samples.span(start, stop))  # they are the caller's own
            return run(self.stages, self.tensors, x, FixedForward(seen=seen))

    def _checked(self, outputs: Any, rows: int) -> Tensor:
        if not isinstance(outputs, Tensor):
            raise UnsupportedError(
                f"The network returns {type(outputs).__name__}, not a tensor: say by `output` what "
                f"of it the criterion takes, such as output=lambda returned: returned[0], or wrap "
                f"it in a module that returns that."
            )
        if not outputs.is_floating_point():
            raise UnsupportedError(
                f"The network's outputs are {outputs.dtype}, but the curvature is that of a "
                f"function of real numbers: let it return real ones (torch.view_as_real)."
            )
        if outputs.ndim == 0 or len(outputs) != self.count * rows:
            raise UnsupportedError(
                f"The network returns outputs of shape {tuple(outputs.shape)} for {self.count} "
                f"samples, where {self.count * rows} rows were expected: samples must come first, "
                f"and the criterion is given apart."
            )
        return outputs

    def _depends(self, outputs: Tensor, rows: int) -> bool:
        """Return whether a sample's outputs depend on the samples beside it."""
        if self.count < _FEW:
            return False
        try:
            alone = [self._run(k, k + 1) for k in range(self.count)]
        except (RuntimeError, ValueError, IndexError):
            return True
        if any(z.shape != (rows, *outputs.shape[1:]) for z in alone):
            return True
        gap = float((torch.cat(alone) - outputs).double().norm())
        rounding: float = torch.finfo(outputs.dtype).eps ** 0.5
        return gap > rounding * float(outputs.double().norm())

    def _refuse(self, what: str, culprit: Callable[[], str]) -> None:
        raise UnsupportedError(
            f"The network is not one function of its weights, as line searches and Hessian "
            f"products need it: {what}, in {culprit()}. Only dropout can be fixed by a seed; in "
            f"evaluation mode (module.eval()) most networks draw and change nothing."
        )

    def _drew(self) -> str:
        """Name the innermost module that draws random numbers."""
        for name, before, after, _ in self._calls():
            if before != after:
                return name
        return self._itself

    def _another_output(self) -> str:
        """Name the innermost module whose outputs differ first."""
        for (name, *_, one), (*_, other) in zip(self._calls(), self._calls(), strict=False):
            pairs = list(zip(one, other, strict=False))
            if len(one) != len(other) or any(not torch.equal(a, b) for a, b in pairs):
                return name
        return self._itself

    @property
    def _itself(self) -> str:
        return f"the network itself ({type(self.module).__name__})"

    def _calls(self) -> list[tuple[str, Any, Any, list[Tensor]]]:
        """Run, and return each module's calls as they end, with the generators' states."""
        calls: list[tuple[str, Any, Any, list[Tensor]]] = []
        device, open_calls, handles = self.tensors[0].device, [], []

        def enter(part: nn.Module, args: Any) -> None:
            open_calls.append(random_states(self.module, device))

        def leave(name: str, part: nn.Module, returned: Any) -> None:
            states = random_states(self.module, device)
            outputs = [t.clone() for t in tensors_of(returned)]
            text = f"'{name}' ({type(part).__name__})"
            calls.append((text, open_calls.pop(), states, outputs))

        for name, part in self.module.named_modules():
            if name:
                handles.append(part.register_forward_pre_hook(enter))
                handles.append(
                    part.register_forward_hook(
                        lambda part, args, returned, name=name: leave(name, part, returned)
                    )
                )
        try:
            self._run(0, self.count)
        finally:
            for handle in handles:
                handle.remove()
        return calls


def _modules(stage: Stage) -> list[nn.Module]:
    return list(stage.module.modules()) if isinstance(stage.module, nn.Module) else []
