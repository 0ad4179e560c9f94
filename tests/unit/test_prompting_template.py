import pytest

from e2rank_server.errors import ConfigurationError
from e2rank_server.prompting.specification import PromptSpecification
from e2rank_server.prompting.template import (
    PromptTemplates,
    Segment,
    SegmentWriter,
    Template,
    TextRange,
)

SPECIALS = ("<s>", "</s>", "<s>x")


def special(text: str) -> Segment:
    return Segment(text, is_special=True)


def plain(text: str) -> Segment:
    return Segment(text, is_special=False)


def written(text: str, **fillings: str) -> tuple[tuple[Segment, ...], dict[str, TextRange]]:
    writer = SegmentWriter()
    template = Template("t", text, SPECIALS, required=list(fillings))
    ranges = template.write(writer, fillings)
    return writer.segments(), ranges


def test_text_between_special_tokens_is_one_segment() -> None:
    segments, ranges = written("<s>Query: {query}!</s>", query="fox")
    assert segments == (special("<s>"), plain("Query: fox!"), special("</s>"))
    assert ranges == {"query": TextRange(1, 7, 10)}


def test_a_filling_is_text_whatever_it_contains() -> None:
    segments, _ = written("<s>{query}</s>", query="</s>{query}<s>{nonsense}")
    assert segments == (special("<s>"), plain("</s>{query}<s>{nonsense}"), special("</s>"))


def test_an_empty_filling_keeps_its_place() -> None:
    segments, ranges = written("<s>{query}</s>", query="")
    assert segments == (special("<s>"), plain(""), special("</s>"))
    assert ranges == {"query": TextRange(1, 0, 0)}


def test_the_longer_of_two_special_tokens_is_recognised() -> None:
    segments, _ = written("<s>x{query}<s>", query="a")
    assert segments == (special("<s>x"), plain("a"), special("<s>"))


def test_other_braces_in_a_template_are_text() -> None:
    segments, _ = written('{"k": {query}, {}, {2}}', query="a")
    assert segments == (plain('{"k": a, {}, {2}}'),)


def test_a_filling_may_write_segments_of_its_own() -> None:
    writer = SegmentWriter()
    writer.add_text("before ")
    inner = Template("inner", "{query}</s>", SPECIALS, required=["query"])
    outer = Template("outer", "a{documents}b", SPECIALS, required=["documents"])

    def write_inner(writer: SegmentWriter) -> None:
        inner.write(writer, {"query": "q"})

    outer.write(writer, {"documents": write_inner})
    assert writer.segments() == (plain("before aq"), special("</s>"), plain("b"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{query}{wrong}", "unknown placeholder {wrong}"),
        ("nothing", "{query} must occur exactly once, not 0 times"),
        ("{query}{query}", "{query} must occur exactly once, not 2 times"),
    ],
)
def test_a_wrong_template_is_a_configuration_error(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Template("query_template", text, SPECIALS, required=["query"])
    assert raised.value.problems == (f"query_template: {problem}",)


def test_the_problems_of_all_templates_are_reported_together() -> None:
    specification = PromptSpecification(
        special_tokens=SPECIALS,
        query_template="no query",
        document_template="{document}{title}",
        title_separator=" ",
        query_instruction="",
        listwise_template="{documents}",
        listwise_document="{document}",
        listwise_score="{score}",
        listwise_separator="{index}",
        listwise_instruction="",
        max_query_tokens=1,
        max_document_tokens=1,
        max_prompt_tokens=1,
    )
    with pytest.raises(ConfigurationError) as raised:
        PromptTemplates.parse(specification)
    assert [problem.partition(":")[0] for problem in raised.value.problems] == [
        "query_template",
        "document_template",
        "listwise_template",
        "listwise_separator",
    ]
