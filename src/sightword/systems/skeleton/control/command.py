"""The command `control`. Nothing heavy is imported before it is executed: the command line imports this file."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeAlias

from sightword.engine.argument import Amount, Names, Out, choice, folder_in
from sightword.errors import SightwordError
from sightword.systems.skeleton.config import Reading, SkeletonData

#: A control, by its name.
Method: TypeAlias = Annotated[str, choice("method", ("linear", "distances"))]


def control(
    annotations: Path,  # a .pkl in pyskl's format, or an .npz of sightword convert
    labels: str,  # the classes: a file, or a list that is built in
    method: Method = "linear",  # linear: ridge on joints and velocities; distances: DD-Net's network
    train: str = "xsub_train",  # a split of the file; all of it is trained on
    test: str = "xsub_val",  # a split of the file
    depth: bool = True,  # 3-D recordings keep their depth; false: their front view, which is what networks read
    person: str = "",  # the pattern of a person in recordings' names, as P\d+; empty: names of NTU and MSR state it
    beside: Names = (),  # runs, with commas, that sightword evaluate split=test has measured on the same recordings
    seed: Amount = 0,  # of distances' network; linear has nothing random
    out: Out = Path("control"),  # the folder of the results
    reading: Reading = Reading(),
) -> None:
    """Classify recordings without a video encoder, as the control that a recogniser has to beat.

    Joints are centred at the hips, scaled by the trunk and brought to 32 moments. Settings are chosen on people held
    out of train; then all of train is fitted, and test is measured once. Writes evaluation_test.json, results of each
    recording and a table of classes, as sightword evaluate does. Seconds, and about a minute for distances.
    beside= prints how much better or worse runs are, with 95 % intervals over recordings.
    """
    from sightword.engine.run import set_threads
    from sightword.systems.skeleton.control import job
    from sightword.systems.skeleton.labels import read_labels

    folder = folder_in(out)
    if (folder / "config.yaml").exists():
        raise SightwordError(
            f"out={out} is a run directory, whose evaluation would be overwritten. Pass another folder"
        )
    if train == test:
        raise SightwordError(f"train={train!r} and test={test!r} share all recordings. Name two splits that share none")
    set_threads(0, 1)
    # val=: so that all of train is trained on; nothing is read from it
    data = SkeletonData(**asdict(reading), annotations=str(annotations), train=train, val=test or "none", test=test)
    wanted = job.Wanted(data, read_labels(labels), method, depth, person, seed)
    sides = job.read_sides(wanted)
    fitted, how = job.fit(wanted, sides)
    metrics, compared, files = job.write(folder, wanted, sides, fitted, how, [Path(run) for run in beside])
    for setting, value in fitted.tried.items():
        print(f"  {setting:<28} {value:.1f} % on people held out{'  chosen' * (setting == fitted.setting)}")
    for name, value in metrics.items():
        print(f"  {name:<12} {value:.4g} %")
    print(f"  by chance {100 / len(wanted.labels.classes):.4g} %, {fitted.seconds:.1f} s of CPU time")
    print("\n".join(one.line() for one in compared), end="\n" * bool(compared))
    print(f"{len(sides.test)} recordings of {test or 'the file'}; written to {', '.join(map(str, files))}")
