from typing import ClassVar

from lightning_rlhf.testing import RankingConverterContract


class TestBradleyTerryML(RankingConverterContract):
    component = "bradley_terry_ml"


class TestPlackettLuceML(RankingConverterContract):
    component = "plackett_luce_ml"


class TestElo(RankingConverterContract):
    component = "elo"


class TestOpenSkill(RankingConverterContract):
    component = "openskill"


class TestEloWithALargeFactor(RankingConverterContract):
    component = "elo"
    init_args: ClassVar = {"k_factor": 400.0}


class TestOpenSkillWithAWidePrior(RankingConverterContract):
    component = "openskill"
    init_args: ClassVar = {"prior_deviation": 3.0}
