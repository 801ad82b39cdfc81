"""Which settings of a run differ from their defaults."""

import tomllib

from treepo.config.defaults import changed_settings
from treepo.config.load import resolve, to_toml
from treepo.config.schema import Config


def flat(config: Config) -> dict[str, object]:
    tables = tomllib.loads(to_toml(config))
    return {f"{name}.{key}": value for name, table in tables.items() for key, value in table.items()}


def test_a_run_of_defaults_has_nothing_that_differs():
    assert changed_settings(flat(Config())) == {}


def test_what_was_set_is_found_with_its_default():
    config = resolve({"tree": {"width": 3}, "optim": {"betas": [0.5, 0.9]}, "eval": {"num_samples": 2}})
    assert changed_settings(flat(config)) == {
        "tree.width": Config().tree.width,
        "optim.betas": list(Config().optim.betas),
    }


def test_another_class_is_compared_with_its_own_defaults():
    config = resolve({"credit": {"use": "DrGRPO", "leaves": "unbiased"}})
    assert changed_settings(flat(config)) == {"credit.use": "TreePO", "credit.leaves": "equal"}


def test_the_users_own_class_is_compared_by_its_name_and_not_imported(tmp_path, monkeypatch):
    """Whoever made the folder would choose what is run."""
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    assert changed_settings({"credit.use": "evil_module:Own", "credit.weight": 3}) == {"credit.use": "TreePO"}


def test_a_setting_without_a_default_is_named():
    config = resolve({"train": {"recompute_old_logprobs": True, "importance_cap": 2.0}})
    assert changed_settings(flat(config)) == {"train.recompute_old_logprobs": False, "train.importance_cap": None}


def test_what_is_no_setting_is_left_alone():
    assert changed_settings({"nothing.at_all": 1, "tree.width": Config().tree.width}) == {}
