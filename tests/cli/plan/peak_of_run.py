"""Runs a config in this process and prints what it took at its peak, beyond what the libraries take.

The same run of a tiny model comes first: afterwards all that such a run imports is imported, and nothing is loaded.
"""

import ctypes
import gc
import re
import sys
from pathlib import Path

import torch

from lightning_rlhf.cli.main import main


def status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


torch.set_num_threads(1)
config, folder = sys.argv[1:]
assert main(["fit", "--config", config, "--model.base=tiny", f"--trainer.default_root_dir={folder}/tiny"]) == 0
gc.collect()
ctypes.CDLL(None).malloc_trim(0)
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
before = status("VmRSS")
code = main(["fit", "--config", config, f"--trainer.default_root_dir={folder}/run"])
print(f"\npeak {status('VmHWM') - before}")
sys.exit(code)
