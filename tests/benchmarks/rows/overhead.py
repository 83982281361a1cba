"""What module, data and Trainer cost over a plain loop of the same maths: the works of `sft.py` and `reward.py` again.

The plain loops know their rows beforehand as lists of ids, shuffle and pad them as ours does, and use AdamW in its
fused form. That of the reward model puts the responses of a prompt behind it in one row, as ours does where that is
shorter; a plain loop with a row per response stands beside it, without a bar.
"""

from dataclasses import replace

from rows import Bar, Contestant, Row
from rows.reward import BARE as BARE_REWARD
from rows.reward import ROWS as REWARD_ROWS
from rows.sft import BARE as BARE_SFT
from rows.sft import ROWS as SFT_ROWS

_SHARED = Contestant("bare loop, shared prompt", "bare_reward", settings={"shared_prefix": True})


def _against(row: Row, *bare: Contestant) -> Row:
    return replace(
        row,
        name=f"overhead-{row.name}",
        title=f"{row.title}, against the bare loop",
        contestants=(row.contestants[0], *bare),
        bars=(Bar("time", bare[0].label, at_most=1.05),),
        repeats=5,
    )


ROWS = [_against(SFT_ROWS[0], BARE_SFT), *(_against(row, _SHARED, BARE_REWARD) for row in REWARD_ROWS)]
