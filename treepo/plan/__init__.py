"""Shapes chosen by what they buy: variance components of trees, allocation of paths to stages, predicted noise."""

from treepo.plan.allocation import allocate, integer_allocation
from treepo.plan.choice import Kernels, Plan, choose_shape
from treepo.plan.components import Components, Moments, moments_of, solve_components
from treepo.plan.noise import ShapeKernel, noise_per_token, shape_kernel

__all__ = [
    "Components",
    "Kernels",
    "Moments",
    "Plan",
    "ShapeKernel",
    "allocate",
    "choose_shape",
    "integer_allocation",
    "moments_of",
    "noise_per_token",
    "shape_kernel",
    "solve_components",
]
