"""TRL's GRPOTrainer over trees of answers: `pip install 'treepo[trl]'`."""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false, reportAttributeAccessIssue=false

try:
    from trl import GRPOTrainer as _  # noqa: F401
except ImportError as error:
    raise ImportError(f"treepo.integrations.trl needs TRL: pip install 'treepo[trl]' ({error})") from error

from treepo.integrations.trl.config import TreeGRPOConfig
from treepo.integrations.trl.packed_trainer import PackedGRPOTrainer
from treepo.integrations.trl.tree_trainer import TreeGRPOTrainer

__all__ = ["PackedGRPOTrainer", "TreeGRPOConfig", "TreeGRPOTrainer"]
