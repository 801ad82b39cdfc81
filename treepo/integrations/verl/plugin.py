"""What verl's entry points `verl.plugins` load with `import verl`: it registers the trainer by its name."""

import logging

# verl passes over a plugin that fails, and says later that it knows no trainer of this name.
try:
    from treepo.integrations.verl import TreePPOTrainer
except Exception:
    logging.getLogger(__name__).exception("trainer.v1.trainer_mode=treepo cannot be used")
    raise

__all__ = ["TreePPOTrainer"]
