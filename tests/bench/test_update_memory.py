"""Peak memory by hand."""

import torch

from treepo.bench.common import peak_bytes

CPU = torch.device("cpu")


def test_the_peak_is_that_of_the_moment_with_most_tensors():
    kept = []

    def work() -> None:
        first = torch.empty(1000)
        second = torch.empty(2000)
        del first
        kept.append(torch.empty(500))
        del second
        kept.append(torch.empty(1500))

    assert peak_bytes(work, CPU) == 4 * 3000
    assert peak_bytes(lambda: None, CPU) == 0


def test_what_a_backward_pass_holds_is_counted():
    """2 of [1000]: the saved exponential and the gradient; the sum's scalars come on top."""
    weight = torch.zeros(1000, requires_grad=True)

    def work() -> None:
        weight.exp().sum().backward()

    assert 8000 <= peak_bytes(work, CPU) <= 8100
