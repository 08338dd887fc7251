"""A package, and the check of one, as text."""

from __future__ import annotations

from attn_deploy.deploy.package.check import PackageCheck
from attn_deploy.deploy.package.make import Package
from attn_deploy.report.text import rows_text


def package_text(package: Package) -> str:
    """What lies in a package, and how to check it."""
    manifest = package.manifest
    rows = [
        ("package", str(package.path)),
        ("model", f"{manifest['name']}, {manifest['precision']}, opset {manifest['opset']}"),
    ]
    for kind in ("inputs", "outputs"):
        for tensor in manifest[kind]:
            shape = ", ".join(map(str, tensor["shape"]))
            rows.append((kind[:-1], f"{tensor['name']} {tensor['dtype']}[{shape}]"))
    size = sum(f["size"] for f in manifest["files"].values())
    rows += [
        ("files", f"{len(manifest['files'])}, {size / 1e6:.1f} MB"),
        ("golden", f"{manifest['golden']} cases, from {manifest['reference']}"),
        ("check it", f"python {package.path}/verify.py"),
    ]
    return rows_text(rows)


def package_check_text(check: PackageCheck) -> str:
    """Problems and remarks, a line each."""
    verdict = "ok: every file is as it was, and every answer is right" if check.passed else "FAILED"
    return "\n".join((*check.problems, *check.remarks, verdict))
