"""Paths in the settings of a run, made absolute: so a run can be resumed from another folder."""

import os
from dataclasses import replace

from treepo.config.schema import Config
from treepo.data.locations import path_exists
from treepo.data.sources import absolute_source


def with_absolute_paths(config: Config) -> Config:
    """The settings with the whole path of each model, tokenizer, adapter and dataset that is there; others are names on
    the hub."""
    data, model = config.data, config.model
    train, evaluation = (tuple(map(absolute_source, sources)) for sources in (data.train, data.eval))
    return replace(
        config,
        model=replace(model, path=_absolute(model.path), tokenizer=_absolute(model.tokenizer)),
        lora=replace(config.lora, path=_absolute(config.lora.path)),
        data=replace(data, train=train, eval=evaluation),
    )


def _absolute(path: str) -> str:
    return os.path.abspath(path) if path_exists(path) else path
