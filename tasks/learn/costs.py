"""What a run costs, from its hours or its electricity and the prices that a user gives. Imports no torch."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

SECONDS_PER_HOUR = 3600.0
JOULES_PER_KWH = 3.6e6


class CostConfig(BaseModel):
    """Prices. Without one, no cost is told; with both, a run costs the sum: the wear of an own machine and its electricity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    price_per_hour: float | None = Field(None, ge=0)
    """Of one device: a GPU, or the machine where its CPU trains. Of a rented machine with several GPUs: its price divided by them."""
    price_per_kwh: float | None = Field(None, ge=0)
    """Of electricity, where it is paid apart; a rented machine's price has it in it."""
    currency: str = Field("USD", pattern=r"^[A-Z]{3}$")
    """Of both, as ISO 4217 writes it. Nothing is converted."""


def cost(seconds: float, energy_joules: float | None, config: CostConfig, devices: int = 1) -> dict[str, Any]:
    """What so long a run cost: `cost`, `currency` and `cost_basis`, the sum in words; empty where no price applies.

    Args:
        seconds: from beginning to end, on all devices at once.
        energy_joules: of the whole run; None where it is not known, and then its price does not count.
    """
    parts: list[tuple[float, str]] = []
    if config.price_per_hour is not None:
        hours = seconds / SECONDS_PER_HOUR * devices
        parts.append((hours * config.price_per_hour, f"{hours:.4g} device-hours x {config.price_per_hour:g}"))
    if config.price_per_kwh is not None and energy_joules is not None:
        kwh = energy_joules / JOULES_PER_KWH
        parts.append((kwh * config.price_per_kwh, f"{kwh:.4g} kWh x {config.price_per_kwh:g}"))
    if not parts:
        return {}
    basis = " + ".join(words for _, words in parts)
    return {"cost": sum(value for value, _ in parts), "currency": config.currency, "cost_basis": basis}
