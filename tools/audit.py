"""Look up known vulnerabilities of installed packages; fail also if they cannot be looked up.

pip-audit ends with status 0 if it can look up no package at all, as behind a mirror without that
service. Builds of torch for one device (`2.9.0+cpu`) are not in the registry; they are the version
without that label.

usage: python tools/audit.py PYTHON    (PYTHON has pip-audit; the packages are those of this one)
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from typing import Any

FOUND, UNKNOWN = 1, 2
"""Exit statuses: there are vulnerabilities; packages could not be looked up."""
OWN = "tessera-flow"


def judge(report: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Return the exit status and the lines to print for a JSON report of pip-audit."""
    packages = [entry for entry in report["dependencies"] if entry["name"] != OWN]
    skipped = [entry for entry in packages if "skip_reason" in entry]
    lines = [
        f"{entry['name']} {entry['version']}: {found['id']}, fixed in "
        f"{', '.join(found['fix_versions']) or 'no version'}"
        for entry in packages
        for found in entry.get("vulns", [])
    ]
    status = FOUND if lines else 0
    looked_up = len(packages) - len(skipped)
    lines.append(f"{looked_up} of {len(packages)} packages were looked up.")
    labelled = [e for e in skipped if e["name"] == "torch" and "+" in e["skip_reason"]]
    if labelled and looked_up:
        lines.append("torch is a build for one device: look up its version without the label.")
    unknown = [entry for entry in skipped if entry not in labelled]
    if unknown or not looked_up:
        names = ", ".join(entry["name"] for entry in unknown[:5])
        lines.append(
            f"NOT AUDITED: {len(unknown)} packages ({names} ...), such as: "
            f"{unknown[0]['skip_reason'] if unknown else 'nothing is installed'}"
        )
        status = status or UNKNOWN
    return status, lines


def main(python: str) -> int:
    """Run pip-audit with a Python that has it, on the packages of this Python."""
    command = [python, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    folder = sysconfig.get_path("purelib")
    done = subprocess.run(
        [*command, "--path", folder], stdout=subprocess.PIPE, text=True, check=False
    )
    try:
        status, lines = judge(json.loads(done.stdout))
    except (ValueError, LookupError, TypeError):
        status, lines = UNKNOWN, [f"NOT AUDITED: pip-audit has ended with {done.returncode}."]
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
