import pytest


def test_the_help_names_classes_as_they_are_typed_and_is_no_page_of_usage(command, capsys):
    assert command("fit", "--help", bare=True) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: lightning-rlhf fit [--config FILE] [--name value ...]\n\nTrain one stage.")
    assert text.index("--model ") < text.index("--data ") < text.index("--trainer.accelerator ")
    assert "StandInStage" in text
    assert "lightning.pytorch.callbacks." not in text


def test_a_class_has_its_own_help(command, capsys):
    assert command("fit", "--model.help", "StandInStage", bare=True) == 0
    text = capsys.readouterr().out
    assert "where the line starts. (type: float, default: 0.5)" in text
    assert "length, stop_token" in " ".join(text.split())  # other tests may have defined further classes
    assert "usage:" not in text


@pytest.mark.parametrize("name", ["fit", "validate", "test", "predict"])
def test_every_command_prints_the_config_that_it_would_use(command, capsys, name):
    assert command(name, "--print_config") == 0
    text = capsys.readouterr().out
    assert text.startswith("# lightning-rlhf==")
    assert "weights_only: true" in text
