"""What the tests of the networks share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from soundsight.models.published.generator import DenseGenerator, DenseGeneratorConfig


@pytest.fixture(scope="session")
def all_learn() -> Callable[[nn.Module], None]:
    """See that every parameter of a network has a gradient."""

    def check(network: nn.Module) -> None:
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name

    return check


@pytest.fixture(scope="session")
def flop() -> Callable[[DenseGeneratorConfig], int]:
    """Count a generator's operations for one picture; a multiply and an add are two."""

    def count(config: DenseGeneratorConfig) -> int:
        with torch.device("meta"):
            network = DenseGenerator(config).eval()
            # The counter knows the plain matrix products, not the fused attention of a CPU.
            with (
                FlopCounterMode(display=False) as counter,
                sdpa_kernel(SDPBackend.MATH),
                torch.no_grad(),
            ):
                network(torch.zeros(1, network.condition_size))
        return counter.get_total_flops()

    return count
