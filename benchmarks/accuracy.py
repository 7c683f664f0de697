"""Errors of models on labelled frames, for the README and the model card.

    python benchmarks/accuracy.py mptrj-random-500 alexandria-random-500 --model m3pot-s --model m3gnet.safetensors

Sets are names of `m3pot data list` or files; models as for `m3pot evaluate`. Frames that were trained on do not belong
here: files of held-out frames are made by `m3pot sample` and `m3pot label` from crystals whose formulas the split of
the training has kept out.
"""

import argparse
from pathlib import Path

from workers import RESULTS, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--plot", metavar="SET", help="draw its parity beside the results")
    parser.add_argument("--output", type=Path, default=RESULTS / "accuracy.json")
    options = parser.parse_args()

    from m3pot import evaluation
    from m3pot.benchmark.contender import contenders
    from m3pot.cli.options import print_table
    from m3pot.data.sources import load
    from m3pot.train import plots

    sets = {Path(name).stem: load([name], use="validate") for name in options.data}
    models = {contender.label: contender.load() for contender in contenders(options.model)}
    found = evaluation.evaluate(sets, models)
    rows = evaluation.overall(found)
    write(options.output, {"units": "eV/atom, eV/A (mean length of error vector), GPa", "rows": rows})
    if options.plot:
        plots.parity(found.labels[options.plot], found.predictions[options.plot], options.output.with_suffix(".png"))
    print_table(rows)


if __name__ == "__main__":
    main()
