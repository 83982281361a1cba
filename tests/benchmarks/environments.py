"""Virtual environments of the peers, made from `peers/<name>.txt` when they are not there."""

import hashlib
import json
import subprocess
import sys
import venv
from pathlib import Path

from rows import OURS

_REQUIREMENTS = Path(__file__).parent / "peers"
_PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "peft", "lightning", "lightning-rlhf")

_VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps({"python": sys.version.split()[0], **found}))
"""


def python_of(environment: str, peers: Path) -> Path:
    """The Python of an environment, which is built first if it is missing or its requirements changed.

    Raises:
        SystemExit: there is no such file of requirements, or its packages cannot be installed.
    """
    if environment == OURS:
        return Path(sys.executable)
    requirements = _REQUIREMENTS / f"{environment}.txt"
    if not requirements.exists():
        raise SystemExit(f"a peer must have a file of requirements, got none at {requirements}.")
    folder = peers / environment
    python = folder / "bin" / "python"
    mark = folder / "built-from"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not mark.exists() or mark.read_text() != wanted:
        print(f"building {folder} from {requirements.name} (minutes) …", file=sys.stderr, flush=True)
        venv.create(folder, clear=True, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)]
        if subprocess.run(command, stdout=sys.stderr).returncode:
            raise SystemExit(f"the packages of {requirements} must be installable, pip's error stands above.")
        mark.write_text(wanted)
    return python


def versions(python: Path) -> dict[str, str]:
    """Versions of Python and of what matters in an environment."""
    done = subprocess.run([str(python), "-c", _VERSIONS, *_PACKAGES], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found
