"""What the published discriminator can tell, and what it cannot."""

from __future__ import annotations

import torch
from torch import Tensor

from soundsight.models.presets import preset
from soundsight.models.published.discriminator import RCDiscriminator


def test_the_score_adds_up_picture_and_sound() -> None:
    """Before tanh, how much better one picture is than another does not depend on the sound.

    The embedding enters before a linear layer, beside the picture's maps. So with one and the same
    sounds for real and generated pictures the RC-score tells nothing of which picture belongs to
    which of them.
    """
    torch.manual_seed(0)
    network = RCDiscriminator(preset("tiny").rc_discriminator).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.2 * torch.randn(weight.shape)
        pictures, sounds = torch.rand(3, 3, 96, 96) * 2 - 1, torch.randn(4, 16)

        def logits(sound: Tensor) -> Tensor:
            return torch.atanh(network(pictures, sound.expand(3, -1)).double())

        table = torch.stack([logits(sound) for sound in sounds])
    assert table.std(dim=1).min() > 1e-3  # pictures differ,
    assert table.std(dim=0).min() > 1e-3  # and so do sounds,
    torch.testing.assert_close(  # and their effects are added
        table - table[:1], (table - table[:1])[:, :1].expand(4, 3), rtol=1e-3, atol=1e-5
    )
