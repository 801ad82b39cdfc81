"""Problems from files, folders and the hub: sources, formats, prompts, order."""

from treepo.task.data.formats import RecordFormat
from treepo.task.data.known import KNOWN, KnownSet
from treepo.task.data.order import Mixture
from treepo.task.data.prompts import PromptTemplate
from treepo.task.data.sets import Encode, ProblemSet, ReadSets, hold_out, read_sets
from treepo.task.data.source import Source, parse_source
from treepo.task.data.task import DataTask

__all__ = [
    "KNOWN",
    "DataTask",
    "Encode",
    "KnownSet",
    "Mixture",
    "ProblemSet",
    "PromptTemplate",
    "ReadSets",
    "RecordFormat",
    "Source",
    "hold_out",
    "parse_source",
    "read_sets",
]
