#!/usr/bin/env python3
"""Runs trials, each a program of its own, and says how each ended.

    run.py [--full] [--results FILE] [NAME...]

Trials that measure latencies run alone; the others three at a time. One that fails runs once more, alone, because a machine has moments
of its own: both reports are printed, and the summary says so. Exit code 1 if one failed twice.
FILE gets a line `passed|failed <tab> name <tab> seconds` for each.
"""

import argparse
import concurrent.futures
import os
import pathlib
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent

TOGETHER = [
    "shutdown", "failing_disk", "full_disk", "disable_in_flight", "lost_response", "fifo_order", "throttle", "idempotency_race",
    "address_guard", "poison_payloads", "raw_http", "backup",
]
ALONE = [
    "kill_under_load", "receive_kill", "hostile_endpoints", "failing_names", "slow_clients", "hanging_endpoints", "hostile_scripts", "thundering_herd",
    "restart_backlog", "retention", "overload",
    "recover", "plugins", "pipes",
]

known = sorted(p.stem for p in HERE.glob("*.py") if p.stem != "run")
assert sorted(TOGETHER + ALONE) == known, f"a trial is in no list, or a list has no trial: {set(TOGETHER + ALONE) ^ set(known)}"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
parser.add_argument("--full", action="store_true")
parser.add_argument("--results")
options = parser.parse_args()
wanted = options.names or known
if unknown := set(wanted) - set(known):
    sys.exit(f"no such trial: {', '.join(sorted(unknown))}")


def run(name):
    begun = time.monotonic()
    command = [sys.executable, str(HERE / f"{name}.py"), *(["--full"] if options.full else [])]
    # A session of its own, so that a trial that does not end can be ended with the servers that it started.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True)
    try:
        output, _ = process.communicate(timeout=7200 if options.full else 240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        output += f"verdict {name}: FAILED: did not end\n"
    return name, process.returncode, output, time.monotonic() - begun


def report(result, again=False):
    """Prints what a trial said; true if that decides. The second run always does."""
    name, code, output, seconds = result
    print(output, flush=True)
    if code and not again:
        return False
    results.append((name, code, seconds, again))
    if options.results:
        with open(options.results, "a") as file:
            file.write(f"{'failed' if code else 'passed'}\t{name}\t{seconds:.0f}\n")
    return True


results, repeated = [], []
with concurrent.futures.ThreadPoolExecutor(3) as pool:
    for done in concurrent.futures.as_completed([pool.submit(run, name) for name in TOGETHER if name in wanted]):
        if not report(done.result()):
            repeated.append(done.result()[0])
for name in repeated + [name for name in ALONE if name in wanted]:
    again = name in repeated
    if not report(run(name), again):
        report(run(name), again=True)

failed = [name for name, code, _, _ in results if code]
print("trials:")
for name, code, seconds, again in results:
    print(f"  {'FAILED' if code else 'ok    '} {name:<20} {seconds:6.1f} s{', the second time' if again else ''}")
sys.exit(1 if failed else 0)
