"""The commands only the search for people has. Nothing heavy is imported before one runs."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from sightword.data.check import Report
    from sightword.systems.retrieval.gallery import Embedder

DRAWN = 20  # images of a search's picture, at most: what a screen shows


def index(
    run: str,
    images: str,
    out: str,
    checkpoint: str = "best",
    batch_size: int = 32,
    shard_size: int = 1024,
    on_error: str = "raise",
    engine: str = "inline",
    workers: int = 0,
    gpus: float = 0,
) -> None:
    """Embed a folder of images, to be searched with sentences; only images that are new are computed.

    run: a run's folder, or what `sightword export` wrote. images: any folder. out: the gallery.
    on_error: raise, or skip unreadable images. shard_size: vectors a file.
    engine: inline (also under torchrun), or ray with so many workers, each with a share of so many gpus.
    """
    from pathlib import Path

    from sightword.storage import shards
    from sightword.systems.retrieval.gallery import write_gallery

    shards.check_engine(engine)
    where = str(Path(run).expanduser().resolve())
    note = {"run": where, "checkpoint": checkpoint}
    made = write_gallery(
        _Run(where, checkpoint), images, out, note, batch_size, shard_size, on_error, engine, workers, gpus
    )
    lacking = len(made.paths) - len(made)
    print(f"{len(made)} images in {out}" + (f"; {lacking} of {images} could not be read" if lacking else ""))
    print(f'next: sightword search index={out} "a woman in a red coat with a white handbag"')


def search(
    index: str,
    top: int = 10,
    out: str = "search.png",
    run: str = "",
    checkpoint: str = "",
    *,
    words: Sequence[str] = (),
) -> None:
    """Find who a sentence describes: sightword search index=gallery "a man with a green backpack"

    index: what `sightword index` wrote. top: how many. out: the picture of the first 20; out= draws none.
    run, checkpoint: where the network is now, if it is not where the gallery was made from.
    """
    from pathlib import Path

    from sightword.systems.retrieval.gallery import Gallery

    sentence = " ".join(words).strip()
    if not sentence:
        raise ValueError(f'the sentence is empty: sightword search index={index} "a woman in a red coat"')
    if top < 1:
        raise ValueError(f"top is at least 1, got {top}")
    gallery = Gallery(index)
    if not len(gallery):
        raise ValueError(f"{index} has no vector of an image of its folder: sightword index goes through that again")
    embedder = _Run(run or gallery.note["run"], checkpoint or gallery.note["checkpoint"]).open()
    gallery.check(embedder)
    hits = gallery.search(embedder.embed([sentence]), top)
    for number, hit in enumerate(hits, 1):
        copies = f"  (and {hit.copies} of the same bytes)" if hit.copies else ""
        print(f"{number:>3}  {hit.score:.4f}  {hit.path}{copies}")
    if out:
        from sightword.viz.write import write_picture
        from sightword.systems.retrieval.show import Shown, strip

        drawn = hits[:DRAWN]
        write_picture(strip(sentence, [Shown.of(hit.path, hit.score) for hit in drawn]), Path(out).expanduser())
        first = f"the first {DRAWN} " if len(hits) > DRAWN else ""
        print(f"{len(hits)} of {len(gallery)} images; {first}drawn in {out}")


def probe(
    run: str,
    out: str = "probe",
    split: str = "val",
    strips: int = 6,
    captions: int = 1000,
    checkpoint: str = "best",
    dataset: str = "",
    root: str = "",
) -> None:
    """Look at what a run finds and reads: its best images for captions, and what one changed word does to a score.

    run: a run's folder; of an exported one, say the dataset= and root=, too. split: val or test.
    strips: how many captions are shown with their best images. captions: how many have a word changed: a colour, a
    side, a garment, a bag, and as the control a word of the same meaning. out: the folder of pictures and their JSON.
    """
    from pathlib import Path

    from sightword.storage import shards
    from sightword.systems.retrieval import show
    from sightword.systems.retrieval.pedes import read_pedes

    for name, value in (("strips", strips), ("captions", captions)):
        if value < 1:
            raise ValueError(f"{name} is at least 1, got {value}")
    read = read_pedes(*_data(run, dataset, root), split, _hold_out(run))
    embedder = _Run(run, checkpoint).open().to(shards.device())
    texts, images = embedder.embed(read.captions), embedder.embed_files(read.images)
    for file in show.draw(embedder.embed, read, texts, images, Path(out).expanduser(), strips, captions):
        print(file)


def _data(run: str, dataset: str, root: str) -> tuple[str, str]:
    """(root, dataset) as they are told, or else as the run was trained on."""
    from pathlib import Path

    from sightword.engine.run import read_config

    if not (dataset and root):
        data = read_config(Path(run).expanduser()).data
        dataset, root = dataset or data.dataset, root or data.root
    return root, dataset


def _hold_out(run: str) -> int:
    """How many identities the run did not train on, where the set has no validation split; exported: the default."""
    from pathlib import Path

    from sightword.engine.run import read_config
    from sightword.systems.retrieval.config import RetrievalData

    folder = Path(run).expanduser()
    return int(read_config(folder).data.hold_out) if (folder / "config.yaml").is_file() else RetrievalData().hold_out


class _Run(NamedTuple):
    """Where an encoder comes from: a run, or what was exported of one."""

    folder: str
    checkpoint: str

    def open(self) -> "Embedder":
        from sightword.systems.retrieval.gallery import Embedder

        return Embedder(_encoder(self.folder, self.checkpoint), self.folder).freeze()


def _encoder(run: str, checkpoint: str) -> Any:
    """The dual encoder of a run's folder, or of an exported one."""
    from pathlib import Path

    from sightword.engine.run import read_config, restore

    folder = Path(run).expanduser()
    if not (folder / "config.yaml").is_file():
        from sightword.systems.retrieval.export import CONFIG, read_exported

        if not (folder / CONFIG).is_file():
            raise ValueError(
                f"{folder} is neither a run (it has no config.yaml) nor what sightword export writes (no {CONFIG}): "
                "say run= where one is"
            )
        return read_exported(folder)
    system = read_config(folder).experiment.split("/")[0]
    if system != "retrieval":
        raise ValueError(f"{run} is a run of {system}, which embeds no sentences: give one of retrieval/…")
    return restore(folder, checkpoint)[0].model


def check_cuhk_pedes(root: str) -> "Report":
    """CUHK-PEDES: reid_raw.json and every image it names."""
    return _check(root, "cuhk_pedes")


def check_icfg_pedes(root: str) -> "Report":
    """ICFG-PEDES: ICFG-PEDES.json and every image it names."""
    return _check(root, "icfg_pedes")


def check_rstpreid(root: str) -> "Report":
    """RSTPReid: data_captions.json and every image it names."""
    return _check(root, "rstpreid")


def _check(root: str, dataset: str) -> "Report":
    from sightword.systems.retrieval.pedes import check_pedes

    return check_pedes(root, dataset)


COMMANDS: list[Callable[..., Any]] = [index, search, probe]
CHECKS: dict[str, Callable[[str], Any]] = {
    "cuhk_pedes": check_cuhk_pedes,
    "icfg_pedes": check_icfg_pedes,
    "rstpreid": check_rstpreid,
}
