import pytest
from pydantic import ValidationError

from tasks.learn.costs import CostConfig, cost


@pytest.mark.parametrize(
    ("prices", "joules", "devices", "expected"),
    [
        ({"price_per_hour": 2.5}, None, 1, 5.0),  # 2 h x 2.50
        ({"price_per_hour": 2.5}, 7.2e6, 8, 40.0),  # 16 device-hours
        ({"price_per_kwh": 0.3}, 7.2e6, 8, 0.6),  # 2 kWh, of all devices already
        ({"price_per_hour": 0.1, "price_per_kwh": 0.3}, 7.2e6, 1, 0.8),
        ({"price_per_hour": 0.0}, None, 1, 0.0),
    ],
)
def test_a_run_costs_its_hours_and_its_electricity(
    prices: dict[str, float], joules: float | None, devices: int, expected: float
) -> None:
    found = cost(7200, joules, CostConfig(**prices, currency="EUR"), devices)
    assert found["cost"] == pytest.approx(expected) and found["currency"] == "EUR"
    assert all(f"x {price:g}" in found["cost_basis"] for price in prices.values())


def test_without_a_price_that_applies_nothing_is_told() -> None:
    assert cost(7200, 7.2e6, CostConfig()) == {} == cost(7200, None, CostConfig(price_per_kwh=0.3))


@pytest.mark.parametrize("wrong", [{"price_per_hour": -1}, {"currency": "euro"}, {"price": 3}])
def test_wrong_prices_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CostConfig.model_validate(wrong)
