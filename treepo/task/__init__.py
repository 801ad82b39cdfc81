"""What is asked, what is right, and what that is worth."""

from treepo.task.shaping import Answers, Reward, ShapedReward

__all__ = ["Answers", "Reward", "ShapedReward"]
