"""Ends the training processes of a grid's runner that was killed. `scripts/grid_pool.py` starts one per runner.

Reads lines `+ GROUP STARTED` and `- GROUP` (process groups, and when their leaders started) from its input, which ends
when the runner does, however it does. Standard library alone: it starts in 20 ms.
"""
import os
import signal
import sys
import time

GRACE = 10.0


def started(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def kill(groups: dict[int, int], number: int) -> bool:
    """Sends a signal to the groups that are still there; whether there were any."""
    found = False
    for group, begin in groups.items():
        if started(group) == begin:  # else the number may be another's by now
            try:
                os.killpg(group, number)
            except (ProcessLookupError, PermissionError):
                continue
            found = True
    return found


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the runner dies of those itself
    groups: dict[int, int] = {}
    for line in sys.stdin:
        sign, group, *begin = line.split()
        if sign == "+":
            groups[int(group)] = int(begin[0])
        else:
            groups.pop(int(group), None)
    end = time.monotonic() + GRACE
    found = kill(groups, signal.SIGTERM)
    while found and time.monotonic() < end:
        time.sleep(0.1)
        found = kill(groups, 0)
    kill(groups, signal.SIGKILL)


if __name__ == "__main__":
    main()
