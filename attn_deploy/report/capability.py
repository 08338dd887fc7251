"""A device profile in words."""

from __future__ import annotations

from attn_deploy.machine.devices import DeviceLimits, DeviceProfile
from attn_deploy.report.text import rows_text


def capability_text(device: DeviceProfile) -> str:
    """What a device reaches, by number of threads where it was measured so."""
    rows = [("device", f"{device.name}: {device.title}")]
    for count, limits in device.threads.items():
        rows.append((f"{count} thread{'s' * (count > 1)}", _limits(limits)))
    most = f"{device.cores} thread{'s' * (device.cores > 1)}" if device.cores else "limits"
    rows.append((most, _limits(DeviceLimits(device.peaks_tflops, device.bandwidth_gbs, device.caches))))
    if device.launch_us is not None:
        rows.append(("start of a node", f"{device.launch_us:.2f} us"))
    return rows_text(rows)


def _limits(limits: DeviceLimits) -> str:
    peaks = ", ".join(f"{p} {1e3 * v:,.0f} GFLOP/s" for p, v in limits.peaks_tflops.items())
    levels = ", ".join(f"{gbs:.0f} GB/s within {mib:g} MiB" for mib, gbs in limits.caches)
    memory = f"{limits.bandwidth_gbs:.1f} GB/s from memory" if limits.bandwidth_gbs else "memory bandwidth unknown"
    return "\n".join(filter(None, (peaks, levels, memory)))
