"""bf16-mixed on the CPU against our own fp32: SFT as in `sft.py`; PPO's row stands in `ppo.py`.

Only a CPU with instructions for bf16 can be faster with it; the report says whether this one has them.
"""

from dataclasses import replace

from rows import Bar, Contestant
from rows.sft import OURS
from rows.sft import ROWS as SFT_ROWS

_BF16 = Contestant("ours, bf16-mixed", "ours_sft", settings={"precision": "bf16-mixed"})

ROWS = [
    replace(
        SFT_ROWS[0],
        name="sft-bf16",
        title="SFT as in sft-padded, bf16-mixed against our own fp32",
        contestants=(_BF16, OURS),
        bars=(Bar("speed", OURS.label, at_least=1.25),),
        close={"loss": 1e-2},
    )
]
