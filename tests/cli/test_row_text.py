from lightning_rlhf.cli.row_text import Kind, Piece, windowed


def row(*runs):
    """Tokens of one letter each: how many, and whether they are learned."""
    return [Piece("ab"[learned], Kind.LEARNED if learned else Kind.PROMPT, 1) for n, learned in runs for _ in range(n)]


def text(pieces):
    return "".join(piece.text for piece in pieces)


def test_the_learned_part_of_a_long_row_is_shown_with_what_stands_around_it():
    shown = windowed(row((3000, False), (50, True), (500, False)), 400)
    assert (
        text(shown) == "a" * 30 + " […2940 tokens…] " + "a" * 30 + "b" * 50 + "a" * 30 + " […440 tokens…] " + "a" * 30
    )


def test_beginning_and_end_of_a_learned_part_that_is_too_long_are_shown():
    shown = windowed(row((10, False), (1000, True)), 400)
    assert text(shown) == "a" * 10 + "b" * 195 + " […610 tokens that are learned…] " + "b" * 195


def test_of_many_turns_the_first_are_shown_and_the_rest_is_counted():
    shown = windowed(row(*[(100, False), (100, True)] * 50), 400)
    assert text(shown).endswith(" […9200 tokens, 4600 of them learned…] ")
    assert sum(piece.num_tokens for piece in shown) == 10_000


def test_a_row_that_fits_is_shown_whole():
    pieces = row((300, False), (100, True))
    assert windowed(pieces, 400) == pieces
