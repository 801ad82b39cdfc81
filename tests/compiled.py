"""Loads the C kernels when it is imported, so that processes forked from one that has imported it need not."""

from treepo.model.kernels.compile import load_kernels

load_kernels("decode_attention.c")
load_kernels("tree_attention.c")
