#!/usr/bin/env python3
"""A parent whose worker cannot outlive it: parent.py COMMAND [ARGUMENT...]

The worker, and whatever it starts, is held by pitvisor run. Nobody but this process
has the write end of the pipe. When it ends, by SIGKILL or otherwise, the kernel
closes that end, pitvisor reads the end of the file, and ends the whole run.
"""

import os
import subprocess
import sys

lifeline, held = os.pipe()  # not inherited, except through pass_fds

run = subprocess.Popen(
    ["pitvisor", "run", "--lifeline-fd", str(lifeline), "--kill-after", "2s", "--", *sys.argv[1:]],
    pass_fds=[lifeline],
)
os.close(lifeline)  # the read end is pitvisor's alone

code = run.wait()
sys.exit(code if code >= 0 else 128 - code)
