"""The wheel with the core alone, on each Python there is, with its oldest and newest dependencies.

``make pythons`` runs it. A Python that is not on the machine is named and left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
TOOLS = (
    "pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "scipy", "psutil", "onnx",
    "soundfile",
)  # fmt: skip
"""What these tests need beside the core. PyTorch is not among them."""
TESTS = (
    "tests/test_no_torch.py", "tests/core/test_core.py", "tests/core/test_files.py",
    "tests/media/test_audio.py",
    "tests/media/test_frames.py::test_every_frame_of_every_format[pyramid.mp4]",
    "tests/runtime/test_translator.py", "tests/cli/test_cli.py", "tests/cli/test_translate.py",
)  # fmt: skip
"""What a Python or a dependency can break, under a minute on one core; ``make test`` has all."""
TESTS_WITH_EXTRAS = (*TESTS, "tests/core/test_protocol.py", "tests/server/test_stream.py")
FROM_ELSEWHERE = {"PYTHONPATH": None}
"""Only what was installed is tried, and not the source beside it."""

if shutil.which("pyenv"):  # its commands answer for one version, or for all when told so
    known = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True)
    os.environ.setdefault("PYENV_VERSION", ":".join(known.stdout.split()))


def bounds(wanted: tuple[str, ...]) -> list[str]:
    """The development requirements of these names, as pyproject.toml bounds them."""
    extras = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]
    return [line for line in extras["dev"] + extras["train"] if line.split(">=")[0] in wanted]


@nox.session(python=PYTHONS)
@nox.parametrize("versions", ["lowest-direct", "highest"], ids=["lowest", "highest"])
def core(session: nox.Session, versions: str) -> None:
    """Try the wheel: the bundled examples, every format of sound, tests that need no PyTorch.

    With the highest versions the server is tried, too, and the microphone's extra installed.
    """
    place = Path(session.create_tmp())
    session.run("uv", "build", "--quiet", "--wheel", "--out-dir", str(place), silent=True)
    (wheel,) = place.glob("*.whl")
    # A bound that has no wheel for this Python would otherwise be built from its source.
    extras = ["--extra", "serve", "--extra", "mic"] if versions == "highest" else []
    session.install("--no-build", "--resolution", versions, "-r", "pyproject.toml", *extras)
    session.install("--no-deps", "--reinstall", str(wheel))
    versions_of_core = session.run(
        "uv", "pip", "freeze", "--quiet", "--exclude", "soundsight", silent=True
    )
    session.log(" ".join(versions_of_core.split()))
    (place / "core.txt").write_text(versions_of_core)
    session.install("--constraint", str(place / "core.txt"), *bounds(TOOLS))
    session.run("uv", "pip", "check")

    where = "import soundsight; print(soundsight.__path__[0])"
    package = session.run("python", "-c", where, env=FROM_ELSEWHERE, silent=True).strip()
    if not Path(package).is_relative_to(session.virtualenv.location):
        session.error(f"{package} is not what was installed")
    session.run("soundsight", "--version", env=FROM_ELSEWHERE)
    examples, out = f"{package}/assets/examples", str(place / "out")
    session.run(
        "soundsight", "translate", examples, "-o", out, "--anyway", "--sheet", "--overwrite",
        env=FROM_ELSEWHERE,
    )  # fmt: skip
    tests = TESTS_WITH_EXTRAS if extras else TESTS
    options = ("-n", "auto", "-m", "not slow")
    session.run("pytest", *options, *tests, *session.posargs, env=FROM_ELSEWHERE)
