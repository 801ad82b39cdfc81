"""Compiles the kernels when it is imported, so that processes forked from one that has imported it need not."""

from treepo.engine.torch.cpu import load_kernel
from treepo.model.kernels.tree_attention import load_tree_kernel

load_kernel()
load_tree_kernel()
