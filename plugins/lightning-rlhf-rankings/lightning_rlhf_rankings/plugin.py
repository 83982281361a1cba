"""What this package offers, by dotted name: listing it loads neither NumPy nor SciPy."""

from lightning_rlhf import Component, hookimpl

__all__ = ["rlhf_ranking_converters"]

_PACKAGE = "lightning_rlhf_rankings"


@hookimpl
def rlhf_ranking_converters() -> list[Component]:
    """Aggregations of many annotators."""
    return [
        Component(
            "bradley_terry_ml",
            f"{_PACKAGE}.bradley_terry:BradleyTerryMLConverter",
            "comparisons by maximum likelihood, with standard errors",
        ),
        Component(
            "plackett_luce_ml",
            f"{_PACKAGE}.plackett_luce:PlackettLuceMLConverter",
            "whole rankings by maximum likelihood, with standard errors",
        ),
        Component("elo", f"{_PACKAGE}.elo:EloConverter", "Elo ratings, free of the order of the annotators"),
        Component(
            "openskill",
            f"{_PACKAGE}.skill:OpenSkillConverter",
            "OpenSkill ratings, free of the order of the annotators, with standard errors",
        ),
    ]
