"""From a question to token ids."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from tests.models import CHAT_TEMPLATE, make_tiny_tokenizer
from treepo.data.conversations import Turn
from treepo.data.prompts import INSTRUCTION, PromptTemplate, Shot
from treepo.errors import SettingError

ROLES = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'][0] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
SHOTS = (Shot("1+1?", "2"), Shot("1+2?", "3"))
QUESTIONS = ["1+2?", "", " {0} {question} %s {", "a\nb é", "<user>"]


def make_tokenizer(chat_template: str | None, with_bos: bool = True) -> Any:
    tokenizer: Any = make_tiny_tokenizer()
    if with_bos:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 1)]
        )
    tokenizer.chat_template = chat_template
    return tokenizer


@pytest.mark.parametrize("chat_template", [None, CHAT_TEMPLATE, ROLES])
@pytest.mark.parametrize("with_bos", [True, False])
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_default_is_one_turn_of_the_user_or_plain_text(chat_template, with_bos, question):
    """As transformers applies the template, with one bos at most, whoever writes it."""
    tokenizer = make_tokenizer(chat_template, with_bos)
    expected = tokenizer.encode(question + INSTRUCTION)
    if chat_template:
        turns = [{"role": "user", "content": question + INSTRUCTION}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        expected = tokenizer.encode(text, add_special_tokens=False)
    assert PromptTemplate().encode(tokenizer, question) == expected
    assert expected.count(tokenizer.bos_token_id) <= 1


def test_the_instruction_is_the_one_of_the_settings():
    assert INSTRUCTION == "\nPlease reason step by step, and put your final answer within \\boxed{}."


def test_a_template_that_cannot_be_applied_is_named_in_one_line():
    tokenizer = make_tokenizer("{{ raise_exception('System role not supported\n see the card') }}")
    with pytest.raises(
        ValueError, match="^model.path: the chat template cannot be applied: System role not supported$"
    ):
        PromptTemplate(system="Think.").encode(tokenizer, "1+1?")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ 1 // 0 }}", "integer division or modulo by zero"),
        ("{{ messages + 1 }}", "can only concatenate list .*"),
        ("{{ messages[0]['content'].missing.more }}", ".*has no attribute 'missing'"),
    ],
)
def test_a_template_that_raises_what_python_raises_is_named_too(template, reason):
    """Only jinja's own errors were caught: these were tracebacks."""
    with pytest.raises(ValueError, match=f"^model.path: the chat template cannot be applied: {reason}$"):
        PromptTemplate().encode(make_tokenizer(template), "1+1?")


def plain(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def test_shots_and_system_are_turns_of_a_chat():
    tokenizer = make_tokenizer(ROLES)
    template = PromptTemplate(system="Add.", question="Q: {question} ({question})")
    expected = "<bos><s>Add.<u>Q: 1+1? (1+1?)<a>2<u>Q: 1+2? (1+2?)<a>3<u>Q: 4? (4?)<a>"
    assert template.encode(tokenizer, "4?", SHOTS) == plain(tokenizer, expected)


def test_shots_and_system_are_blocks_of_plain_text():
    """With one bos at the front, as the tokenizer puts it, whether there is no template or it is not to be used."""
    template = PromptTemplate(chat="never", system="Add.", question="Q: {question}")
    expected = "Add.\n\nQ: 1+1?\n2\n\nQ: 1+2?\n3\n\nQ: 4?"
    for chat_template in (None, ROLES):
        tokenizer = make_tokenizer(chat_template)
        assert template.encode(tokenizer, "4?", SHOTS) == [1, *plain(tokenizer, expected)]
    assert template.encode(make_tokenizer(None), "4?") == [1, *plain(make_tokenizer(None), "Add.\n\nQ: 4?")]


def test_always_needs_a_chat_template():
    always = PromptTemplate(chat="always", question="{question}")
    assert always.encode(make_tokenizer(ROLES), "1") == plain(make_tokenizer(ROLES), "<bos><u>1<a>")
    with pytest.raises(ValueError, match="prompt.chat: the tokenizer has no chat template, got 'always'"):
        always.encode(make_tokenizer(None), "1")


def write_shots(path, *shots: Any) -> str:
    path.write_text("".join(json.dumps(shot) + "\n" for shot in shots))
    return str(path)


def test_shots_are_the_first_ones_of_a_file(tmp_path):
    path = write_shots(tmp_path / "s.jsonl", *({"question": s.question, "answer": s.answer} for s in SHOTS))
    assert PromptTemplate(few_shot=path).read_shots() == SHOTS
    assert PromptTemplate(few_shot=path, num_shots=1).read_shots() == SHOTS[:1]
    assert PromptTemplate().read_shots() == ()
    tokenizer = make_tokenizer(ROLES)
    template = PromptTemplate(few_shot=path, num_shots=1)
    assert template.encoder(tokenizer)("4?") == template.encode(tokenizer, "4?", SHOTS[:1])
    with pytest.raises(ValueError, match=f"prompt.num_shots: must be at most 2, the examples in '{path}', got 3"):
        PromptTemplate(few_shot=path, num_shots=3).read_shots()


@pytest.mark.parametrize(
    ("shot", "message"),
    [
        ({"question": "1"}, r"prompt.few_shot: s.jsonl:1: no field 'answer'; there are \['question'\]"),
        ({"question": "", "answer": 1}, "prompt.few_shot: s.jsonl:1: field 'question' is empty"),
        ([1], "prompt.few_shot: s.jsonl:1: not a JSON object"),
    ],
)
def test_a_bad_example_is_named(shot, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        PromptTemplate(few_shot=write_shots(tmp_path / "s.jsonl", shot)).read_shots()


def test_examples_may_stand_in_the_setting_itself():
    """So that a recipe is one file."""
    text = "\n".join(json.dumps({"question": s.question, "answer": s.answer}) for s in SHOTS)
    assert PromptTemplate(few_shot=f"\n{text}\n").read_shots() == SHOTS
    assert PromptTemplate(few_shot=text, num_shots=1).read_shots() == SHOTS[:1]
    for line, message in (("[1]", "not a JSON object"), ('{"question": 1}', "no field 'answer'"), ("{", "not JSON")):
        with pytest.raises(ValueError, match=f"prompt.few_shot: example 3: {message}"):
            PromptTemplate(few_shot=f"{text}\n{line}").read_shots()


def test_examples_are_a_file():
    """A name too long for the system was an OSError."""
    for name in ("none.jsonl", "gsm8k", "x" * 5000, "nul\0"):
        with pytest.raises(ValueError, match=f"prompt.few_shot: cannot read {re.escape(repr(name))}: no such file"):
            PromptTemplate(few_shot=name).read_shots()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"question": "Solve it."}, "question: must hold {question}, got 'Solve it.'"),
        ({"few_shot": "s.jsonl", "num_shots": -1}, "num_shots: must not be negative, got -1"),
        ({"num_shots": 2}, "num_shots: needs few_shot, a file of examples, got 2"),
    ],
)
def test_settings_that_make_no_prompt_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        PromptTemplate(**given)


CHATML = (
    "{% for m in messages %}<user>{{ m['role'] }}\n{{ m['content'] }}<assistant>\n{% endfor %}"
    "{% if add_generation_prompt %}<user>assistant\n{% if not thinks | default(true) %}"
    "{{ '<think></think>' }}{% endif %}{% endif %}"
)
"""With special tokens around each turn, as ChatML has them."""

SYSTEM, ASKED, REPLY, NEXT, BEGUN = (
    Turn("system", "Own."),
    Turn("user", "1+1?"),
    Turn("assistant", "2"),
    Turn("user", "2+2?"),
    Turn("assistant", "So "),
)
PLAIN = PromptTemplate(question="Q: {question}")


@pytest.mark.parametrize(
    ("turns", "system", "expected"),
    [
        ((SYSTEM, ASKED), "", "<bos><s>Own.<u>Q: 1+1?<a>"),
        ((SYSTEM, ASKED), "Set.", "<bos><s>Own.<u>Q: 1+1?<a>"),
        ((Turn("system", ""), ASKED), "Set.", "<bos><s><u>Q: 1+1?<a>"),
        ((ASKED, REPLY, NEXT), "Set.", "<bos><s>Set.<u>1+1?<a>2<u>Q: 2+2?<a>"),
        ((ASKED, BEGUN), "", "<bos><u>Q: 1+1?<a>So "),
        ((SYSTEM, ASKED, REPLY, NEXT, BEGUN), "Set.", "<bos><s>Own.<u>1+1?<a>2<u>Q: 2+2?<a>So "),
    ],
)
def test_turns_of_a_record_are_used_as_they_are(turns, system, expected):
    """A system turn was dropped, a chat of several turns refused. Its own system turn wins over that of the settings,
    and the instruction stands in the last question."""
    tokenizer = make_tokenizer(ROLES)
    assert replace(PLAIN, system=system).encode(tokenizer, turns) == plain(tokenizer, expected)


def test_shots_come_before_the_turns_of_a_record():
    tokenizer = make_tokenizer(ROLES)
    expected = "<bos><s>Own.<u>Q: 1+1?<a>2<u>1+1?<a>2<u>Q: 2+2?<a>So "
    assert PLAIN.encode(tokenizer, (SYSTEM, ASKED, REPLY, NEXT, BEGUN), SHOTS[:1]) == plain(tokenizer, expected)


def test_turns_are_blocks_of_plain_text():
    tokenizer = make_tokenizer(None)
    text = "Own.\n\n1+1?\n2\n\nQ: 2+2?\nSo "
    assert PLAIN.encode(tokenizer, (SYSTEM, ASKED, REPLY, NEXT, BEGUN)) == tokenizer.encode(text)
    assert PLAIN.encode(tokenizer, (Turn("system", ""), ASKED)) == tokenizer.encode("Q: 1+1?")


@pytest.mark.parametrize("prefill", ["Let me see: ", "<think>", "\\boxed{"])
@pytest.mark.parametrize("chat_template", [ROLES, CHATML])
def test_a_prefill_begins_the_response_as_continue_final_message_does(prefill, chat_template):
    """The tokens that transformers makes of a last message of the assistant that is to be continued."""
    tokenizer = make_tokenizer(chat_template)
    template = PromptTemplate(question="{question}", prefill=prefill)
    messages = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": prefill}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, continue_final_message=True)
    expected = tokenizer.encode(text, add_special_tokens=False)
    assert template.encode(tokenizer, "1+1?") == expected
    own = (ASKED, Turn("assistant", prefill))
    assert PromptTemplate(question="{question}").encode(tokenizer, own) == expected
    assert replace(template, prefill="Not this.").encode(tokenizer, own) == expected


def test_a_prefill_of_plain_text_is_on_a_line_of_its_own():
    tokenizer = make_tokenizer(None)
    template = PromptTemplate(question="Q: {question}", prefill="So ")
    assert template.encode(tokenizer, "1+1?", SHOTS[:1]) == tokenizer.encode("Q: 1+1?\n2\n\nQ: 1+1?\nSo ")


@pytest.mark.parametrize(
    "text", ["<user>user\n1+1?<assistant>\n<user>assistant\n", "<bos>1+1?", "1+1?<assistant>", "<bos><user>1+1?"]
)
@pytest.mark.parametrize("chat", ["auto", "always", "never"])
@pytest.mark.parametrize("with_bos", [True, False])
def test_text_that_holds_the_special_tokens_of_the_template_is_taken_as_it_is(text, chat, with_bos):
    """It was put into the template once more, with an instruction after the turn of the assistant had begun."""
    tokenizer = make_tokenizer("{{ bos_token }}" + CHATML, with_bos)
    template = PromptTemplate(chat=chat, system="Set.", prefill="So ")
    assert template.encoder(tokenizer).is_templated(text)
    bos = [] if text.startswith("<bos>") or not with_bos else [tokenizer.bos_token_id]
    assert template.encode(tokenizer, text, SHOTS) == bos + plain(tokenizer, text)


@pytest.mark.parametrize(
    ("text", "chat_template"),
    [
        ("<user>", CHATML),
        ("1 < 2 <eos>?", CHATML),
        ("What is <bos> for?", "{{ bos_token }}" + CHATML),
        ("<user>1+1?", None),
        ("1+1?", CHATML),
    ],
)
def test_text_that_holds_no_or_other_special_tokens_is_put_into_the_template(text, chat_template):
    encoder = PromptTemplate(question="{question}").encoder(make_tokenizer(chat_template))
    assert not encoder.is_templated(text)
    if chat_template:
        assert encoder(text)[-len(plain(encoder.tokenizer, "<user>assistant\n")) :] == plain(
            encoder.tokenizer, "<user>assistant\n"
        )


def test_variables_reach_the_chat_template():
    tokenizer = make_tokenizer(CHATML)
    thinking, other = (
        PromptTemplate(question="{question}", chat_template_kwargs=given).encode(tokenizer, "1")
        for given in ({}, {"thinks": False})
    )
    assert other == thinking + plain(tokenizer, "<think></think>")
    assert (
        PromptTemplate(question="{question}", chat_template_kwargs={"thinks": True}).encode(tokenizer, "1") == thinking
    )


@pytest.mark.parametrize(
    ("given", "chat_template", "message"),
    [
        (
            {"think": False},
            CHATML,
            "^prompt.chat_template_kwargs.think: the chat template has no such variable, got False",
        ),
        ({"thinks": False}, None, "^prompt.chat_template_kwargs.thinks: the tokenizer has no chat template, got False"),
    ],
)
def test_variables_that_a_template_would_ignore_are_refused(given, chat_template, message):
    """A misspelt enable_thinking would do nothing."""
    with pytest.raises(SettingError, match=message):
        PromptTemplate(chat_template_kwargs=given).encode(make_tokenizer(chat_template), "1")


def test_arguments_of_the_tokenizer_are_no_variables():
    with pytest.raises(SettingError, match="^chat_template_kwargs.tokenize: is set by treepo, got True"):
        PromptTemplate(chat_template_kwargs={"tokenize": True})
    with pytest.raises(SettingError, match="^chat_template_kwargs: needs a chat template"):
        PromptTemplate(chat="never", chat_template_kwargs={"thinks": True})
