"""h and its inverse (Pohlen et al. 2018)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.value_rescaling import backup, rescale, unscale


@given(st.floats(-1e6, 1e6))
def test_the_inverse_undoes_h_in_single_precision(x):
    value = torch.tensor([x])
    assert unscale(rescale(value)).item() == pytest.approx(value.item(), rel=2e-5, abs=1e-6)
    double = value.double()
    assert unscale(rescale(double)).item() == pytest.approx(double.item(), rel=1e-12, abs=1e-12)


def test_h_is_that_of_the_paper():
    x = torch.tensor([-8.0, -3.0, 0.0, 3.0, 99.0], dtype=torch.float64)
    expected = [-2.0 - 8e-3, -1.0 - 3e-3, 0.0, 1.0 + 3e-3, 9.0 + 99e-3]
    assert rescale(x).tolist() == pytest.approx(expected, rel=1e-12)


def test_a_target_is_backed_up_in_the_unit_of_the_rewards():
    reward, discount = torch.tensor([1.0, -2.0]), torch.tensor([0.9, 0.0])
    value = torch.tensor([20.0, 5.0])
    plain = backup(reward, discount, value, rescaled=False)
    torch.testing.assert_close(plain, torch.tensor([19.0, -2.0]))
    rescaled = backup(reward, discount, rescale(value), rescaled=True)
    torch.testing.assert_close(rescaled, rescale(plain))
