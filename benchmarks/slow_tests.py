"""The learning runs of minutes among the tests, which continuous integration leaves out, on both backends.

`python -m benchmarks.slow_tests`; its exit status is not zero if one fails.
"""

import argparse
import os
import subprocess
import sys

from benchmarks import common


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_backend(parser, default="both")
    options = parser.parse_args()
    command = [sys.executable, "-m", "pytest", "-m", "slow"]
    runs = [
        subprocess.run(command, env={**os.environ, "KERAS_BACKEND": name}) for name in common.backends(options.backend)
    ]
    sys.exit(max(run.returncode for run in runs))


if __name__ == "__main__":
    main()
