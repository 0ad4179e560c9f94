from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2rank_server.llm_listwise.identifiers import IdentifierKind
from e2rank_server.llm_listwise.loading import load_templates
from e2rank_server.llm_listwise.parsing import AnswerForm, Defect, ParsedOrder, parse_order
from e2rank_server.llm_listwise.refusals import reads_as_refusal

TEMPLATES = load_templates()
M, R, N = Defect.MALFORMED, Defect.REFUSED, Defect.REPETITION


def chain(text: str, num_passages: int = 5) -> ParsedOrder:
    return parse_order(text, num_passages, AnswerForm.CHAIN, IdentifierKind.NUMBERS)


def json_list(text: str, num_passages: int = 5) -> ParsedOrder:
    return parse_order(text, num_passages, AnswerForm.JSON_LIST, IdentifierKind.NUMBERS)


def letters(text: str, num_passages: int = 4) -> ParsedOrder:
    return parse_order(text, num_passages, AnswerForm.CHAIN, IdentifierKind.LETTERS)


def ids(parsed: ParsedOrder) -> list[int]:
    """Return the order as a model would name it, from 1."""
    return [position + 1 for position in parsed.order]


# What a model writes about passages [1] to [5], the order that can be had from it, and the defect.
CHAINS: list[tuple[str, list[int], Defect]] = [
    # As demanded.
    ("[2] > [1] > [5] > [3] > [4]", [2, 1, 5, 3, 4], Defect.OK),
    ("\n [2] > [1] > [5] > [3] > [4]\n", [2, 1, 5, 3, 4], Defect.OK),
    ("[2] > [1] > [2] > [3] > [4]", [2, 1, 3, 4, 5], N),
    ("[2] > [2] > [2]", [2, 1, 3, 4, 5], N),
    ("[2] > [1] > [5]", [2, 1, 5, 3, 4], Defect.MISSING),
    ("[4]", [4, 1, 2, 3, 5], Defect.MISSING),
    # The first defect of several.
    ("[2] > [2] > [9]", [2, 1, 3, 4, 5], M),
    # Almost as demanded.
    ("[2]>[1]>[5]>[3]>[4]", [2, 1, 5, 3, 4], M),
    ("2 > 1 > 5 > 3 > 4", [2, 1, 5, 3, 4], M),
    ("[2] > [1] > [5] > [3] > [4].", [2, 1, 5, 3, 4], M),
    ("[2 > 1 > 5 > 3 > 4]", [2, 1, 5, 3, 4], M),
    ("[02] > [01] > [05] > [03] > [04]", [2, 1, 5, 3, 4], M),
    ("[ 2 ] > [ 1 ] > [ 5 ]", [2, 1, 5, 3, 4], M),
    ("[2] >> [1] => [5] -> [3]", [2, 1, 5, 3, 4], M),
    ("[2] → [1] → [5]", [2, 1, 5, 3, 4], M),
    ("[2] &gt; [1] &gt; [5]", [2, 1, 5, 3, 4], M),
    ("[5] > [4] > [", [5, 4, 1, 2, 3], M),
    ("[5] > [4] > [3", [5, 4, 3, 1, 2], M),
    ("**[5]** > **[4]** > **[3]**", [5, 4, 3, 1, 2], M),
    ("Passage 5 > Passage 4 > Passage 3", [5, 4, 3, 1, 2], M),
    ("[Passage 5] > [Passage 4]", [5, 4, 1, 2, 3], M),
    # In prose, where other digits stand.
    ("Here are the top 3: [5] > [2] > [1]", [5, 2, 1, 3, 4], M),
    ("Here are the top 3: 5, 2, 1", [5, 2, 1, 3, 4], M),
    ("Of the 5 passages, [4] > [2] is 95% sure (score 3.7).", [4, 2, 1, 3, 5], M),
    ("[1] is off-topic, [3] is good.\nFinal ranking: [3] > [2] > [1]", [3, 2, 1, 4, 5], M),
    ("First I thought [1] > [2], but [3] > [2] > [1] is right.", [3, 2, 1, 4, 5], M),
    ("Draft: [1] > [2] > [3]\nFinal: [3] > [2] > [1]", [3, 2, 1, 4, 5], M),
    ("Passages [1], [2] and [4] are weak. So [5] > [3]", [5, 3, 1, 2, 4], M),
    ("[3] is best. Then come [1], [2]", [3, 1, 2, 4, 5], M),
    ("[1] is irrelevant. Ranking: [5], [2], [1]", [5, 2, 1, 3, 4], M),
    ("The most relevant is passage 4, then passage 2.", [4, 2, 1, 3, 5], M),
    ("I would take 4 before 2", [4, 2, 1, 3, 5], M),
    ("The 2nd and the 3rd are fine, v1.2 too", [1, 2, 3, 4, 5], M),
    ("[] > []", [1, 2, 3, 4, 5], M),
    ("Sure! Here is the ranking:", [1, 2, 3, 4, 5], M),
    # Lists.
    ("1. [3]\n2. [5]\n3. [1]", [3, 5, 1, 2, 4], M),
    ("1) [3] the best one\n2) [5] less so", [3, 5, 1, 2, 4], M),
    ("1. Passage 3\n2. Passage 5", [3, 5, 1, 2, 4], M),
    ("1. 3\n2. 5\n3. 1", [3, 5, 1, 2, 4], M),
    ("1. Bamboo\n2. Bears\n3. Sugar", [1, 2, 3, 4, 5], M),
    ("3. Sugar\n1. Bamboo\n2. Bears", [3, 1, 2, 4, 5], M),
    ("- [3]: bamboo\n- [5]: bears", [3, 5, 1, 2, 4], M),
    ("* 3\n* 5\n* 1", [3, 5, 1, 2, 4], M),
    ("[3] [5] [1]", [3, 5, 1, 2, 4], M),
    ("3 5 1", [3, 5, 1, 2, 4], M),
    ("3", [3, 1, 2, 4, 5], M),
    ("[3, 5, 1]", [3, 5, 1, 2, 4], M),
    ('```json\n["3", "5", "1"]\n```', [3, 5, 1, 2, 4], M),
    # Identifiers that were not given.
    ("[0] > [2] > [1]", [2, 1, 3, 4, 5], M),
    ("[6] > [2] > [99] > [1]", [2, 1, 3, 4, 5], M),
    ("[-3] > [2] > [1]", [2, 1, 3, 4, 5], M),
    ("-3, 2, 1", [2, 1, 3, 4, 5], M),
    ("[101] > [102]", [1, 2, 3, 4, 5], M),
    (f"[{'9' * 5000}] > [2]", [2, 1, 3, 4, 5], M),
    ("[1e3] > [0x2] > [2.5]", [1, 2, 3, 4, 5], M),
    # Digits and brackets of other kinds.
    ("[２] > [１] > [５]", [2, 1, 5, 3, 4], M),  # noqa: RUF001
    ("［２］＞［１］＞［５］", [2, 1, 5, 3, 4], M),  # noqa: RUF001
    ("【2】 > 【1】", [2, 1, 3, 4, 5], M),
    ("[²] > [¹] > [₅]", [2, 1, 5, 3, 4], M),
    ("② > ① > ⑤", [2, 1, 5, 3, 4], M),
    ("②①⑤", [2, 1, 5, 3, 4], M),
    ("❺❷", [5, 2, 1, 3, 4], M),
    ("[٢] > [١]", [2, 1, 3, 4, 5], M),  # noqa: RUF001
    ("三 > 二 > Ⅳ > ½", [1, 2, 3, 4, 5], M),
    ("\u202e[2]\u200b > \u200b[1]\x00", [2, 1, 3, 4, 5], M),
    # Thoughts.
    ("<think>\n\n</think>\n\n[2] > [1] > [5] > [3] > [4]", [2, 1, 5, 3, 4], Defect.OK),
    ("<think>[1] > [2] > [3]</think>[3] > [2]", [3, 2, 1, 4, 5], Defect.MISSING),
    ("[1] > [2] > [3]</think>[3] > [2] > [3]", [3, 2, 1, 4, 5], N),
    ("a</think>b [1] > [2] > [3]</think>[3] > [2]", [3, 2, 1, 4, 5], Defect.MISSING),
    ("<think>so it is [4] > [2], as [1] says", [4, 2, 1, 3, 5], M),
    ("<think>passage [3] is about 4 bears", [1, 2, 3, 4, 5], M),
    ("<think>I cannot rank these", [1, 2, 3, 4, 5], M),
    ("<think>[3] > [1]</think>", [1, 2, 3, 4, 5], R),
    # Nothing, and refusals.
    ("", [1, 2, 3, 4, 5], R),
    (" \n\t\u200b\ufeff\x00", [1, 2, 3, 4, 5], R),
    ("I'm sorry, but I can't rank these 5 passages.", [1, 2, 3, 4, 5], R),
    ("I apologize, I am unable to help with 3 of them.", [1, 2, 3, 4, 5], R),
    ("As an AI language model, I do not rank passages.", [1, 2, 3, 4, 5], R),
    ("I cannot assist with that request.", [1, 2, 3, 4, 5], R),
    ("I can\u2019t comply with this.", [1, 2, 3, 4, 5], R),
    ("This would be against our content policy (rule 3).", [1, 2, 3, 4, 5], R),
    ("I must decline to order passage 4.", [1, 2, 3, 4, 5], R),
    ("抱歉，我无法对这些段落进行排序。", [1, 2, 3, 4, 5], R),  # noqa: RUF001
    ("I'm sorry for the delay: [4] > [2]", [4, 2, 1, 3, 5], M),
]

# The same where a JSON list is demanded, after any reasoning.
JSON_LISTS: list[tuple[str, list[int], Defect]] = [
    ("Reasons.\n```json\n[2, 1, 5, 3, 4]\n```", [2, 1, 5, 3, 4], Defect.OK),
    ("```json\n[\n 2,\n 1, 5, 3, 4\n]\n```\nThat is all.", [2, 1, 5, 3, 4], Defect.OK),
    ("```\n[2, 1, 5, 3, 4]\n```", [2, 1, 5, 3, 4], Defect.OK),
    ("[1] is about 3 bears. So: [2,1,5,3,4]", [2, 1, 5, 3, 4], Defect.OK),
    ("<think>[1, 2]</think>[2, 1, 5, 3, 4]", [2, 1, 5, 3, 4], Defect.OK),
    ("```json\n[1, 2, 3, 4, 5]\n```\nNo:\n```json\n[5, 4]\n```", [5, 4, 1, 2, 3], Defect.MISSING),
    ("```json\n[2, 2, 1]\n```", [2, 1, 3, 4, 5], N),
    ("```json\n[3]\n```", [3, 1, 2, 4, 5], Defect.MISSING),
    ("```json\n[2, 7, 1]\n```", [2, 1, 3, 4, 5], M),
    ("```json\n[]\n```", [1, 2, 3, 4, 5], M),
    ("```json\n[2, 1, 5", [2, 1, 5, 3, 4], M),
    ("Thus ```json\n[2, 1, 5,]\n```", [2, 1, 5, 3, 4], M),
    ("```json\n['2', '1']\n```", [2, 1, 3, 4, 5], M),
    ('{"ranking": [2, 1, 5]}', [2, 1, 5, 3, 4], M),
    ('```json\n{"result": {"ids": ["2", "1"]}}\n```', [2, 1, 3, 4, 5], M),
    ('[{"id": 2, "score": 0.9}, {"id": 1, "score": 0.3}]', [2, 1, 3, 4, 5], M),
    ('[{"rank": 1, "passage_id": "2"}, {"rank": 2, "passage_id": "1"}]', [2, 1, 3, 4, 5], M),
    ('["[2]", "[1]"]', [2, 1, 3, 4, 5], M),
    ("[[2], [1], [5]]", [2, 1, 5, 3, 4], M),
    ('{"2": 0.9, "1": 0.5}', [2, 1, 3, 4, 5], M),
    ("[1, 2] are weak, [3, 5, 4] is the order, really", [3, 5, 4, 1, 2], M),
    ("I compare [1] > [2].\n```json\n[3, 5, 4", [3, 5, 4, 1, 2], M),
    ("[2] > [1] > [5] > [3] > [4]", [2, 1, 5, 3, 4], M),
    ("[[[[[[[[2", [2, 1, 3, 4, 5], M),
    ("<think>maybe [2, 1, 5]", [2, 1, 5, 3, 4], M),
    ("I am not able to provide a ranking.", [1, 2, 3, 4, 5], R),
]

# And where letters A to D name the passages.
LETTERS: list[tuple[str, list[int], Defect]] = [
    ("[B] > [A] > [D] > [C]", [2, 1, 4, 3], Defect.OK),
    ("[B] > [A] > [B]", [2, 1, 3, 4], N),
    ("[B] > [A]", [2, 1, 3, 4], Defect.MISSING),
    ("[B] > [Z]", [2, 1, 3, 4], M),
    ("[b] > [a] > [d]", [2, 1, 4, 3], M),
    ("B > A > D", [2, 1, 4, 3], M),
    ("B, A, D", [2, 1, 4, 3], M),
    ("B", [2, 1, 3, 4], M),
    ("A passage about a bear, I think: [C] > [B]", [3, 2, 1, 4], M),
    ("A bear is what I would CALL a DAB hand.", [1, 2, 3, 4], M),
    ("D is what I would take", [1, 2, 3, 4], M),
    ('["D", "B"]', [4, 2, 1, 3], M),
    ("DBCA", [1, 2, 3, 4], M),
    ("1. [D]\n2. [B]", [4, 2, 1, 3], M),
    ("Passage D, then passage B", [4, 2, 1, 3], M),
    ("[2] > [1]", [1, 2, 3, 4], M),
    ("I'm sorry, I can't do A or B.", [1, 2, 3, 4], R),
    ("", [1, 2, 3, 4], R),
]


@pytest.mark.parametrize(("text", "order", "defect"), CHAINS)
def test_an_order_is_read_where_a_chain_is_demanded(
    text: str, order: list[int], defect: Defect
) -> None:
    parsed = chain(text)
    assert (ids(parsed), parsed.defect) == (order, defect)


@pytest.mark.parametrize(("text", "order", "defect"), JSON_LISTS)
def test_an_order_is_read_where_a_json_list_is_demanded(
    text: str, order: list[int], defect: Defect
) -> None:
    parsed = json_list(text)
    assert (ids(parsed), parsed.defect) == (order, defect)


@pytest.mark.parametrize(("text", "order", "defect"), LETTERS)
def test_an_order_is_read_where_letters_name_passages(
    text: str, order: list[int], defect: Defect
) -> None:
    parsed = letters(text)
    assert (ids(parsed), parsed.defect) == (order, defect)


def test_one_passage_is_ordered_by_its_own_name() -> None:
    assert chain("[1]", 1) == json_list("[1]", 1) == ParsedOrder((0,), Defect.OK)
    assert letters("[A]", 1) == ParsedOrder((0,), Defect.OK)


def test_a_forced_beginning_belongs_to_the_answer() -> None:
    assert TEMPLATES["first"].parse("B] > [A]", 2) == ParsedOrder((1, 0), Defect.OK)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_blank_output_is_a_refusal_of_any_template(name: str) -> None:
    assert TEMPLATES[name].parse(" \n", 3) == ParsedOrder((0, 1, 2), R)


def test_a_thousand_passages_are_read() -> None:
    text = " > ".join(f"[{number}]" for number in range(1000, 0, -1))
    assert chain(text, 1000) == ParsedOrder(tuple(reversed(range(1000))), Defect.OK)


# fmt: off
PIECES = st.sampled_from([
    "[", "]", " > ", ",", "1", "2", "99", "-3", "[3]", "[B]", "A", "[C] > ", "²", "⑳", "\uff11",
    "\n", "<think>", "</think>", "```", "```json\n", '"id": ', "Passage ", "top 3", "1. ", "sorry",
])
HOSTILE = [
    "[", "1", "[1", "[1] > ", "1 ", "[[1],", " ", "\n", "> ", "<think>", "```", "```json[1,", "①",
    "sorry ", "can't ", "id ", "passage_1 ", "top ", "1. ", "-1", ", ", "a", "[A] > ", "A ",
]
# fmt: on
OUTPUTS = st.one_of(st.text(), st.lists(PIECES, max_size=30).map("".join))


@pytest.mark.parametrize("name", TEMPLATES)
@given(text=OUTPUTS, num_passages=st.integers(1, 120))
def test_any_output_gives_a_permutation(name: str, text: str, num_passages: int) -> None:
    order = TEMPLATES[name].parse(text, num_passages).order
    assert sorted(order) == list(range(num_passages))


@given(order=st.permutations(range(20)))
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_demanded_form_is_read_as_it_is_written(name: str, order: list[int]) -> None:
    template = TEMPLATES[name]
    names = [template.identifiers(20)[position] for position in order]
    text = " > ".join(f"[{name}]" for name in names).removeprefix(template.answer_prefix)
    if template.answer_form is AnswerForm.JSON_LIST:
        text = f"[3] is about [1].\n```json\n[{', '.join(names)}]\n```"
    assert template.parse(text, 20) == ParsedOrder(tuple(order), Defect.OK)


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("parse", [chain, json_list, letters])
def test_megabytes_of_anything_are_bounded_work(
    piece: str, parse: Callable[[str, int], ParsedOrder]
) -> None:
    text = piece * (4_000_000 // len(piece))
    parsed = parse(text, 26)
    assert sorted(parsed.order) == list(range(26))
    # Only the end is read, and work that grew with its square would meet the test's time limit.
    assert parsed == parse(text[-65_536:], 26)


@pytest.mark.parametrize(
    "text", ["Sorry.", "I won't do that", "not comfortable with it", "Lo siento", "Je suis désolé"]
)
def test_refusals_are_recognised(text: str) -> None:
    assert reads_as_refusal(text)


@pytest.mark.parametrize("text", ["[] > []", "The best passage is about bamboo.", "?"])
def test_other_nonsense_is_no_refusal(text: str) -> None:
    assert not reads_as_refusal(text)
