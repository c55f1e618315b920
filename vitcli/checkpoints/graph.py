"""A network as a graph of operations, which other engines read."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vitcli.models.engine import Output
from vitcli.models.network import Network
from vitcli.models.normalise import Normalisation
from vitcli.records import Preprocess


class Graph(nn.Module):
    """A network with its normalisation, for export to another engine.

    It takes pixels of `dtype`, mostly uint8, so that no floats are copied to the engine.
    """

    def __init__(self, network: Network, plan: Preprocess, output: Output) -> None:
        super().__init__()
        self.network = network
        self.output = output
        self.size, self.dtype = plan.size, plan.dtype
        self.normalise = Normalisation(plan)

    def forward(self, pixels: Tensor) -> Tensor:
        """`dtype` (B, H, W, 3) -> (B, ...)"""
        return self.output(self.network, self.normalise(pixels.permute(0, 3, 1, 2)))

    @torch.no_grad()
    def traced(self) -> torch.export.ExportedProgram:
        """Trace the operations, for a batch of any size."""
        pixels = torch.zeros(2, *self.size, 3, dtype=getattr(torch, self.dtype))
        return torch.export.export(
            self, (pixels,), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and logs of an exporter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
