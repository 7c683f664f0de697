"""The equation of state of one oxide by GPAW, run here, beside the model, VASP and the all-electron average.

    python benchmarks/dft_eos.py                     # MgO; needs the extra `dft`

Volumes and metrics are those of `m3pot bench acwf`.
"""

import argparse
import tempfile
from pathlib import Path

from workers import RESULTS, versions, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oxide", default="Mg-XO", help="name in the data set acwf-oxides")
    parser.add_argument("--ecut", type=float, default=800.0, help="of GPAW, eV")
    parser.add_argument("--kpts", type=int, default=6, help="of GPAW, in each direction")
    parser.add_argument("--model", action="append", help="as in m3pot bench; default: the shipped one; repeatable")
    parser.add_argument("--output", type=Path, default=RESULTS / "dft_eos.json")
    options = parser.parse_args()

    from m3pot.benchmark.acwf import acwf
    from m3pot.benchmark.contender import Contender, contenders
    from m3pot.benchmark.run import run
    from m3pot.cli.options import print_table
    from m3pot.data.calculators import gpaw
    from m3pot.io.registry import find

    grid = (options.kpts,) * 3
    models = contenders(options.model or [find().stem])
    models.append(Contender("GPAW-PBE", "gpaw", lambda: gpaw(ecut=options.ecut, kpts=grid)))
    benchmark = acwf(elements=[options.oxide.partition("-")[0]])
    with tempfile.TemporaryDirectory() as folder:
        known = {label: [r for r in rows if r["name"] == options.oxide] for label, rows in benchmark.baseline.items()}
        one = benchmark._replace(items={options.oxide: benchmark.items[options.oxide]}, baseline=known)
        rows = [{"model": label} | found[0] for label, found in run(one, models, Path(folder)).rows.items()]
    settings = {"oxide": options.oxide, "ecut_eV": options.ecut, "kpts": grid, "versions": versions("gpaw")}
    write(options.output, {"settings": settings, "rows": rows})
    print_table(rows, ["model", "V0", "B0_GPa", "B1", "epsilon"])


if __name__ == "__main__":
    main()
