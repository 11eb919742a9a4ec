"""Citations: the sentence that an answer comes from, or none at all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixtral.rag.citations import Citation, find_citations, nearest_sentence, unknown_numbers
from tests.rag.ask_for_tests import CATS, INT4, passage

PASSAGES = [passage(CATS, start=0, end=len(CATS)), passage(INT4)]


def cite(answer: str, question: str = "", passages: list[str] | None = None) -> list[Citation]:
    shown = PASSAGES if passages is None else [passage(text) for text in passages]
    return find_citations(answer, shown, question=question)


@pytest.mark.parametrize(
    "answer",
    [
        "the low four bits",
        "The first is in the low four bits.",
        "THE LOW   FOUR\nBITS",
        "low, four: bits",
        "in the low four bits!",
    ],
)
def test_bare_span_is_found_in_its_sentence(answer: str) -> None:
    (found,) = cite(answer)
    assert found.number == 2
    assert found.text == "The first is in the low four bits."
    assert found.is_supported
    start = INT4.index(found.text)
    assert (found.start, found.end) == (100 + start, 100 + start + len(found.text))


def test_span_across_two_sentences_cites_both() -> None:
    (found,) = cite("a byte. The first is")
    assert found.text == "Two values share a byte. The first is in the low four bits."


def test_question_decides_between_sentences_with_the_same_words() -> None:
    text = "The door of Anna is blue. The car of Ben is blue. The hat of Carl is blue."
    (found,) = cite("blue", question="What colour is the car of Ben?", passages=[text])
    assert found.text == "The car of Ben is blue."


def test_better_passage_wins_where_nothing_else_decides() -> None:
    (found,) = cite("blue", passages=["It is red.", "It is blue.", "It is blue."])
    assert found.number == 2


def test_other_words_in_between_and_another_order_are_found_by_content_words() -> None:
    (found,) = cite("A byte holds two values that share it")
    assert found.text == "Two values share a byte."


@pytest.mark.parametrize(
    "answer",
    [
        "Each group of 64 has one scale.",  # another number
        "Dogs bark.",
        "It is so.",
        "fourbits",
        "",
        "...",
    ],
)
def test_what_no_passage_says_has_no_citation(answer: str) -> None:
    assert cite(answer) == []


def test_numbers_of_the_model_are_kept_in_their_order() -> None:
    found = cite("The first is in the low four bits [2]. The cat of the station is black. [1]")
    assert [one.number for one in found] == [2, 1]
    assert found[1].text == "The old cat of the station is black."
    assert all(one.is_supported for one in found)


@pytest.mark.parametrize("answer", ["It is small [1,2].", "It is small [1][2].", "Small. [1; 2]"])
def test_every_spelling_of_several_numbers_is_read(answer: str) -> None:
    assert [one.number for one in cite(answer)] == [1, 2]


def test_number_without_support_is_kept_and_marked() -> None:
    (found,) = cite("Dogs bark at night [2].")
    assert not found.is_supported
    assert (found.start, found.end, found.text) == (100, 100 + len(INT4), INT4)


def test_sentences_without_a_number_are_looked_for_beside_those_with_one() -> None:
    found = cite("Cats sleep most of the day [1]. Two values share a byte.")
    assert [one.number for one in found] == [1, 2]


def test_passage_is_cited_once_where_it_is_supported_best() -> None:
    (found,) = cite("Dogs bark [2]. The first is in the low four bits [2].")
    assert found.text == "The first is in the low four bits."


def test_index_in_code_is_no_citation() -> None:
    assert cite("Write `x[1]` or\n```\ny = x[2]\n```") == []
    assert unknown_numbers("`x[9]` and [3] and [0, 2]", 2) == [3, 0]


def test_list_items_and_lines_of_code_are_sentences() -> None:
    text = "Options:\n- red paint\n- green paint\n\ndef f(x):\n    return x"
    (found,) = cite("green paint", passages=[text])
    assert found.text == "- green paint"


def test_text_without_spaces_is_found_by_pairs_of_characters() -> None:
    capital = "\u6771\u4eac\u306f\u65e5\u672c\u306e\u9996\u90fd\u3067\u3059\u3002"
    text = capital + "\u5927\u962a\u306f\u897f\u3067\u3059\u3002"
    (found,) = cite("\u65e5\u672c\u306e\u9996\u90fd", passages=[text])
    assert found.text == capital


@settings(deadline=None, max_examples=60)
@given(
    texts=st.lists(
        st.text(alphabet="ab12 .\n[]-!?`\u3002", max_size=80).filter(str.strip),
        min_size=1,
        max_size=3,
    ),
    answer=st.text(alphabet="ab12 .\n[],`", max_size=60),
)
def test_every_citation_is_a_span_of_its_passage(texts: list[str], answer: str) -> None:
    found = cite(answer, question="a b", passages=texts)
    assert len({one.number for one in found}) == len(found)
    for one in found:
        document = "." * 100 + one.passage.text
        assert one.passage.text == texts[one.number - 1]
        assert document[one.start : one.end] == one.text
        assert one.text.strip()


# ---- Where nothing supports an answer ------------------------------------------------------------


def test_nearest_sentence_has_most_of_the_words_of_the_question_rare_ones_first() -> None:
    other = passage("A byte has eight bits. A byte is small. The scale of a byte is one.")
    found = nearest_sentence("Which scale has a group of bytes?", [other, passage(INT4)])
    assert found is not None
    assert (found.number, found.text) == (2, "A group of 128 has one scale.")
    start = 100 + INT4.index(found.text)
    assert (found.start, found.end) == (start, start + len(found.text))
    assert not found.is_supported


def test_of_equally_near_sentences_the_one_of_the_better_passage_is_taken() -> None:
    found = nearest_sentence("Why is it blue?", [passage("It is blue today."), passage("Blue.")])
    assert found is not None
    assert found.number == 1


def test_heading_counts_as_words_of_its_sentences() -> None:
    warranty = passage("It lasts three years. Keep the receipt.", heading="Warranty")
    found = nearest_sentence("How long does the warranty last?", [passage(CATS), warranty])
    assert found is not None
    assert found.number == 2


def test_sentence_that_says_the_question_again_is_no_place_to_read() -> None:
    text = 'Try: mixtral rag ask "How is int4 packed?" Then read on. The int4 values share a byte.'
    found = nearest_sentence("how is INT4 packed", [passage(text)])
    assert found is not None
    assert found.text == "The int4 values share a byte."


@pytest.mark.parametrize("question", ["What is it?", "Where do zebras live?"])
def test_nothing_is_near_where_no_word_is_shared(question: str) -> None:
    assert nearest_sentence(question, PASSAGES) is None
    assert nearest_sentence(question, []) is None


def test_support_that_shares_less_with_the_question_leaves_the_nearest_sentence() -> None:
    asked = "How is int4 packed?"
    passages = [passage("An int4 code is packed in a byte."), passage("An int4 merge is no news.")]
    far = find_citations("It is no merge of int4 news.", passages, question=asked)
    assert [citation.number for citation in far] == [2]
    found = nearest_sentence(asked, passages, far)
    assert found is not None
    assert found.number == 1
    near = find_citations("An int4 code is in a byte.", passages, question=asked)
    assert nearest_sentence(asked, passages, near) is None
