"""What a machine was doing while something was measured on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuState:
    """One GPU at one moment; clocks in MHz, temperature in degrees Celsius, power in watts, memory in bytes.

    Attributes:
        throttle: why the clock is held down, in the driver's words; empty when it is not.
    """

    name: str
    sm_mhz: int | None
    memory_mhz: int | None
    temperature: int | None
    power: float | None
    memory_used: int | None
    throttle: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MachineState:
    """The machine at one moment.

    Attributes:
        load_average: runnable processes over the last minute.
        cpu_mhz: mean clock of the cores that this process may use.
        gpus: those that the driver lists.
    """

    load_average: float | None
    cpu_mhz: float | None
    gpus: tuple[GpuState, ...] = ()
