"""Several processes, one batch: what they must share to compute what one process would.

Every process holds the whole networks and an equal part of each batch. Four things couple the items
of a batch, and are done over all processes here: the gradients, the statistics of BatchNorm, losses
that compare items with each other (``all_rows``), and random numbers (drawn by every process for
the whole batch, from the same seed; each keeps its own rows).

Gradients are averaged by one flat all-reduce after ``backward``. ``DistributedDataParallel`` hooks
into one forward and one backward of one module; a GAN's step calls a discriminator several times
and by several methods, freezes it for the generator's turn and differentiates gradients, all of
which those hooks refuse or miscount.

Conventions: a process's loss is a mean over its own items, and the loss of the batch is the mean
over processes; parts are equal. With them, and since the sum over processes passes gradients back
as a sum over processes, the averaged gradient is that of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWS: tuple[Callable[..., Any], ...] = (torch.rand, torch.randn, torch.randint)


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        # The same sum, so that gradients of gradients are right too.
        return all_sum(gradients[0])


def all_sum(x: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Return the sum of a tensor over all processes, with gradients to each of them."""
    total: Tensor = _AllSum.apply(x)
    return total


def all_rows(x: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "m ..."]:
    """Return the rows of all processes, in their order, with gradients to each of them.

    Args:
        x: this process's rows; every process has as many.

    Returns:
        [world * n, ...].
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    before = x.new_zeros(rank * len(x), *x.shape[1:])
    after = x.new_zeros((world - 1 - rank) * len(x), *x.shape[1:])
    return all_sum(torch.cat([before, x, after]))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes, in one all-reduce."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    pieces = flat.split([gradient.numel() for gradient in gradients])
    for gradient, piece in zip(gradients, pieces, strict=True):
        gradient.copy_(piece.view(gradient.shape))


class SharedDraws(TorchFunctionMode):
    """While it is on, random tensors drawn from ``rng`` are those of the whole batch.

    ``torch.rand``, ``randn`` and ``randint`` with this generator draw for every process's items and
    return this process's. Code that draws [n, ...] for n items need not know of it.

    Args:
        rng: a generator in the same state in every process.

    Raises:
        TypeError: when something else is drawn from ``rng``: whose rows they are is not known.
    """

    def __init__(self, rng: torch.Generator) -> None:
        super().__init__()
        self._rng = rng

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if kwargs.get("generator") is not self._rng:
            return func(*args, **kwargs)
        draw = next((known for known in _DRAWS if known is func), None)
        if draw is None:
            raise TypeError(f"{func} cannot be shared between processes")
        # Sizes come as one sequence, always the last argument, or as numbers of their own.
        *bounds, size = args if isinstance(args[-1], Sequence) else ((*args,),)
        n, world = size[0], dist.get_world_size()
        whole: Tensor = draw(*bounds, (n * world, *size[1:]), **kwargs)
        return whole[dist.get_rank() * n :][:n]


class _NormaliseShared(torch.autograd.Function):
    """Normalise over the items of all processes; also returns mean and variance [c].

    PyTorch's own kernels do the work with given statistics; what the statistics owe to the input
    is added to the gradient here (Ioffe & Szegedy 2015).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        world = dist.get_world_size()
        variance, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
        both = torch.stack([mean, variance + mean.square()])
        dist.all_reduce(both)
        mean, square = both / world
        variance = (square - mean.square()).clamp(min=0)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, variance = ctx.saved_tensors
        inverse = torch.rsqrt(variance + ctx.eps)
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0], x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack([of_bias, of_weight]).float()
        dist.all_reduce(sums)
        of_mean, of_scale = sums / (dist.get_world_size() * x.numel() // x.shape[1])
        slope = weight * inverse * inverse * of_scale
        offset = weight * inverse * of_mean - slope * mean
        of_x = of_x - (x * slope[:, None, None].to(x.dtype) + offset[:, None, None].to(x.dtype))
        return of_x, of_weight, of_bias, None


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose batch is that of all processes.

    PyTorch's own ``SyncBatchNorm`` runs on GPUs only; this one takes its place on a CPU.
    """

    def forward(self, input: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Normalise; in training, by mean and variance over every process's items."""
        if not self.training:
            return super().forward(input)
        output, mean, variance = _NormaliseShared.apply(input, self.weight, self.bias, self.eps)
        self._remember(mean, variance, dist.get_world_size() * input.numel() // input.shape[1])
        return output

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)


class SharedDropout(nn.Module):
    """Dropout whose mask is drawn for the whole batch by every process.

    Args:
        rate: share that is dropped, below 1.
        spatial: drop whole channels, as ``nn.Dropout2d`` does.
        parts: what a batch is put together of: with 2, real and generated pictures say, each
            process has its share of the first and its share of the second.
    """

    def __init__(self, rate: float, *, spatial: bool, parts: int) -> None:
        super().__init__()
        self.p, self._spatial, self._parts = rate, spatial, parts

    def forward(self, input: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Drop, in training."""
        if not self.training or self.p == 0.0:
            return input
        rank, world = dist.get_rank(), dist.get_world_size()
        size = (*input.shape[1:2], 1, 1) if self._spatial else input.shape[1:]
        kept = input.new_empty(world * len(input), *size).bernoulli_(1.0 - self.p)
        own = kept.unflatten(0, (self._parts, world, -1))[:, rank].flatten(0, 1)
        return input * own.div_(1.0 - self.p)


def synchronise(network: nn.Module, parts: int = 1) -> None:
    """Make BatchNorm and dropout of ``network`` those of the whole batch, in place.

    Parameters, buffers and their names stay. On a GPU BatchNorm becomes ``nn.SyncBatchNorm``.

    Args:
        network: called with an equal part of the batch in every process.
        parts: see :class:`SharedDropout`.
    """
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(network, name, _shared_norm(child))
        elif isinstance(child, nn.Dropout | nn.Dropout2d):
            spatial = isinstance(child, nn.Dropout2d)
            shared = SharedDropout(child.p, spatial=spatial, parts=parts)
            setattr(network, name, shared.train(child.training))
        else:
            synchronise(child, parts)


def _shared_norm(norm: nn.BatchNorm2d) -> nn.Module:
    if norm.weight.is_cuda:
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(norm)
        return converted
    shared = SharedBatchNorm2d(norm.num_features, norm.eps, norm.momentum)
    shared.weight, shared.bias = norm.weight, norm.bias
    for name, buffer in norm.named_buffers():
        shared.register_buffer(name, buffer)
    return shared.train(norm.training)
