"""Where figures and samples of a run may go besides its folder."""

from treepo.report.trackers.base import Tracker
from treepo.report.trackers.tensorboard import TensorBoard
from treepo.report.trackers.tracking import TrackerError, Tracking
from treepo.report.trackers.trackio import Trackio
from treepo.report.trackers.wandb import WandB

__all__ = ["TensorBoard", "Tracker", "TrackerError", "Tracking", "Trackio", "WandB"]
