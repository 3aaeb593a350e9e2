"""What the tests' forked processes do."""

import json
import os
import random
import subprocess
import sys
import time

import numpy as np


def is_open(number):
    """Returns whether it is a descriptor."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def run(answer, *others):
    """Tells what it finds, then does what the variable TASK says."""
    found = {
        "pid": os.getpid(),
        "session": os.getsid(0),
        "directory": os.getcwd(),
        "path": sys.path,
        "variable": os.environ.get("VARIABLE"),
        "task": os.environ["TASK"],
        "files": [number for number in range(3, 1_000) if is_open(number)],
        "mine": [answer, *others],
        "random": [random.random(), float(np.random.random())],
        "keras": "keras" in sys.modules,
    }
    task = os.environ["TASK"]
    if task == "leave a child":
        found["child"] = subprocess.Popen(["sleep", "60"], pass_fds=[answer]).pid
    with os.fdopen(answer, "w") as file:
        file.write(json.dumps(found) + "\n")
    if task == "say":
        print("said", flush=True)
        os.write(2, b"complained\n")
    if task == "fail":
        sys.exit(7)
    if task in ("stay", "leave a child"):
        time.sleep(60)
