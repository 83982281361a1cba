"""The demo's dialogues."""

from lightning_rlhf.cli.demo.corpus import read_corpus, write_lines


def test_no_question_is_both_learned_and_held_out():
    corpus = read_corpus()
    assert len(corpus.heldout_prompts) >= 40
    assert len(corpus.train_prompts) > 5 * len(corpus.heldout_prompts)
    assert not {prompt.lower() for prompt in corpus.train_prompts} & {
        prompt.lower() for prompt in corpus.heldout_prompts
    }


def test_turns_are_sentences_of_a_few_words():
    corpus = read_corpus()
    turns = [turn for pair in (*corpus.train, *corpus.heldout) for turn in pair]
    assert all(turn.endswith((".", "!", "?", '"')) and turn == " ".join(turn.split()) for turn in turns)
    assert all(turn[:1] == turn[:1].upper() for turn in turns)
    assert max(len(turn.split()) for turn in turns) <= 16


def test_pretraining_texts_hold_every_sentence_equally_often_and_nothing_that_is_held_out_alone():
    corpus = read_corpus()
    texts = corpus.texts(2, seed=3)
    sentences = [sentence for text in texts for sentence in text.split("\n")]
    assert sorted(sentences) == sorted(4 * corpus.sentences)
    assert texts == corpus.texts(2, seed=3)
    assert texts != corpus.texts(2, seed=4)


def test_lines_are_written_as_utf_8(tmp_path):
    write_lines(tmp_path / "new" / "rows.jsonl", [{"text": "今日は"}, {"text": "a\nb"}])
    lines = (tmp_path / "new" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines == ['{"text": "今日は"}', '{"text": "a\\nb"}']
