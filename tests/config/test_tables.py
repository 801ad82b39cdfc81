"""Settings that are tables: the variables of a chat template."""

import tomllib

import pytest

from treepo.cli.common import split_overrides
from treepo.config.load import resolve, to_toml
from treepo.errors import SettingError

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    "args",
    [
        ["--prompt.chat_template_kwargs", "{enable_thinking = false, level = 2}"],
        ["--prompt.chat_template_kwargs.enable_thinking", "false", "--prompt.chat_template_kwargs.level=2"],
        ["--prompt.chat-template-kwargs.enable-thinking=false", "--prompt.chat_template_kwargs.level", "2"],
    ],
)
def test_entries_of_a_table_on_the_command_line(args):
    overrides, rest = split_overrides(args)
    given = {"enable_thinking": False, "level": 2}
    assert (overrides, rest) == ({"prompt": {"chat_template_kwargs": given}}, [])
    config = resolve(overrides)
    assert config.prompt.chat_template_kwargs == given
    assert resolve(tomllib.loads(to_toml(config))) == config


def test_the_command_line_changes_one_entry_of_the_recipe():
    recipe = tomllib.loads("[prompt.chat_template_kwargs]\nenable_thinking = true\nlevel = 1\n")
    overrides, _ = split_overrides(["--prompt.chat_template_kwargs.enable_thinking", "false"])
    assert resolve(recipe, overrides).prompt.chat_template_kwargs == {"enable_thinking": False, "level": 1}
    assert recipe["prompt"]["chat_template_kwargs"] == {"enable_thinking": True, "level": 1}


@pytest.mark.parametrize(
    "args",
    [
        ["--prompt.chat_template_kwargs.a", "1", "--prompt.chat_template_kwargs.a", "2"],
        ["--prompt.chat_template_kwargs.a", "1", "--prompt.chat_template_kwargs", "{a = 1}"],
        ["--prompt.chat_template_kwargs", "{a = 1}", "--prompt.chat_template_kwargs", "{b = 1}"],
        ["--train.seed", "1", "--train.seed.x", "2"],
        ["--train.seed.x", "1", "--train.seed", "2"],
    ],
)
def test_what_is_given_twice_is_refused(args):
    with pytest.raises(SettingError, match="given twice"):
        split_overrides(args)


def test_an_entry_of_what_is_no_table_is_refused():
    with pytest.raises(SettingError, match="^train.seed: .*, got {'x': 1}$"):
        resolve(split_overrides(["--train.seed.x", "1"])[0])
    with pytest.raises(SettingError, match="^prompt.chat_template_kwargs: "):
        resolve({"prompt": {"chat_template_kwargs": [1]}})
