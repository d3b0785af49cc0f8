import logging

import pytest
import torch

from tasks.learn import device

HAS_CUDA = torch.cuda.is_available()


def test_auto_takes_what_works_and_logs_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tasks.learn.device"):
        name, reason = device.resolve("auto")
    assert name == ("cuda" if HAS_CUDA else "cpu")
    assert f"auto resolved to {name}: {reason}" in caplog.text and len(reason) > 5


@pytest.mark.skipif(HAS_CUDA, reason="CUDA works here")
def test_cuda_where_there_is_none_says_why_and_what_to_do() -> None:
    with pytest.raises(device.NoDevice, match=r"cuda does not work here: .*set device to auto or cpu"):
        device.resolve("cuda")


def test_an_explicit_choice_is_kept() -> None:
    assert device.resolve("cpu")[0] == "cpu"
    assert device.resolve_precision("bf16", "cpu")[0] == "bf16"
    assert device.resolve_precision("fp32", "cpu")[0] == "fp32"


def test_bfloat16_is_taken_only_where_the_processor_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    features = dict(torch.cpu.get_capabilities())
    for name in ("amx_bf16", "avx512_bf16", "bf16"):
        features[name] = False
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert device.resolve_precision("auto", "cpu") == ("fp32", "this cpu only emulates bfloat16")
    features["amx_bf16"] = True
    assert device.resolve_precision("auto", "cpu")[0] == "bf16"


def test_threads_are_set_and_default_to_what_the_process_may_use() -> None:
    before = torch.get_num_threads()
    try:
        assert device.use_threads(1) == torch.get_num_threads() == 1
        assert device.use_threads(None) == torch.get_num_threads() >= 1
    finally:
        torch.set_num_threads(before)


def test_matrix_products_under_autocast_have_the_asked_precision() -> None:
    matrix = torch.ones(4, 4)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with device.autocast("cpu", precision):
            assert (matrix @ matrix).dtype == dtype
