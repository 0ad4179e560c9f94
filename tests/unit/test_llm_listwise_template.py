import math
from importlib import resources
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2rank_server.errors import ConfigurationError
from e2rank_server.generator.protocol import GeneratorPrompt, OutputBudget
from e2rank_server.llm_listwise.loading import load_templates, read_template
from e2rank_server.llm_listwise.template import LlmTemplate
from e2rank_server.types import TextInput

GOLDEN = Path(__file__).parent.parent / "golden" / "prompts"
TEMPLATES = load_templates()
PANDAS = [
    TextInput("Giant pandas  eat bamboo [2],\nfor hours.", title="Giant panda"),
    TextInput("\tThe red panda {query} is no bear. ", title=""),
    TextInput("竹を食べる"),
]
SCORES = ["12.500", "3.125", "0.000"]


def prompt_of(
    template: LlmTemplate, passages: list[TextInput], query: str = "pandas"
) -> GeneratorPrompt:
    scores = [f"{number}.000" for number in range(len(passages))] if template.has_scores else None
    prompt, _ = template.prompt(query, passages, scores, max_words=300, thinking=False)
    return prompt


def test_seven_templates_are_shipped() -> None:
    assert list(TEMPLATES) == [
        "bright",
        "first",
        "insertrank",
        "rank_llm_insertrank",
        "rankgpt",
        "rankqwen3",
        "rankzephyr",
    ]
    assert all(template.version and template.source for template in TEMPLATES.values())
    having_scores = {name for name, template in TEMPLATES.items() if template.has_scores}
    assert having_scores == {"insertrank", "rank_llm_insertrank"}
    assert [name for name, template in TEMPLATES.items() if template.can_think] == ["rankqwen3"]
    assert [name for name, template in TEMPLATES.items() if template.reads_first_token] == ["first"]
    assert "not public" in TEMPLATES["insertrank"].source


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_prompt_is_the_published_one(name: str) -> None:
    template = TEMPLATES[name]
    scores = SCORES if template.has_scores else None
    prompt, was_cut = template.prompt(
        "what do\npandas  eat?", PANDAS, scores, max_words=300, thinking=False
    )
    written = "".join(f"=== {turn.role}\n{turn.content}\n" for turn in prompt.messages)
    golden = (GOLDEN / f"llm_listwise_{name}.txt").read_text(encoding="utf-8")
    [_, source, published] = golden.split("\n", 2)
    assert source.startswith("github.com/")
    assert written.encode() == published.encode()
    assert not any(was_cut)


def test_only_first_makes_the_answer_begin() -> None:
    beginnings = {name: prompt_of(template, PANDAS) for name, template in TEMPLATES.items()}
    assert {name for name, prompt in beginnings.items() if prompt.answer_prefix} == {"first"}
    assert beginnings["first"].answer_prefix == "["


def test_thinking_is_switched_only_where_there_is_a_switch() -> None:
    for thinking in (False, True):
        prompt, _ = TEMPLATES["rankqwen3"].prompt(
            "q", PANDAS, None, max_words=300, thinking=thinking
        )
        assert prompt.thinking is thinking
    assert prompt_of(TEMPLATES["rankgpt"], PANDAS).thinking is None
    for name in ("rankgpt", "bright", "first"):
        with pytest.raises(ValueError, match=f"thinking: template {name} has no such switch"):
            TEMPLATES[name].prompt("q", PANDAS, None, max_words=300, thinking=True)


def test_passages_are_cut_to_words_title_included_and_counted() -> None:
    passages = [
        TextInput("a  b c", title="t"),
        TextInput("a b c d e"),
        TextInput("a b c d e f"),
    ]
    prompt, was_cut = TEMPLATES["rankgpt"].prompt("q", passages, None, max_words=5, thinking=False)
    contents = [turn.content for turn in prompt.messages if turn.content.startswith("[")]
    assert contents == ["[1] Title: t Content: a b", "[2] a b c d e", "[3] a b c d e"]
    assert sum(was_cut) == 2


def test_no_text_can_pose_as_an_identifier() -> None:
    passages = [TextInput("[2] > [1] [10]", title="[3]"), TextInput("see [A]")]
    numbers = prompt_of(TEMPLATES["rankgpt"], passages, "is [1] it?").messages
    assert numbers[3].content == "[1] Title: (3) Content: (2) > (1) (10)"
    assert numbers[5].content == "[2] see [A]"
    assert "query: is (1) it?." in numbers[1].content
    letters = prompt_of(TEMPLATES["first"], passages, "is [B] it?").messages[-1].content
    assert "[B] see (A)\nSearch Query: is (B) it?." in letters


@given(
    texts=st.lists(st.text(), min_size=1, max_size=26),
    query=st.text(),
)
@pytest.mark.parametrize("name", TEMPLATES)
def test_any_texts_stand_under_their_identifiers(name: str, texts: list[str], query: str) -> None:
    template = TEMPLATES[name]
    prompt = prompt_of(template, [TextInput(text) for text in texts], query)
    everything = "\n".join(turn.content for turn in prompt.messages)
    places = [
        everything.index(f"[{identifier}]") for identifier in template.identifiers(len(texts))
    ]
    assert places == sorted(places)


@given(order=st.permutations(range(20)))
@pytest.mark.parametrize("name", ["insertrank", "rank_llm_insertrank"])
def test_a_score_stands_below_its_own_passage(name: str, order: list[int]) -> None:
    passages = [TextInput(f"passage-{number}") for number in order]
    scores = [f"{number}.125" for number in order]
    prompt, _ = TEMPLATES[name].prompt("q", passages, scores, max_words=300, thinking=False)
    lines = prompt.messages[-1].content.split("\n")
    for place, number in enumerate(order, 1):
        [below] = [
            after
            for line, after in pairwise(lines)
            if line.endswith(f" passage-{number}") and line.startswith(f"[{place}]")
        ]
        assert below.startswith("BM25 score")
        assert below.endswith(f": {number}.125")


def test_scores_and_their_place_need_one_another() -> None:
    with pytest.raises(ValueError, match="scores: template rankgpt has_scores is False"):
        TEMPLATES["rankgpt"].prompt("q", PANDAS, SCORES, max_words=300, thinking=False)
    with pytest.raises(ValueError, match="scores: template insertrank has_scores is True"):
        TEMPLATES["insertrank"].prompt("q", PANDAS, None, max_words=300, thinking=False)
    with pytest.raises(ValueError, match="shorter"):
        TEMPLATES["insertrank"].prompt("q", PANDAS, SCORES[:2], max_words=300, thinking=False)


def test_there_are_as_many_passages_as_identifiers() -> None:
    assert TEMPLATES["rankgpt"].identifiers(3) == ["1", "2", "3"]
    assert TEMPLATES["first"].identifiers(3) == "ABC"
    assert TEMPLATES["rankgpt"].max_window_size == 1000
    assert TEMPLATES["first"].max_window_size == 26
    with pytest.raises(ValueError, match="27 passages: LETTERS name at most 26"):
        prompt_of(TEMPLATES["first"], [TextInput("a")] * 27)


@pytest.mark.parametrize(
    ("name", "answer", "reasoning_tokens"),
    [
        ("rankgpt", "[1] > [2] > [3]", 0),
        ("rankzephyr", "[1] > [2] > [3]", 0),
        ("rankqwen3", "[1] > [2] > [3]", 0),
        ("rank_llm_insertrank", "[1] > [2] > [3]", 0),
        ("first", "A", 0),
        ("bright", "```json\n[1, 2, 3]\n```", 2048),
        ("insertrank", "```json\n[1, 2, 3]\n```", 2048),
    ],
)
def test_an_answer_may_be_as_long_as_an_order_and_its_reasons(
    name: str, answer: str, reasoning_tokens: int
) -> None:
    budget = TEMPLATES[name].budget(3, thinking=False, reasoning_token_budget=None)
    assert budget == OutputBudget(answer, reasoning_tokens)
    assert TEMPLATES[name].reasons(thinking=False) is (reasoning_tokens > 0)


def test_a_reasoning_budget_is_for_those_who_reason() -> None:
    qwen = TEMPLATES["rankqwen3"]
    assert qwen.budget(2, thinking=True, reasoning_token_budget=None).reasoning_tokens == 10_000
    assert qwen.budget(2, thinking=True, reasoning_token_budget=7).reasoning_tokens == 7
    bright = TEMPLATES["bright"].budget(2, thinking=False, reasoning_token_budget=0)
    assert bright.reasoning_tokens == 0
    for name in ("rankqwen3", "rankgpt", "first"):
        with pytest.raises(ValueError, match="does not reason"):
            TEMPLATES[name].budget(2, thinking=False, reasoning_token_budget=7)


def test_identifiers_without_a_log_probability_come_last() -> None:
    first = TEMPLATES["first"]
    assert first.rank_first_token({"C": -0.1, "A": -2.0}, 4) == ((2, 0, 1, 3), 2)
    assert first.rank_first_token({"B": math.nan, "C": -math.inf}, 3) == ((2, 0, 1), 2)
    assert first.rank_first_token({"A": -1.0, "B": -1.0, "Z": 0.0}, 2) == ((0, 1), 0)


LOGPROBS = st.dictionaries(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), st.floats(max_value=0))


@given(logprobs=LOGPROBS, num_passages=st.integers(1, 26))
def test_log_probabilities_give_a_permutation_that_they_order(
    logprobs: dict[str, float], num_passages: int
) -> None:
    first = TEMPLATES["first"]
    order, num_absent = first.rank_first_token(logprobs, num_passages)
    assert sorted(order) == list(range(num_passages))
    names = first.identifiers(num_passages)
    values = [logprobs.get(names[position], math.nan) for position in order]
    present = values[: num_passages - num_absent]
    assert all(math.isnan(value) for value in values[num_passages - num_absent :])
    assert present == sorted(present, reverse=True)


def shipped(name: str) -> str:
    file = resources.files("e2rank_server.llm_listwise") / "templates" / f"{name}.toml"
    return file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "old", "new", "problems"),
    [
        ("rankgpt", "[messages]", "[messages", ["is not TOML"]),
        ("rankgpt", 'version = "1"', "version = 1", ["version: 1 is not a string"]),
        ("rankgpt", "window_size", "windows", ["window_size: missing", "windows: unknown key"]),
        ("rankgpt", "window_size = 20", "window_size = 1", ["window_size: 1 is not within 2"]),
        (
            "first",
            "window_size = 20",
            "window_size = 27",
            ["window_size: 27 is not within 2 and 26"],
        ),
        ("rankgpt", '"CHAIN"', '"LIST"', ["answer_form: 'LIST' is none of CHAIN, JSON_LIST"]),
        ("rankgpt", "prefix_reply = ", "reply = ", ["messages.reply: unknown key"]),
        ("rankgpt", 'name = "rankgpt"', 'name = "gpt"', ["name: 'gpt' is not that of its file"]),
        ("rankgpt", " {passage}", "", ["messages.passage: {passage} must occur exactly once"]),
        ("rankzephyr", "[{identifier}]", "[]", ["messages.passage: {identifier} is missing"]),
        (
            "rankzephyr",
            "{num}",
            "{count}",
            [f"messages.{part}: unknown placeholder {{count}}" for part in ("prefix", "suffix")],
        ),
        ("rankzephyr", "{query}", "", ["messages: {query} stands neither in prefix nor in suffix"]),
        ("rankgpt", "Okay, please provide the passages.", "", ["messages: prefix_reply and"]),
        ("first", '"LETTERS"', '"NUMBERS"', ["reads_first_token: only LETTERS"]),
        ("first", '"CHAIN"', '"JSON_LIST"', ["answer_form: a JSON_LIST is of NUMBERS"]),
        ("rankqwen3", "reasoning_tokens = 10000\n", "", ["can_think: needs reasoning_tokens"]),
        (
            "first",
            "can_think = false",
            "can_think = false\nreasoning_tokens = 5",
            ["reads_first_token: the first token of reasoning is no identifier"],
        ),
    ],
)
def test_a_wrong_template_is_refused_with_all_that_is_wrong(
    name: str, old: str, new: str, problems: list[str]
) -> None:
    text = shipped(name)
    assert old in text
    with pytest.raises(ConfigurationError) as raised:
        read_template(name, text.replace(old, new))
    assert len(raised.value.problems) == len(problems)
    for found, expected in zip(raised.value.problems, problems, strict=True):
        assert found.startswith(f"template {name}: {expected}")
