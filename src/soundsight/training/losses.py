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

# Targets r of a picture with its sound (published: not known; the ends of tanh's range).
_REAL, _GENERATED = 1.0, -1.0


def rc_discriminator_loss(
    real: Float[Tensor, " n"], generated: Float[Tensor, " n"], smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """|r - r^| over real and generated pictures (arXiv 2106.01266, the discriminator's loss).

    With ``smoothing`` s in [0, 1) the targets r are 1 - s and s - 1 (label smoothing, Salimans et
    al. 2016, on either side).
    """
    real, generated, kept = real.float(), generated.float(), 1.0 - smoothing
    return (kept * _REAL - real).abs().mean() + (kept * _GENERATED - generated).abs().mean()


def rc_generator_loss(generated: Float[Tensor, " n"], smoothing: float = 0.0) -> Float[Tensor, ""]:
    """|r_real - r^| of generated pictures (arXiv 2106.01266, the adversarial term of G)."""
    return ((1.0 - smoothing) * _REAL - generated.float()).abs().mean()


def pixel_loss(
    generated: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"], kind: str
) -> Float[Tensor, ""]:
    """Mean distance between generated and target frames: ``l1`` or ``mse``."""
    generated = generated.float()
    return F.l1_loss(generated, target) if kind == "l1" else F.mse_loss(generated, target)


def reconstruction_loss(
    generated: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"]
) -> Float[Tensor, ""]:
    """L1 between pictures shrunk to a quarter of their side, where things stand, and .3 as is."""
    generated = generated.float()
    coarse = F.l1_loss(F.avg_pool2d(generated, 4), F.avg_pool2d(target, 4))
    return coarse + 0.3 * F.l1_loss(generated, target)


def feature_loss(generated: Sequence[Tensor], target: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Mean over layers of the L1 between maps, as a share of the target's mean absolute value.

    Source: Larsen et al. 2016 (likeness in a discriminator's features), with L1.
    """
    shares = [
        F.l1_loss(g.float(), t.float()) / (t.float().abs().mean() + 1e-6)
        for g, t in zip(generated, target, strict=True)
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
    better: Float[Tensor, " n"], worse: Float[Tensor, " n"], valid: Bool[Tensor, " n"] | None = None
) -> Float[Tensor, ""]:
    """Softplus of how far ``worse`` scores above ``better``, paired item by item.

    The discriminator is given (real, generated), the generator (generated, real). Source:
    Jolicoeur-Martineau 2018; in this paired form, Huang et al. 2024 (R3GAN). Only ``valid`` pairs
    count; all when None.
    """
    loss = F.softplus(worse.float() - better.float())
    if valid is None:
        return loss.mean()
    weight = valid.to(loss.dtype)
    return (loss * weight).sum() / weight.sum().clamp(min=1.0)


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
    Embeddings may have any length; ``log_scale`` is the natural logarithm of one over the
    temperature. Source: van den Oord et al. 2018; symmetric as in Radford et al. 2021.
    """
    logits = F.normalize(sound, dim=1) @ F.normalize(picture, dim=1).T * log_scale.exp()
    same = (video[:, None] == video[None]) | (photo[:, None] == photo[None])
    same.fill_diagonal_(False)
    logits = logits.masked_fill(same, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def pictures_nce(
    sound: Float[Tensor, "n e"],
    picture: Float[Tensor, "n k e"],
    recording: Int64[Tensor, " n"],
    photo: Int64[Tensor, "n k"],
    partner: Int64[Tensor, " n"],
    share: Float[Tensor, " n"],
    log_scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE between n sounds, which may be mixtures, and k pictures of each.

    The target of sound i is spread over its own k pictures (``share``, in [0, 1]) and those of the
    ``partner`` that is mixed into it (the rest); that of a picture over the sounds that hold its
    own. Any other picture of the same recording, and the same photo elsewhere, is no negative and
    is left out. ``recording`` and ``photo`` are ids; the rest is as in :func:`info_nce`.
    """
    n, k = photo.shape
    logits = F.normalize(sound, dim=1) @ F.normalize(picture.flatten(0, 1), dim=1).T
    logits = logits * log_scale.exp()
    rows = torch.arange(n, device=sound.device)
    mix = torch.zeros(n, n, device=sound.device)
    mix[rows, rows] = share
    mix[rows, partner] += 1.0 - share
    target = mix.repeat_interleave(k, dim=1) / k
    owner = recording.repeat_interleave(k)
    flat = photo.flatten()
    alike = recording[:, None] == owner[None]
    alike |= recording[partner][:, None] == owner[None]
    for shown in (photo, photo[partner]):
        alike |= (shown[:, :, None] == flat).any(dim=1)
    logits = logits.masked_fill(alike & (target == 0), -1e4)
    of_sound = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
    back = target / target.sum(dim=0, keepdim=True)
    of_picture = -(back * logits.log_softmax(dim=0)).sum(dim=0).mean()
    return 0.5 * (of_sound + of_picture)


def alone_nce(
    two: Float[Tensor, "n 2 e"], others: Float[Tensor, "m e"], log_scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """InfoNCE between two sounds of each of n recordings, against all others of the batch.

    Embeddings may have any length; ``log_scale`` as in :func:`info_nce`. Source: Chen et al. 2020
    (NT-Xent).
    """
    n = len(two)
    own = F.normalize(two.transpose(0, 1).flatten(0, 1), dim=1)
    everyone = torch.cat([own, F.normalize(others, dim=1)])
    logits = own @ everyone.T * log_scale.exp()
    logits[torch.arange(2 * n), torch.arange(2 * n)] = float("-inf")
    target = (torch.arange(2 * n, device=two.device) + n) % (2 * n)
    return F.cross_entropy(logits, target)
