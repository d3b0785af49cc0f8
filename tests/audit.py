"""`python tests/audit.py`: known vulnerabilities among the pinned packages, by pip-audit; part of `make check`.

Fails at one that has a fix and is not in IGNORED. Where the data cannot be had (no network, a mirror without it), it says so and passes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
TIMEOUT_S = 120
# id: why it does not reach us, or what holds the fix back; a line without a reason is no line
IGNORED: dict[str, str] = {}


def main() -> int:
    """Ask, and tell; gives the exit code."""
    command = [sys.executable, "-m", "pip_audit", "-r", str(CONSTRAINTS), "--no-deps", "--disable-pip", "--format", "json"]
    try:
        done = subprocess.run(
            [*command, "--progress-spinner", "off", "--timeout", "10"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        packages = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        packages = []
    return judge(packages)


def judge(packages: list[dict[str, object]]) -> int:
    """The exit code for pip-audit's list of packages."""
    asked = [package for package in packages if "skip_reason" not in package]
    if not asked:
        print("audit: not done, the data on vulnerabilities cannot be had from here; see that a machine with network runs it")
        return 0
    found = [(package, one) for package in asked for one in package["vulns"]]  # type: ignore[attr-defined]
    open_ones = [(package, one) for package, one in found if one["fix_versions"] and one["id"] not in IGNORED]
    for package, one in open_ones:
        print(f"audit: {package['name']} {package['version']}: {one['id']}, mended in {', '.join(one['fix_versions'])}")
    waiting = len(found) - len(open_ones)
    print(
        f"audit: {len(asked)} of {len(packages)} packages asked about, {len(open_ones)} to update, {waiting} without a fix or ignored"
    )
    return 1 if open_ones else 0


if __name__ == "__main__":
    sys.exit(main())
