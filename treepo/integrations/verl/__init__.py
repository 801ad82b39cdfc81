"""Trees of answers inside verl's trainer: `trainer.v1.trainer_mode=treepo` (docs/from_verl.md).

verl needs an older transformers than the rest of this package does; nothing here loads it.
"""

# pyright: reportMissingImports=false

try:
    import verl.trainer.ppo.v1 as _  # noqa: F401
except ImportError as error:
    raise ImportError(f"treepo.integrations.verl needs verl 0.9: pip install verl ({error})") from error

from treepo.integrations.verl.manager import TreeAgentLoopManager, TreeAgentLoopWorker
from treepo.integrations.verl.trainer import TreePPOTrainer

__all__ = ["TreeAgentLoopManager", "TreeAgentLoopWorker", "TreePPOTrainer"]
