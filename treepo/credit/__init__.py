"""Credit: from the rewards of a tree's leaves to advantages."""

from treepo.credit.base import Estimator
from treepo.credit.group import GRPO, RLOO, DrGRPO, MaxRL, REINFORCEPlusPlus
from treepo.credit.subgroup import TreePO
from treepo.credit.whitening import whiten

__all__ = ["GRPO", "RLOO", "DrGRPO", "Estimator", "MaxRL", "REINFORCEPlusPlus", "TreePO", "whiten"]
