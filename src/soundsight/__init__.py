"""soundsight turns sound into sight: it hears a second of sound and imagines the scene.

The public names are loaded when they are first asked for, so that ``import soundsight`` costs
nothing::

    from soundsight import Translator

    translation = Translator.load().translate("dog.wav")
    translation.images  # uint8 [n, 96, 96, 3]
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# onnxruntime's wheels keep a file of what they are used for, and send it to their maker, unless
# this is set before they are loaded. Nothing leaves this machine but what its user sends.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["Client", "SoundsightError", "Translation", "Translator", "__version__"]

if TYPE_CHECKING:
    from soundsight.client import Client
    from soundsight.core.errors import SoundsightError
    from soundsight.runtime.translator import Translator
    from soundsight.views.translation import Translation

_HOMES = {
    "Client": "soundsight.client",
    "SoundsightError": "soundsight.core.errors",
    "Translation": "soundsight.views.translation",
    "Translator": "soundsight.runtime.translator",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'soundsight' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
