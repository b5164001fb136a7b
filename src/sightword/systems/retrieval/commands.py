"""The commands that only person retrieval has. Nothing heavy is imported before one runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sightword.errors import SightwordError

if TYPE_CHECKING:
    from sightword.data.finding import CheckReport
    from sightword.systems.retrieval.gallery import Embedder
    from sightword.systems.retrieval.predict import PersonRetriever


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
    """Encode a folder of images as a gallery to search by text; only new images are computed.

    run: a run directory, or what `sightword export` wrote. images: any folder. out: the gallery.
    on_error: raise, or skip unreadable images. shard_size: vectors of a file.
    engine: inline (also under torchrun), or ray with so many workers, each with a share of so many gpus.
    """
    from sightword.storage import shards
    from sightword.systems.retrieval.gallery import IndexJob, write_gallery

    shards.check_engine(engine)
    source = Model(str(Path(run).expanduser().resolve()), checkpoint)
    job = IndexJob(batch_size, shard_size, on_error, engine, workers, gpus)
    gallery = write_gallery(source, images, out, source._asdict(), job)
    missing = len(gallery.paths) - len(gallery)
    print(f"{len(gallery)} images in {out}" + (f"; {missing} of {images} could not be read" if missing else ""))
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
    """Find the images that a sentence describes: sightword search index=gallery "a man with a green backpack"

    index: what `sightword index` wrote. top: how many. out: a figure with the first 20; out= draws none.
    run, checkpoint: where the model is now, if it is not where the gallery was made from.
    """
    from sightword.systems.retrieval.gallery import Gallery
    from sightword.systems.retrieval.predict import DRAWN
    from sightword.viz.write import write_picture

    text = " ".join(words).strip()
    if not text:
        raise SightwordError(f'the sentence is empty. Pass one: sightword search index={index} "a woman in a red coat"')
    gallery = Gallery(index)
    if not len(gallery):
        raise SightwordError(f"{index} has no vector of an image of its folder. sightword index computes them again")
    found = Model(run or gallery.run, checkpoint or gallery.checkpoint).retriever()(text, gallery, top)
    for number, hit in enumerate(found.hits, 1):
        copies = f"  (and {hit.copies} of the same bytes)" if hit.copies else ""
        print(f"{number:>3}  {hit.score:.4f}  {hit.path}{copies}")
    if out:
        write_picture(found.plot(), Path(out).expanduser())
        first = f"the first {DRAWN} " if len(found.hits) > DRAWN else ""
        print(f"{len(found.hits)} of {len(gallery)} images; {first}drawn in {out}")


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
    """Draw what a model finds and what it reacts to: the best images of captions, and scores with one word changed.

    run: a run directory; or what `sightword export` wrote, with dataset= and root=. split: val or test.
    strips: how many captions are shown with their best images. captions: how many have a word changed: a colour, a
    side, a garment, a bag, and as the control a synonym. out: the folder for the figures and their values as JSON.
    """
    from sightword.storage import shards
    from sightword.systems.retrieval import show
    from sightword.systems.retrieval.pedes import read_pedes

    for name, value in (("strips", strips), ("captions", captions)):
        if value < 1:
            raise SightwordError(f"{name}={value} is too small. Pass at least 1")
    read = read_pedes(*_data(run, dataset, root), split, _hold_out(run))
    retriever = Model(run, checkpoint).retriever().to(shards.device())
    texts, images = retriever.encode_text(read.captions), retriever.encode_image(read.images)
    for file in show.draw(retriever.encode_text, read, texts, images, Path(out).expanduser(), strips, captions):
        print(file)


def _data(run: str, dataset: str, root: str) -> tuple[str, str]:
    """(root, dataset) as they are given, or else as the run was trained on."""
    from sightword.engine.run import read_config
    from sightword.systems.retrieval.config import RetrievalData

    if not (dataset and root):
        data = read_config(Path(run).expanduser()).data
        if not isinstance(data, RetrievalData):
            raise SightwordError(f"{run} is a run of another system. Pass one of retrieval")
        dataset, root = dataset or data.dataset, root or data.root
    return root, dataset


def _hold_out(run: str) -> int:
    """How many identities the run did not train on, if the data set has no validation split; exported: the default."""
    from sightword.engine.run import read_config
    from sightword.systems.retrieval.config import RetrievalData

    folder = Path(run).expanduser()
    data = read_config(folder).data if (folder / "config.yaml").is_file() else RetrievalData()
    return data.hold_out if isinstance(data, RetrievalData) else RetrievalData().hold_out


class Model(NamedTuple):
    """Where a model comes from: a run, or what was exported from one. Opened again in each process of Ray."""

    run: str
    checkpoint: str

    def retriever(self) -> "PersonRetriever":
        """Return the predictor. Raises SightwordError if the folder is neither, or of another system."""
        from sightword.engine.run import load_predictor
        from sightword.systems.retrieval.predict import PersonRetriever

        found = load_predictor(PersonRetriever, self.run, self.checkpoint)
        found.embedder.name = self.run
        return found

    def open(self) -> "Embedder":
        """Return the encoder, frozen."""
        return self.retriever().embedder


def check_cuhk_pedes(root: str) -> "CheckReport":
    """CUHK-PEDES: reid_raw.json and every image it names."""
    return _check(root, "cuhk_pedes")


def check_icfg_pedes(root: str) -> "CheckReport":
    """ICFG-PEDES: ICFG-PEDES.json and every image it names."""
    return _check(root, "icfg_pedes")


def check_rstpreid(root: str) -> "CheckReport":
    """RSTPReid: data_captions.json and every image it names."""
    return _check(root, "rstpreid")


def _check(root: str, dataset: str) -> "CheckReport":
    from sightword.systems.retrieval.check import check_pedes

    return check_pedes(root, dataset)
