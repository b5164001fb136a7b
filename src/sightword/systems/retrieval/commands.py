"""The commands of the system `retrieval`. Nothing heavy is imported before one is executed."""

import shlex
from collections.abc import Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from sightword.engine.argument import Amount, Count, ImageJobOptions, Model, Names, Out, Positional, file_in, folder_in
from sightword.errors import MissingFileError, SightwordError

if TYPE_CHECKING:
    from sightword.data.finding import CheckReport
    from sightword.systems.retrieval.gallery import Embedder, Gallery
    from sightword.systems.retrieval.predict import PersonRetriever
    from sightword.systems.retrieval.selection import Selection
    from sightword.systems.retrieval.split import Split

S = TypeVar("S", bound=Sized)


def index(
    images: Path,  # a folder of images
    out: Out,  # the folder of the gallery
    model: Model,  # a run, an export or a hub id; a CLIP or SigLIP: vit_b16, siglip_b16 …; a best.pth of IRRA or RDE
    tag: str = "",  # of an open_clip model, as model=ViT-B-32 tag=openai: the name or the file of its weights
    checkpoint: str = "best",  # of a run: best, last, or a file
    job: ImageJobOptions = ImageJobOptions(shard_size=1024),
    gallery: Literal["disk", "lancedb"] = "disk",  # lancedb: the vectors are also kept in a table of LanceDB, at uri=
    uri: str = "",  # of the table: a path, or s3://…, gs://… or az://… (with the access that your environment has)
    table: Path | None = None,  # for LanceDB: a CSV file on the images, whose columns search where= and by= then use
) -> None:
    """Encode a folder of images as a gallery to search by text; only new images are computed.

    A trained model finds persons; a CLIP or SigLIP finds what photographs show, and needs no training.
    After Ctrl-C, run the same command again to encode the rest.
    """
    from sightword.storage.domain import say_domain
    from sightword.systems.retrieval.gallery import write_gallery

    kept = _lancedb(gallery, uri)
    if table and not kept:
        raise SightwordError(
            "table= is stored in a table of LanceDB only. Pass gallery=lancedb uri=, or table= to search"
        )
    named = _absolute(model)
    plain = bool(tag) or _is_tower(named)
    source = Source("" if plain else named, checkpoint, named if plain else "", tag)
    say_domain(named, images)
    written = write_gallery(source, images, out, source._asdict(), job)
    unread = f"; {written.unread} of {images} could not be read" if written.unread else ""
    print(f"{len(written)} images in {out}{unread}")
    if kept:
        from sightword.systems.retrieval.lance_sync import sync
        from sightword.systems.retrieval.selection import read_rows

        print(sync(written, uri, read_rows(written, table) if table else None))
    sentence = "a dog on a beach" if plain else "a woman in a red coat with a white handbag"
    print(f'next: sightword search {shlex.quote(f"index={out}")}{kept} "{sentence}"')


def search(
    query: Positional,  # required, the sentence, in quotes or not
    index: Path,  # the folder that `sightword index` wrote
    top: Count = 10,  # how many images
    out: Out | None = Path("search.png"),  # a figure of the first 20, or a folder for it; if empty, none
    model: Model | None = None,  # where the model is now, if it is not where the gallery was made
    checkpoint: str = "",  # of a run: best, last, or a file; if empty, the one that made the gallery
    table: Path | None = None,  # a CSV file on the images, for where= and by=: a column image, and any others
    where: Names = (),  # conditions on its columns, all of which must hold: where="camera=3,time>=2024-05-01"
    by: str = "",  # a column, as person: of images that share its value only the best is shown
    gallery: Literal["disk", "lancedb"] = "disk",  # lancedb: search the table that index wrote, with its own columns
    uri: str = "",  # of that table, as for index
    engine: Literal["inline", "ray"] = "inline",  # ray: each worker keeps some shards of the gallery in memory
    workers: Amount = 0,  # of Ray; 0: as many as fit
) -> None:
    """Find the images that a sentence describes: sightword search index=gallery "a man with a green backpack"

    Prints the paths of the best images, best first, with their scores; a question mark: below the threshold.
    With table=, where= searches some of the images and by= shows one of each group.
    """
    text = " ".join(query).strip()
    if not text:
        raise SightwordError(f'the sentence is empty. Pass one: sightword search index={index} "a woman in a red coat"')
    if _lancedb(gallery, uri):
        if table or engine != "inline":
            given = "table=" if table else f"engine={engine}"
            raise SightwordError(f"{given} is not for gallery=lancedb, which has its own columns. Remove it")
        from sightword.systems.retrieval.lance import LanceGallery
        from sightword.systems.retrieval.selection import read_conditions

        lance = LanceGallery(index, uri, read_conditions(where), by)
        _search(text, lance, _some(lance, where), top, out, model, checkpoint)
    elif engine == "ray":
        from sightword.systems.retrieval.cluster import opened

        with opened(index, workers) as spread:
            _search(text, spread, _selected(spread, table, where, by), top, out, model, checkpoint)
    else:
        from sightword.systems.retrieval.gallery import Gallery

        found = Gallery(index)
        _search(text, found, _selected(found, table, where, by), top, out, model, checkpoint)


def _search(
    text: str,
    gallery: "Gallery",
    searched: "Gallery | Selection",
    top: int,
    out: Path | None,
    model: str | None,
    checkpoint: str,
) -> None:
    """Search a gallery, or some of it, with the model that made it or `model`; print and draw what is found."""
    from sightword.systems.retrieval.predict import DRAWN
    from sightword.towers.tokenizer import unknown_line
    from sightword.viz.write import write_picture

    if not model and (made := Path(gallery.tower or gallery.run)).is_absolute() and not made.exists():
        raise MissingFileError(
            f"{made}, the model that made {gallery.out}, does not exist. Pass model=, where it is now"
        )
    made_by = (gallery.run, gallery.tower)
    if model:
        made_by = ("", model) if gallery.tower else (model, "")
    source = Source(made_by[0], checkpoint or gallery.checkpoint, made_by[1], gallery.tag)
    found = source.retriever()(text, searched, top)
    if found.unknown_words:
        print(unknown_line(found.unknown_words))
    for number, hit in enumerate(found.hits, 1):
        copies = f"  (and {hit.copies} of the same bytes)" if hit.copies else ""
        unsure = "?" if found.is_unsure(hit) else " "
        print(f"{number:>3}  {hit.score:.4f}{unsure} {hit.path}{copies}")
    if line := found.fit_line():
        print(line)
    if out:
        file = file_in(out, "search.png")
        write_picture(found.plot(), file)
        first = f"the first {DRAWN} " if len(found.hits) > DRAWN else ""
        print(f"{len(found.hits)} of {len(searched)} images; {first}drawn in {file}")


def _lancedb(gallery: str, uri: str) -> str:
    """Return the arguments that name a table of LanceDB, with a space before; "" for a gallery on disk."""
    if gallery == "lancedb" and not uri:
        raise SightwordError("gallery=lancedb needs uri=, where its table is: a path, or s3://…, gs://… or az://…")
    if uri and gallery != "lancedb":
        raise SightwordError(f"uri={uri} is for gallery=lancedb. Pass both, or none")
    return f" gallery=lancedb {shlex.quote(f'uri={uri}')}" if uri else ""


def _selected(gallery: "Gallery", table: Path | None, where: Sequence[str], by: str) -> "Gallery | Selection":
    """Return the images that are searched: all, or those that a table's columns say."""
    from sightword.systems.retrieval.selection import Selection, read_conditions

    if not len(gallery):
        raise SightwordError(
            f"{gallery.out} has no vector of an image of its folder. sightword index computes them again"
        )
    if table is None:
        if where or by:
            raise SightwordError("where= and by= are on the columns of a CSV file. Pass table=, the file")
        return gallery
    return _some(Selection(gallery, table, read_conditions(where), by), where)


def _some(found: S, where: Sequence[str]) -> S:
    """Return what is searched. Raises SightwordError if that is nothing."""
    if not len(found):
        which = f"fulfils where={','.join(where)!r}. Pass other conditions" if where else "is there. Index them again"
        raise SightwordError(f"no image of the gallery {which}")
    return found


def probe(
    model: Model,  # a run directory; or with dataset= and root= an exported folder or a hub id
    out: Out = Path("probe"),  # the folder of the figures and their values as JSON
    split: Literal["val", "test"] = "val",  # which of the dataset
    strips: Count = 6,  # how many captions are shown with their best images
    captions: Count = 1000,  # how many have a word changed: colour, side, garment, bag; as the control a synonym
    checkpoint: str = "best",  # of a run: best, last, or a file
    dataset: Literal["cuhk_pedes", "icfg_pedes", "rstpreid", "captions"] | None = None,  # if empty, the run's
    root: Path | None = None,  # the folder of the dataset; if empty, the run's
) -> None:
    """Draw what a model finds and what it reacts to: the best images of captions, and scores with one word changed."""
    from sightword.storage import shards
    from sightword.systems.retrieval import show

    folder = folder_in(out)
    read = _split(model, dataset, root, split)
    retriever = Source(model, checkpoint).retriever().to(shards.device())
    texts, images = retriever.encode_text(read.captions), retriever.encode_image(read.images)
    for file in show.draw(retriever.encode_text, read, texts, images, folder, strips, captions):
        print(file)


def _split(model: str, dataset: str | None, root: Path | None, split: str) -> "Split":
    """Return a split of the data that are given, or of the run's: nobody of it was trained on."""
    from sightword.engine.run import read_config
    from sightword.engine.split import choose, tell
    from sightword.systems.retrieval.config import RetrievalData
    from sightword.systems.retrieval.split import Source as Place
    from sightword.systems.retrieval.split import read_split

    folder = Path(model)
    if dataset and root and not (folder / "config.yaml").is_file():  # an exported folder or a hub id
        return read_split(Place(dataset, root), split)
    config = read_config(folder)
    if not isinstance(config.data, RetrievalData):
        raise SightwordError(f"{model} is a run of another system. Pass one of retrieval")
    data = replace(config.data, root=str(root or config.data.root), dataset=dataset or config.data.dataset)
    chosen = choose(replace(config, data=data), folder, [split])
    tell(chosen.findings)
    return read_split(Place(data.dataset, data.root, data.images), split, data.hold_out, chosen.names)


def _is_tower(name: str) -> bool:
    """Return whether a name or folder is a plain CLIP or SigLIP, not a run or what was exported from one."""
    from sightword.towers.clip import encoder as clip
    from sightword.towers.siglip import encoder as siglip
    from sightword.towers.siglip.folder import is_one

    folder = Path(name)
    if folder.is_dir():
        return (folder / clip.CONFIG).is_file() or is_one(folder)
    return name in clip.presets or name in siglip.presets


def _absolute(name: str) -> str:
    """Return a path as an absolute one, and any other name as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name


class Source(NamedTuple):
    """Where a model comes from: a run, or what was exported from one. Opened again in each process of Ray."""

    run: str
    checkpoint: str
    tower: str = ""  # a plain CLIP or SigLIP instead of a run
    tag: str = ""

    @property
    def name(self) -> str:
        """What the model is called in messages."""
        return self.tower or self.run

    def retriever(self) -> "PersonRetriever":
        """Return the predictor. Raises SightwordError if the folder is neither, or of another system."""
        from sightword.systems.retrieval import irra
        from sightword.systems.retrieval.predict import PersonRetriever

        if self.tower:
            return PersonRetriever.from_tower(self.tower, self.tag)
        folder = Path(self.run).expanduser()
        if not (folder / "config.yaml").is_file() and irra.find(folder) is not None:
            return PersonRetriever.from_published(folder)
        found = PersonRetriever.from_pretrained(self.run, self.checkpoint)
        found.name = self.run
        return found

    def open(self) -> "Embedder":
        """Return the encoder, frozen."""
        embedder = self.retriever().embedder
        embedder.name = self.name
        return embedder


def check_cuhk_pedes(root: Path) -> "CheckReport":
    """CUHK-PEDES: reid_raw.json and every image it names."""
    return _check(root, "cuhk_pedes")


def check_icfg_pedes(root: Path) -> "CheckReport":
    """ICFG-PEDES: ICFG-PEDES.json and every image it names."""
    return _check(root, "icfg_pedes")


def check_rstpreid(root: Path) -> "CheckReport":
    """RSTPReid: data_captions.json and every image it names."""
    return _check(root, "rstpreid")


def check_captions(
    root: Path,
    images: Path | None = None,  # the folder that paths of images are below; if empty, it is looked for
) -> "CheckReport":
    """One's own images and captions, in any of the formats that data.dataset=captions reads, and every image."""
    return _check(root, "captions", images)


def _check(root: Path, dataset: str, images: Path | None = None) -> "CheckReport":
    from sightword.systems.retrieval.check import check_pairs
    from sightword.systems.retrieval.split import Source as Place

    return check_pairs(Place(dataset, root, images or ""))
