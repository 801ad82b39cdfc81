"""Losses on packed trees, each exact for tokens that several trajectories share."""

from treepo.learn.loss.aggregation import Aggregation, ConstantLength, TokenMean, TrajectoryMean
from treepo.learn.loss.base import Loss
from treepo.learn.loss.cispo import CISPO
from treepo.learn.loss.gspo import GSPO
from treepo.learn.loss.penalties import Penalties
from treepo.learn.loss.ppo import PPO
from treepo.learn.loss.reinforce import REINFORCE
from treepo.learn.loss.terms import Terms, terms_of

__all__ = [
    "CISPO",
    "GSPO",
    "PPO",
    "REINFORCE",
    "Aggregation",
    "ConstantLength",
    "Loss",
    "Penalties",
    "Terms",
    "TokenMean",
    "TrajectoryMean",
    "terms_of",
]
