"""Elastic constants and phonons of Si, Al, Cu, MgO and NaCl against PBE, in one file.

    python benchmarks/solids.py                                         # shipped model
    python benchmarks/solids.py --model m3pot-s --model m3gnet.safetensors

The same as `m3pot bench elastic` and `m3pot bench phonon`; every row names the source of its reference values.
"""

import argparse
import tempfile
from pathlib import Path

from workers import RESULTS, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="as in m3pot bench; default: the shipped one; repeatable")
    parser.add_argument("--output", type=Path, default=RESULTS / "solids.json")
    options = parser.parse_args()

    from m3pot.benchmark.contender import contenders
    from m3pot.benchmark.elastic import elastic
    from m3pot.benchmark.phonon import phonon
    from m3pot.benchmark.run import run
    from m3pot.benchmark.solids import elastic_pbe, phonon_pbe
    from m3pot.cli.options import print_table
    from m3pot.io.registry import find

    models = contenders(options.model or [find().stem])
    result = {"models": {model.label: model.identity for model in models}}
    for benchmark in (elastic(elastic_pbe()), phonon(phonon_pbe())):
        with tempfile.TemporaryDirectory() as folder:
            outcome = run(benchmark, models, Path(folder))
        result[benchmark.name] = {"about": benchmark.about, "summary": outcome.summaries, "rows": outcome.rows}
        for summary in outcome.summaries:
            print_table([{key: summary[key] for key in summary if key.endswith(("model", "_percent", "failed"))}])
    write(options.output, result)


if __name__ == "__main__":
    main()
