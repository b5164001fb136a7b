"""The command `zeroshot`. Nothing heavy is imported before it is executed: the command line imports this file."""

from pathlib import Path

from sightword.engine.argument import Amount, Count, Names, Out, folder_in


def zeroshot(
    runs: Names,  # run directories, with commas, that were trained with data.unseen=
    labels: str = "",  # other words for the same classes; if empty, those of the training
    gamma_from: Path | None = None,  # a run with validation classes that gives γ; if empty, each run's own
    checkpoint: str = "best",  # best, last, or a file
    draws: Count = 1000,  # of the bootstrap behind the intervals
    seed: Amount = 0,  # of the bootstrap
    out: Out = Path("zeroshot"),  # the folder of tables and figures
) -> None:
    """Measure how well classes that were never trained are named, by the protocols of zero-shot recognition.

    ZSL: recordings of unseen classes, among unseen classes. GZSL: all recordings among all classes: accuracy of seen
    and of unseen classes, their harmonic mean H, and AUSUC. Rows: cosines as they are; less γ for seen classes, which
    is chosen on the validation classes (data.unseen_val) and never on the unseen; less each class's mean over the
    unlabelled test recordings, which is transductive. Several runs are averaged. Writes zeroshot.json, tables, cosines
    of each recording, and figures.
    """
    from sightword.engine.run import set_threads
    from sightword.systems.skeleton.zeroshot import job

    folder = folder_in(out)
    set_threads(0, 1)
    study = job.study([Path(run) for run in runs], checkpoint, labels, gamma_from, draws, seed)
    files = job.write(folder, study)
    print("\n".join(job.lines(study)))
    print(f"written to {', '.join(map(str, files))}")
