"""`python -m bm.bench [NAME …] [--json FILE]`: prints a table, and writes it as JSON."""
import argparse
import importlib
import json
from dataclasses import asdict
from pathlib import Path

NAMES = ["loader", "startup", "cold", "linear", "voxelwise", "trf", "rdm", "decoder", "evaluation", "stats", "features",
         "transformer", "ceilings", "lagged", "gradmaps"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bm.bench", description="Hot paths beside the obvious way.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones (all): {', '.join(NAMES)}")
    parser.add_argument("--json", type=Path, default=Path("outputs/bench.json"), help="where to write the numbers")
    parser.add_argument("--size", default="", help="of benchmarks that have larger ones: full, huge (their files say "
                                                   "what these need)")
    args = parser.parse_args()
    unknown = set(args.names) - set(NAMES)
    if unknown:
        parser.error(f"unknown benchmarks {sorted(unknown)}; there are {', '.join(NAMES)}")
    rows = []
    print(f"{'benchmark':<16}{'ours':>12}{'other':>12}{'other/ours':>12}{'target':>8}  what")
    for name in args.names or NAMES:
        module = importlib.import_module(f"bm.bench.{name}")
        if args.size and args.size not in getattr(module, "SIZES", {}):
            parser.error(f"--size {args.size}: {name} has {', '.join(getattr(module, 'SIZES', {})) or 'one size'}")
        for row in module.run(args.size) if args.size else module.run():
            rows.append({**asdict(row), "ratio": row.ratio})
            target = "" if row.target is None else f"{row.target:g}"
            sizes = "".join(f"{value:>9.3f} {row.unit:<2}" for value in (row.ours, row.other))
            print(f"{row.name:<16}{sizes}{row.ratio:>12.2f}{target:>8}  {row.what}", flush=True)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
