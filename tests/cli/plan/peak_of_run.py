"""Runs the command line in this process and prints what it took at its peak, beyond what imported libraries take."""

import gc
import re
import sys
from pathlib import Path

import peft  # noqa: F401
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaForCausalLM  # noqa: F401

import lightning_rlhf.cli.lightning_cli  # noqa: F401
from lightning_rlhf.cli.main import main


def status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


torch.set_num_threads(1)
gc.collect()
before = status("VmRSS")
code = main(sys.argv[1:])
print(f"\npeak {status('VmHWM') - before}")
sys.exit(code)
