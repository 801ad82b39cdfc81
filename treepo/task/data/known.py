"""Published sets of problems: where they lie and how their records are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from treepo.task.data.formats import RecordFormat


@dataclass(frozen=True)
class KnownSet:
    """A published set of problems."""

    form: RecordFormat
    """How its records are read."""

    hub: str
    """Its name on the Hugging Face hub, with the folder of the repository that holds it where there are several."""

    split: str
    """The split that is meant where none is named."""

    config: str = ""
    """Its configuration on the hub, where there are several."""


# The questions ask for "Answer: ..." on a line of its own; a prompt template asks for what the checker reads.
_DAPO_PREFIX = (
    "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
_DAPO_SUFFIX = '\n\nRemember to put your answer on its own line after "Answer:".'

KNOWN: Mapping[str, KnownSet] = MappingProxyType(
    {
        # openai/grade-school-math, grade_school_math/data: read as published.
        "gsm8k": KnownSet(RecordFormat("question", "answer", answer_after="####"), "openai/gsm8k", "train", "main"),
        # openai/prm800k, prm800k/math_splits/test.jsonl: read as published.
        "math500": KnownSet(
            RecordFormat("problem", "answer", id_field="unique_id"), "HuggingFaceH4/MATH-500", split="test"
        ),
        # The card of DigitalLearningGmbH/MATH-lighteval (problem, level, type, solution), the Parquet copy of
        # hendrycks/math. Levels 3 to 5 are what SimpleRL-Zoo (arXiv 2503.18892) and others train on.
        "math": KnownSet(
            RecordFormat(
                "problem",
                "solution",
                answer_in_box=True,
                only_field="level",
                only=("Level 3", "Level 4", "Level 5", "3", "4", "5"),
            ),
            "DigitalLearningGmbH/MATH-lighteval",
            split="train",
        ),
        # QwenLM/Qwen2.5-Math, evaluation/data: read as published; the hub's card names the same fields.
        "aime24": KnownSet(RecordFormat("problem", "answer", id_field="id"), "HuggingFaceH4/aime_2024", split="train"),
        # test.jsonl of math-ai/aime25 at 563bb840: fields answer, id, problem.
        "aime25": KnownSet(RecordFormat("problem", "answer", id_field="id"), "math-ai/aime25", split="test"),
        # QwenLM/Qwen2.5-Math, evaluation/data: read as published; math-ai/amc23 has answer, id, question, url.
        "amc23": KnownSet(RecordFormat("question", "answer", id_field="id"), "math-ai/amc23", split="test"),
        # math-ai/minervamath, fields question and answer; its answers are those boxed in the solutions of
        # QwenLM/Qwen2.5-Math, evaluation/data/minerva_math, units left out.
        "minerva": KnownSet(RecordFormat("question", "answer"), "math-ai/minervamath", split="test"),
        # The card of Hothan/OlympiadBench: final_answer is a list; context and unit are null in most records. Context
        # before question as in make_input of OpenBMB/OlympiadBench, inference/code/evaluators/evaluator.py, ba5b26a7.
        "olympiad": KnownSet(
            RecordFormat("question", "final_answer", context_field="context", unit_field="unit", id_field="id"),
            "Hothan/OlympiadBench",
            split="train",
            config="OE_TO_maths_en_COMP",
        ),
        # The card of BytedTsinghua-SIA/DAPO-Math-17k and the texts in verl, recipe/dapo. The file holds every problem
        # about a hundred times; reading drops the repetitions.
        "dapo17k": KnownSet(
            RecordFormat(
                "prompt",
                "reward_model.ground_truth",
                id_field="extra_info.index",
                prefix=_DAPO_PREFIX,
                suffix=_DAPO_SUFFIX,
            ),
            "BytedTsinghua-SIA/DAPO-Math-17k",
            split="train",
        ),
        # hkust-nlp/SimpleRL-Zoo-Data has a folder per difficulty and prompt, and the bare question in extra_info.
        "simplerl": KnownSet(
            RecordFormat("extra_info.question", "reward_model.ground_truth"),
            "hkust-nlp/SimpleRL-Zoo-Data/simplelr_qwen_level3to5",
            split="train",
        ),
        # The card of agentica-org/DeepScaleR-Preview-Dataset: problem, answer, solution.
        "deepscaler": KnownSet(
            RecordFormat("problem", "answer"), "agentica-org/DeepScaleR-Preview-Dataset", split="train"
        ),
    }
)
"""The sets by the names that sources use for them."""
