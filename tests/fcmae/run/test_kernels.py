"""The profile of steps has what they call, once a step."""

import torch

from fcmae.run.kernels import kernels_of


def test_a_profile_counts_what_one_step_calls() -> None:
    a = torch.randn(64, 64)
    with kernels_of(a.device, 3) as found:
        for _ in range(3):
            torch.mm(torch.mm(a, a), a).relu()
    kernels = {kernel.name: kernel for kernel in found}
    assert kernels["aten::mm"].launches == 2
    assert kernels["aten::relu"].launches == 1
    assert 0 < kernels["aten::mm"].ms < 100
    assert [k.ms for k in found] == sorted((k.ms for k in found), reverse=True)
