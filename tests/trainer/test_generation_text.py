import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from trainer.generation.text import TextStream, TokenBytes
from trainer.tokenizer import END_OF_TEXT, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["naïve words, 日本語 and 😀😀, as they come\n\n" * 3], 300)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    text=st.text(alphabet=st.sampled_from("ab ïé日本😀\n"), max_size=20),
    extra=st.lists(st.integers(0, 299), max_size=6),
)
def test_pieces_make_the_text_and_none_holds_half_a_character(
    tokenizer: Tokenizer, text: str, extra: list[int]
) -> None:
    stream = TextStream(TokenBytes(tokenizer))
    tokens = tokenizer.encode(text).ids
    pieces = [stream.push(token) for token in tokens]
    assert "".join(pieces) == text
    assert stream.flush() == ""
    broken = [*tokens, *extra]  # any ids at all: what is no UTF-8 is replaced as the tokenizer itself does
    stream = TextStream(TokenBytes(tokenizer))
    assert "".join(stream.push(token) for token in broken) + stream.flush() == tokenizer.decode(broken)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    text=st.text(alphabet="ab\n", max_size=20),
    stops=st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3),
)
def test_stop_texts_end_the_answer_before_them(tokenizer: Tokenizer, text: str, stops: list[str]) -> None:
    stream = TextStream(TokenBytes(tokenizer), stops)
    said = ""
    for token in tokenizer.encode(text).ids:
        said += stream.push(token)
        if stream.stopped:
            break
    else:
        said += stream.flush()
    ends = [text.index(stop) for stop in stops if stop in text]
    assert stream.stopped == bool(ends)
    if not ends:
        assert said == text
    else:
        assert text.startswith(said)
        assert not any(stop in said for stop in stops)
        assert any(text[len(said) :].startswith(stop) for stop in stops)


def test_special_tokens_have_no_text(tokenizer: Tokenizer) -> None:
    stream = TextStream(TokenBytes(tokenizer))
    assert stream.push(tokenizer.token_to_id(END_OF_TEXT)) == ""
    assert stream.push(4_000) == ""
    assert stream.flush() == ""
