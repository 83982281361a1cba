import pytest

from lightning_rlhf.errors import ConfigError
from lightning_rlhf.registry import create


@pytest.mark.parametrize(
    ("component", "distribution"),
    [("vader", "vaderSentiment"), ("textblob", "textblob"), ("snownlp", "snownlp")],
)
def test_a_missing_library_is_named_with_what_to_install(component, distribution, hidden):
    hidden(distribution)
    message = rf"'{component}' must be able to import {distribution}, got .*\. Install it: pip install {distribution}$"
    with pytest.raises(ConfigError, match=message):
        create("reward_function", component)


def test_a_library_that_breaks_while_it_is_imported_is_named(broken):
    broken("snownlp", "raise AttributeError('module codecs has no attribute open')")
    with pytest.raises(ConfigError, match="got AttributeError: module codecs has no attribute open"):
        create("reward_function", "snownlp")


def test_what_a_library_warns_of_while_it_is_imported_is_not_the_user_s_to_mend(broken):
    broken("vaderSentiment", "import warnings\nwarnings.warn('open() without close()', ResourceWarning)\nraise OSError")
    with pytest.raises(ConfigError, match="got OSError"):  # and not the warning, which is an error in these tests
        create("reward_function", "vader")
