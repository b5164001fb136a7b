"""The command `table`. Nothing heavy is imported before it is executed."""

from pathlib import Path

from sightword.engine.argument import Names, Out


def table(
    runs: Names,  # run directories, folders that contain some, or patterns, with commas
    measure: Names,  # <split>/<metric>, with commas: test/top1, val/macro_f1
    by: str = "experiment",  # what rows differ in: preset, experiment, config keys as system.read, with commas
    baseline: str = "",  # the row that others are compared with; or a measure, as test/clip_miou
    out: Out | None = None,  # a folder for table.md, table.csv, table.json and table.png; empty: printed only
) -> None:
    """Compare runs on the same items: a row for each setting, the mean over its seeds with a 95 % interval.

    Runs of a row differ in the seed alone. Evaluate each first, as in sightword evaluate run=… split=test. Intervals
    are by a bootstrap over clusters of items (people, images, recordings, rooms) and over seeds. With baseline= there
    are differences, paired by seed and item, with p by Holm. Runs of other data or another protocol are refused.
    """
    from sightword.cli.table.make import make_table
    from sightword.cli.table.write import FILES, markdown

    made = make_table(list(runs), by, measure, baseline, out)
    print(markdown(made), end="")
    if out is not None:
        print(f"written to {', '.join(str(Path(out) / name) for name in FILES)}")
