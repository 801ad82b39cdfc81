"""Credit: from the rewards of a tree's leaves to advantages."""

from treepo.credit.base import Advantages, Estimator, whiten
from treepo.credit.group import GRPO, RLOO, DrGRPO, MaxRL, REINFORCEPlusPlus
from treepo.credit.prefix import TEMPO, TreeAdv
from treepo.credit.segment import SPO, FadingDifference, TreeRL, ValueDifference
from treepo.credit.subgroup import TreePO

__all__ = [
    "GRPO",
    "RLOO",
    "SPO",
    "TEMPO",
    "Advantages",
    "DrGRPO",
    "Estimator",
    "FadingDifference",
    "MaxRL",
    "REINFORCEPlusPlus",
    "TreeAdv",
    "TreePO",
    "TreeRL",
    "ValueDifference",
    "whiten",
]
