"""Builds the wheel, installs it in an empty environment outside the checkout, and compares data files.

Run as a script by `make wheel`: it takes longer than a unit test may.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("sim", "hardware", "workloads", "calibration")
CODE = {".py", ".pyc"}


def data_files(root: Path) -> set[str]:
    """Everything in the packages below `root` that is not code."""
    return {
        str(path.relative_to(root))
        for package in PACKAGES
        for path in (root / package).rglob("*")
        if path.is_file() and path.suffix not in CODE
    }


def installed_files(folder: Path) -> set[str]:
    """Build the wheel, install it without its dependencies in a new environment, list its data files."""
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT))
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel))
    return data_files(site)


def run(*command: str) -> None:
    """Run a command; its output is shown only if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def main() -> None:
    """Exit with 1 and the missing files if the wheel does not hold them all."""
    with tempfile.TemporaryDirectory() as folder:
        missing = data_files(ROOT) - installed_files(Path(folder))
    if missing:
        sys.exit("the wheel lacks: " + ", ".join(sorted(missing)))


if __name__ == "__main__":
    main()
