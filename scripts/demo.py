"""The demo: trains the base config's XP and shows what it learned beside chance and the ideal observer.

    python -m scripts.demo [overrides of the config]
"""
import subprocess
import sys
import time

from bm.train import main
from scripts.ideal_observer import compare


def run(argv: list[str]) -> None:
    """Runs the XP as `dora run` would, then prints its table."""
    begin = time.monotonic()
    xp = main.get_xp(argv)
    done = subprocess.run([sys.executable, "-m", "dora", "run", *argv])
    if done.returncode:
        raise SystemExit(done.returncode)
    trained = time.monotonic()
    table = compare(xp.sig)
    print(f"\nXP {xp.sig}: which of {table.attrs['n_candidates']} segments of held-out speech was playing?\n")
    print(table.to_string(index=False))
    print(f"\n{table.attrs['n']} test segments of 3 s; data and training took {trained - begin:.0f} s, the ideal "
          f"observer {time.monotonic() - trained:.0f} s.\nLook at outputs/xps/{xp.sig}, change something and run it "
          "again: README.md says how.")


if __name__ == "__main__":
    run(sys.argv[1:])
