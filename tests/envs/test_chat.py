"""What stands between two turns, as the chat template writes it."""

import pytest

from tests.models import make_tiny_tokenizer
from treepo.data.prompts import PromptTemplate
from treepo.envs.chat import ChatTurns
from treepo.errors import SettingError

ENDS_TURNS = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<assistant>CONTENT<eos>"
    "{% else %}<user>{{ m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
KEEPS = ENDS_TURNS.replace("CONTENT", "{{ m['content'] }}")
STRIPS = ENDS_TURNS.replace("CONTENT", "{{ m['content'].split('</think>')[-1].strip() }}")
SPACED = KEEPS.replace("<eos>", " <eos>\n")
NEVER_ENDS = KEEPS.replace("<eos>", "")
SHOUTS = ENDS_TURNS.replace("CONTENT", "{{ m['content'] | lower }}")
ASKED = [{"role": "user", "content": "a?"}]
REPLY = [{"role": "tool", "content": "7"}, {"role": "user", "content": "b?"}]


def chat_of(template: str | None, **settings: str) -> ChatTurns:
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = template
    return ChatTurns(tokenizer, PromptTemplate(**settings))


def path_of(chat: ChatTurns, text: str = "xy") -> list[int]:
    """Prompt, a sampled turn that EOS ends, and the reply to it."""
    end = int(chat.tokenizer.eos_token_id)
    turn = [*chat.tokenizer.encode(text, add_special_tokens=False), end]
    return [*chat.prompt_ids(ASKED), *turn, *chat.reply_ids(ASKED, REPLY, end)]


def test_a_path_is_what_the_template_writes():
    """Of a template that ends turns with EOS, the ids are those of the whole conversation."""
    chat = chat_of(KEEPS)
    messages = [*ASKED, {"role": "assistant", "content": "xy"}, *REPLY]
    text = chat.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert path_of(chat) == chat.tokenizer.encode(text, add_special_tokens=False)
    assert chat.history_warning(ASKED) == ""


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (SPACED, "<user>a?<assistant>xy<eos>\n<user>7<user>b?<assistant>"),
        (NEVER_ENDS, "<user>a?<assistant>xy<eos><user>7<user>b?<assistant>"),
        (STRIPS, "<user>a?<assistant>xy<eos><user>7<user>b?<assistant>"),
        (None, "a?\nxy<eos>7\nb?\n"),
    ],
)
def test_the_token_that_ended_a_turn_is_written_once(template, expected):
    chat = chat_of(template)
    if template is SPACED:
        # The tiny tokenizer has no line break.
        expected = expected.replace("\n", "")
    text = chat.tokenizer.decode(path_of(chat))
    assert text.replace("\n", "") == expected.replace("\n", "")


def test_a_template_that_rewrites_history_is_named():
    """The model reads reasoning of earlier turns here, which it would not if the template wrote the whole chat."""
    assert "leaves out the reasoning of earlier turns" in chat_of(STRIPS).history_warning(ASKED)
    marks_old = KEEPS.replace("<user>", "{% if not loop.last %}old{% endif %}<user>")
    assert "rewrites earlier turns" in chat_of(marks_old).history_warning(ASKED)


@pytest.mark.parametrize("template", [SHOUTS, "{{ raise_exception('no') }}"])
def test_templates_that_cannot_be_used_are_the_users_mistake(template):
    with pytest.raises(SettingError, match="model.path: the chat template"):
        path_of(chat_of(template))


def test_without_a_template_by_choice():
    assert chat_of(KEEPS, chat="never").history_warning(ASKED) == ""
