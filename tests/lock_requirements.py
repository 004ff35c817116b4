"""Write requirements.lock: the packages whose one build serves every machine, each with the hash of its file.

    make lock

What is built for a platform (torch, numpy, ...) is pinned by requirements.txt by its version alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = "# Made by `make lock`: one build for every machine, so each with its hash. Installed with --require-hashes --no-deps.\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", str(report)]
        subprocess.run([*command, "-r", str(ROOT / "requirements.txt")], check=True)
        packages = json.loads(report.read_text())["install"]
    lines = []
    for package in packages:
        download = package["download_info"]
        if download["url"].endswith("-none-any.whl"):
            line = f"{package['metadata']['name'].lower()}=={package['metadata']['version']}"
            lines.append(f"{line} --hash=sha256:{download['archive_info']['hashes']['sha256']}\n")
    (ROOT / "requirements.lock").write_text(HEAD + "".join(sorted(lines)))


if __name__ == "__main__":
    main()
