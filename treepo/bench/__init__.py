"""`treepo bench`: trees against sequential sampling, packed updates against plain ones, side by side."""
