"""Where datasets come from: files, folders, datasets on the hub, presets."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from treepo.data.formats import RecordFormat
from treepo.data.locations import SUFFIXES, Source, path_exists, record_suffix
from treepo.data.reasoning_gym import GymSource, is_gym
from treepo.data.tasksets import TasksetSource, is_taskset
from treepo.errors import SettingError
from treepo.utils import GIVEN


@dataclass(frozen=True)
class DatasetPreset:
    """A published dataset: where it is, and which fields of its records hold what.

    hub: its name on the Hugging Face hub, followed by the folder of the repository that holds it, if any. split: the
    one that is used where none is named. config: its configuration on the hub, if it has several. other_forms: those of
    copies elsewhere; each record is read in the first form whose fields it has.
    """

    hub: str
    split: str
    form: RecordFormat
    config: str = ""
    other_forms: tuple[RecordFormat, ...] = ()


# The questions ask for "Answer: ..." on a line of its own; a prompt template asks for what the verifier reads.
_DAPO_PREFIX = (
    "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
_DAPO_SUFFIX = '\n\nRemember to put your answer on its own line after "Answer:".'

_BY_ID = RecordFormat("problem", "answer", id_field="id")
_MATH_LEVELS = ("Level 3", "Level 4", "Level 5", "3", "4", "5")

_PRESETS = {
    # openai/grade-school-math, grade_school_math/data: read as published.
    "gsm8k": DatasetPreset(
        "openai/gsm8k", "train", RecordFormat("question", "answer", answer_after="####"), config="main"
    ),
    # openai/prm800k, prm800k/math_splits/test.jsonl: read as published.
    "math500": DatasetPreset("HuggingFaceH4/MATH-500", "test", RecordFormat("problem", "answer", id_field="unique_id")),
    # The card of DigitalLearningGmbH/MATH-lighteval (problem, level, type, solution), the Parquet copy of
    # hendrycks/math. Levels 3 to 5 are what SimpleRL-Zoo (arXiv 2503.18892) and others train on.
    "math": DatasetPreset(
        "DigitalLearningGmbH/MATH-lighteval",
        "train",
        RecordFormat("problem", "solution", answer_in_box=True, only_field="level", only=_MATH_LEVELS),
    ),
    # QwenLM/Qwen2.5-Math, evaluation/data: read as published; the hub's card names the same fields.
    "aime24": DatasetPreset("HuggingFaceH4/aime_2024", "train", _BY_ID),
    # test.jsonl of math-ai/aime25 at 563bb840: fields answer, id, problem.
    "aime25": DatasetPreset("math-ai/aime25", "test", _BY_ID),
    # QwenLM/Qwen2.5-Math, evaluation/data: read as published; math-ai/amc23 has answer, id, question, url.
    "amc23": DatasetPreset("math-ai/amc23", "test", RecordFormat("question", "answer", id_field="id")),
    # math-ai/minervamath, fields question and answer; its answers are those boxed in the solutions of
    # QwenLM/Qwen2.5-Math, evaluation/data/minerva_math, units left out. Those files are read as published.
    "minerva": DatasetPreset(
        "math-ai/minervamath",
        "test",
        RecordFormat("question", "answer"),
        other_forms=(RecordFormat("problem", "solution", answer_in_box=True),),
    ),
    # The card of Hothan/OlympiadBench: final_answer is a list; context and unit are null in most records. Context
    # before question as in make_input of OpenBMB/OlympiadBench, inference/code/evaluators/evaluator.py, ba5b26a7.
    # The files of QwenLM/Qwen2.5-Math, evaluation/data/olympiadbench, have the same fields and are read as published.
    "olympiad": DatasetPreset(
        "Hothan/OlympiadBench",
        "train",
        RecordFormat("question", "final_answer", context_field="context", unit_field="unit", id_field="id"),
        config="OE_TO_maths_en_COMP",
    ),
    # The card of BytedTsinghua-SIA/DAPO-Math-17k and the texts in verl, recipe/dapo. The file holds every problem
    # about a hundred times; reading drops the repetitions.
    "dapo17k": DatasetPreset(
        "BytedTsinghua-SIA/DAPO-Math-17k",
        "train",
        RecordFormat(
            "prompt", "reward_model.ground_truth", id_field="extra_info.index", prefix=_DAPO_PREFIX, suffix=_DAPO_SUFFIX
        ),
    ),
    # hkust-nlp/SimpleRL-Zoo-Data has a folder per difficulty and prompt, and the bare question in extra_info.
    "simplerl": DatasetPreset(
        "hkust-nlp/SimpleRL-Zoo-Data/simplelr_qwen_level3to5",
        "train",
        RecordFormat("extra_info.question", "reward_model.ground_truth"),
    ),
    # The card of agentica-org/DeepScaleR-Preview-Dataset: problem, answer, solution.
    "deepscaler": DatasetPreset("agentica-org/DeepScaleR-Preview-Dataset", "train", RecordFormat("problem", "answer")),
}
PRESETS: Mapping[str, DatasetPreset] = MappingProxyType(_PRESETS)
"""Datasets by the names under which sources may give them."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(/[\w.-]+)*")
_FORMAT_NAME = re.compile(r"[A-Za-z]\w*")


def parse_source(text: str, setting: str = "data.train") -> Source:
    """Parse [FORMAT=]WHERE[#CONFIG][@SPLIT], or reasoning_gym:NAME[?OPTION=VALUE&...], or verifiers:NAME[?...]; a
    preset's name alone means its place on the hub.

    A path that exists is used as it is, whatever characters it holds. setting: the one that gave the source, for
    errors. Raises SettingError for an unknown format, a file or folder that does not exist, or a split of a file.
    """
    if Source(text).is_found:
        return Source(text)
    if is_gym(text):
        return GymSource.of(text)
    if is_taskset(text):
        return TasksetSource.of(text)
    if text.startswith(GIVEN):
        message = "rows that a program handed over: go on in that program, with TreePOTrainer.train(resume=True)"
        raise SettingError(setting, message, text)
    head, sign, rest = text.partition("=")
    if not sign or not _FORMAT_NAME.fullmatch(head):
        head, rest = "", text
    elif head not in PRESETS:
        raise SettingError(setting, f"no format {head!r}; there are {sorted(PRESETS)}")
    source = _located(rest, head)
    if not head and source.where in PRESETS:
        preset = PRESETS[source.where]
        return Source(preset.hub, source.where, source.split or preset.split, source.config or preset.config)
    _check(source, text, setting)
    return source


def absolute_source(text: str) -> str:
    """The same source with the whole path of its file or folder, if it is one."""
    if Source(text).is_found:
        return os.path.abspath(text)
    head, sign, rest = text.partition("=")
    if not sign or not _FORMAT_NAME.fullmatch(head):
        head, rest = "", text
    source = _located(rest, head)
    if not source.is_found:
        return text
    split = f"@{source.split}" if source.split else ""
    return f"{head}{'=' if head else ''}{os.path.abspath(source.where)}{split}"


def _located(text: str, form: str) -> Source:
    if Source(text).is_found:
        return Source(text, form)
    before, sign, split = text.rpartition("@")
    where, split = (before, split) if sign else (text, "")
    if path_exists(where):
        return Source(where, form, split)
    where, _, config = where.partition("#")
    return Source(where, form, split, config)


def _check(source: Source, text: str, setting: str) -> None:
    where = source.where
    if not where:
        raise SettingError(setting, "names no file, folder or dataset", text)
    if source.is_pattern:
        if source.split:
            raise SettingError(setting, f"{where!r} is a pattern of files, which has no splits", source.split)
        if not source.matches:
            raise SettingError(setting, f"no file that ends in {', '.join(SUFFIXES)} matches the pattern", where)
    elif source.is_local:
        if source.split and not Path(where).is_dir():
            raise SettingError(setting, f"{where!r} is a file, which has no splits", source.split)
    elif where.lower().endswith(SUFFIXES) or not _HUB_NAME.fullmatch(where):
        if source.format:
            message = "no such file or folder, and no org/name of the hub"
        elif os.sep in where:
            message = "no such file or folder"
        else:
            message = f"no such file or folder, and no such dataset; there are {sorted(PRESETS)}"
        raise SettingError(setting, f"cannot read {where!r}: {message}")


def labels(sources: Sequence[Source]) -> list[str]:
    """A unique name for each source: the last parts of its path, as many as it takes to tell it from the others.

    Problem ids begin with it; it depends on the sources alone, so ids are the same in every run.
    """
    parts = [_parts(source) for source in sources]
    names = []
    for own in parts:
        others = [other for other in parts if other != own]
        count = next(n for n in range(1, len(own) + 1) if all(other[-n:] != own[-n:] for other in others))
        names.append("/".join(own[-count:]))
    return names


def dataset_names(sources: Sequence[Source]) -> list[str]:
    """A name for each source in metrics per dataset: its format or its file's name; its label where those agree."""
    names = [source.format or _file_name(source) for source in sources]
    return [label if names.count(name) > 1 else name for name, label in zip(names, labels(sources), strict=True)]


def _file_name(source: Source) -> str:
    """The name of a file, a folder or a pattern without what it ends in; the folder's for a pattern such as *.jsonl."""
    path = Path(source.where)
    name = path.name[: len(path.name) - len(record_suffix(path.name))] if record_suffix(path.name) else path.stem
    is_nameless = source.is_pattern and not any(character.isalnum() for character in name)
    return source.folder.absolute().name if is_nameless else name


def _parts(source: Source) -> tuple[str, ...]:
    """The parts of a label, ending in the split; org/name of the hub is one part, since the name alone says little.

    The part of a pattern that begins with its first sign is one part, too.
    """
    if source.is_pattern:
        folder = source.folder
        return (*Path(os.path.abspath(folder)).parts, Path(source.where).relative_to(folder).as_posix())
    if not source.is_local:
        return ("", str(source))
    *folders, name = Path(os.path.abspath(source.where)).parts
    return (*folders, f"{name}@{source.split}" if source.split else name)
