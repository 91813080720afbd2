"""On a GPU: the values of the CPU, and a step that never waits for the device."""

import pytest
import torch

from fcmae import FCMAE, draw_visible

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that CUDA sees"),
]


def test_a_step_on_the_gpu_equals_that_on_the_cpu() -> None:
    model = FCMAE(image_size=64, generator=torch.Generator().manual_seed(0)).double()
    images, visible = torch.randn(2, 3, 64, 64).double(), draw_visible(2, 4, model.ratio)
    loss, _ = model(images, visible)
    loss.backward()
    expected = [p.grad for p in model.parameters()]
    model.zero_grad()
    model.cuda()
    found, _ = model(images.cuda(), visible.cuda())
    found.backward()
    torch.testing.assert_close(found.cpu(), loss, rtol=1e-10, atol=0)
    for p, gradient in zip(model.parameters(), expected, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad.cpu(), gradient, rtol=1e-8, atol=1e-12)


def test_a_step_in_bf16_never_waits_for_the_device() -> None:
    model = FCMAE(image_size=64).cuda()
    images, visible = torch.randn(2, 3, 64, 64).cuda(), draw_visible(2, 4, model.ratio).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss, _ = model(images, visible)
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()
