"""Loss functions. Each has an independent reference in the tests.

Scores are [n] tensors, one a picture; n is the batch. Losses are computed in float32 whatever the
precision of the networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

REAL_COHERENT = 1.0
"""Target r of a real picture with its sound (published: not known; the end of tanh's range)."""

GENERATED = -1.0
"""Target r of a generated picture."""


PIXEL_LOSSES = ("l1", "mse")


def rc_discriminator_loss(
    real: Float[Tensor, " n"], generated: Float[Tensor, " n"]
) -> Float[Tensor, ""]:
    """|r - r^| over real and generated pictures (arXiv 2106.01266, the discriminator's loss)."""
    real, generated = real.float(), generated.float()
    return (REAL_COHERENT - real).abs().mean() + (GENERATED - generated).abs().mean()


def rc_generator_loss(generated: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """|r_real - r^| of generated pictures (arXiv 2106.01266, the adversarial term of G)."""
    return (REAL_COHERENT - generated.float()).abs().mean()


def pixel_loss(
    generated: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"], kind: str
) -> Float[Tensor, ""]:
    """Mean distance between generated and target frames: ``l1`` or ``mse``."""
    generated = generated.float()
    return F.l1_loss(generated, target) if kind == "l1" else F.mse_loss(generated, target)


def reconstruction_loss(
    generated: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"]
) -> Float[Tensor, ""]:
    """L1 between pictures shrunk to a quarter of their side, and .3 of that between them as is.

    The small pictures say what stands where; at full size a pixel loss mostly asks for blur.
    """
    generated = generated.float()
    coarse = F.l1_loss(F.avg_pool2d(generated, 4), F.avg_pool2d(target, 4))
    return coarse + 0.3 * F.l1_loss(generated, target)


def feature_loss(
    generated: Sequence[Tensor], target: Sequence[Tensor], sizes: Sequence[Tensor] | None = None
) -> Float[Tensor, ""]:
    """Mean over layers of the L1 between maps, as a share of the target's mean absolute value.

    Source: Larsen et al. 2016 (likeness in a discriminator's features), with L1.

    Args:
        generated: maps of each layer.
        target: the maps that they ought to be.
        sizes: mean absolute value of each target; where several processes share a batch, the mean
            of theirs.
    """
    if sizes is None:
        sizes = [t.float().abs().mean() for t in target]
    shares = [
        F.l1_loss(g.float(), t.float()) / (size + 1e-6)
        for g, t, size in zip(generated, target, sizes, strict=True)
    ]
    return torch.stack(shares).mean()


def kl_divergence(
    mean: Float[Tensor, "n z"], log_variance: Float[Tensor, "n z"]
) -> Float[Tensor, ""]:
    """KL divergence of normal distributions from the standard one, in nats, a mean over n.

    Source: Kingma & Welling 2014, appendix B.
    """
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=1).mean()


def relativistic_loss(
    better: Float[Tensor, " n"],
    worse: Float[Tensor, " n"],
    valid: Bool[Tensor, " n"] | None = None,
    count: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """Softplus of how far ``worse`` scores above ``better``, paired item by item.

    The discriminator is given (real, generated), the generator (generated, real). Source:
    Jolicoeur-Martineau 2018; in this paired form, Huang et al. 2024 (R3GAN).

    Args:
        better: scores that ought to be higher.
        worse: scores that ought to be lower.
        valid: pairs that count; all when None.
        count: divide by this many instead of by the number of valid pairs; where several processes
            share a batch, the mean of theirs.
    """
    loss = F.softplus(worse.float() - better.float())
    if valid is None:
        return loss.mean()
    weight = valid.to(loss.dtype)
    total = weight.sum() if count is None else count
    return (loss * weight).sum() / torch.where(total > 0, total, 1.0)


def gradient_penalty(
    scores: Float[Tensor, " n"], images: Float[Tensor, "n c h w"]
) -> Float[Tensor, ""]:
    """Half the mean squared norm of d score / d picture (R1 on real, R2 on generated pictures).

    Source: Mescheder et al. 2018. ``images`` must require gradients and have led to ``scores``.
    """
    (gradient,) = torch.autograd.grad(scores.float().sum(), images, create_graph=True)
    return 0.5 * gradient.square().sum(dim=(1, 2, 3)).mean()


def info_nce(
    sound: Float[Tensor, "n e"],
    picture: Float[Tensor, "n e"],
    video: Int64[Tensor, " n"],
    photo: Int64[Tensor, " n"],
    log_scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE between n sounds and their n pictures.

    A negative that shares its video or its photo with the positive is no negative and is left out.
    Source: van den Oord et al. 2018; symmetric as in Radford et al. 2021.

    Args:
        sound: sound embeddings (any length; they are normalised here).
        picture: picture embeddings, row i belongs to sound i.
        video: id of the source video.
        photo: id of the frame.
        log_scale: natural logarithm of one over the temperature.
    """
    logits = F.normalize(sound, dim=1) @ F.normalize(picture, dim=1).T * log_scale.exp()
    same = (video[:, None] == video[None]) | (photo[:, None] == photo[None])
    same.fill_diagonal_(False)
    logits = logits.masked_fill(same, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
