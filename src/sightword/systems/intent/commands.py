"""The commands of the system `intent`. Nothing heavy is imported before one is executed."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sightword.engine.argument import (
    Count,
    Counts,
    JobOptions,
    Model,
    NamedTokenTypes,
    Names,
    Out,
    Pairs,
    TokenType,
    folder_in,
)
from sightword.errors import MissingFileError, SightwordError

if TYPE_CHECKING:
    from sightword.data.finding import CheckReport
    from sightword.systems.intent.anchors import Anchors, Recipe


def anchors(
    tower: str,  # vit_h14 (dimension 1024), vit_l14, vit_b16, siglip_b16 …; an open_clip model with tag=; or a folder
    out: Out,  # the folder to write, or a file that ends in .pth
    tag: str = "",  # of an open_clip model: the name or the file of its weights
    expand: Literal["noise", "synonyms", "templates", "none"] = "noise",  # how a class gets several codes; see above
    noise: float = 0.1,  # of expand=noise, times the length of a vector
    seed: int = 0,  # of the noise, and of which classes get the codes that do not divide evenly
    sizes: Counts = (),  # other numbers of codes: coco:256,places:512,emotion:128,ava:256,actions:256
    extra: Pairs = (),  # more names: actions:surfing,actions:riding wave
    streams: Names = (),  # only these: coco,places
    vocabulary: Names = (),  # JSON files that add streams, or a folder of such files; see above
    batch_size: Count = 256,  # prompts in one pass through the network
) -> None:
    """Write codebooks of text embeddings: CLIP's vectors of the names of things, places, emotions, styles and actions.

    expand=noise: copies of a class's vector, moved; synonyms: its own words; templates: several wordings; none: one
    code per class. Emotions always get one code per word.
    vocabulary: the format that systems/intent/vocabulary.py describes. A folder replaces the built-in vocabularies
    unless streams= names them.
    """
    names = {stream: [name for other, name in extra if other == stream] for stream, _ in extra}

    from sightword.systems.intent.anchors import Recipe
    from sightword.systems.intent.vocabulary import chosen_vocabularies

    chosen, files = chosen_vocabularies(vocabulary, streams)
    _write_anchors(Recipe(tower, tag, chosen, files, names, dict(sizes), expand, noise, seed, batch_size), out)


def _write_anchors(recipe: "Recipe", out: Path) -> None:
    """Write anchors, and print what they are and what to type next."""
    from sightword.systems.intent.anchors import write_anchors

    made, file, notes = write_anchors(recipe, out)
    for note in notes:
        print(f"note: {note}")
    print(_table(made))
    print(f"every prompt's nearest code is of its own class; written to {file}, with names in {file.stem}.safetensors")
    tagged = f" tag={recipe.tag}" if recipe.tag else ""
    print(f"next: sightword cache tower={recipe.tower}{tagged} images=… token_type=value,joint out=cache/tokens")
    print(f"then: sightword ids anchors={file} tokens=cache/tokens out=cache/ids")


def calibrate(
    anchors: Path,  # what `sightword anchors` wrote
    tokens: Path,  # what `sightword cache` wrote: of unlabelled images
    labels: Path | None = None,  # which words 25 to 50 images show: scenes' captions.json, CSV, JSONL, COCO, folders
    images: Path | None = None,  # the folder of the labelled images, if it is not found
    root: Path
    | None = None,  # annotations of intents: only the images of their train split are used; empty: all cached
    tower: str = "",  # encodes the labelled images that are not in tokens=; empty: the one of the anchors
    tag: str = "",  # of an open_clip model
    out: Out | None = None,  # the file; empty: calibration.safetensors beside the anchors
) -> None:
    """Calibrate words: what each word's cosine usually is, and from where on a word is present in an image.

    Cosines of different words are not comparable. The mean and the spread of each over unlabelled images make them so;
    with labels of some images each word also gets a probability of presence. Experiments with system.read=presence or
    system.nothing need the file. It holds for the encoder, the token types and the words that it was made with.
    """
    from sightword.systems.intent.calibration import calibration_file
    from sightword.systems.intent.calibrator import Request, write_calibration

    keys: list[str] = []
    if root is not None:
        from sightword.systems.intent.config import IntentData
        from sightword.systems.intent.prepare import train_keys

        keys = train_keys(IntentData(root=str(root), cache=str(tokens)))
        if not keys:
            raise SightwordError(
                f"tokens={tokens} has none of the training images of root={root}. Cache them, or fix root="
            )
    else:
        print("note: all cached images are calibrated on; root=, the annotations, takes those of the train split alone")
    file = calibration_file(anchors, out or "")
    made = write_calibration(Request(anchors, tokens, labels, images, tower, tag), file, keys)
    for note in made.notes:
        print(note)
    print(f"a patch has: {made.calibration.rule}; written to {file}")
    given = f" system.calibration={file}" if out else ""
    print(f"next: sightword train experiment=intent/presence system.semantic_anchors_path={anchors}{given} …")


def ids(
    anchors: Path,  # what `sightword anchors` wrote
    tokens: Path,  # what `sightword cache` wrote
    out: Out,  # the folder to write
    token_type: NamedTokenTypes = (),  # of a stream's tokens, if not the default: coco:joint,places:value
    streams: Names = (),  # only these: coco,places
    shard_size: Count = 256,  # images in one file of the output
    job: JobOptions = JobOptions(),
) -> None:
    """Look up the nearest code of every patch of every cached image: 2 bytes per patch and stream, for stage 1."""
    from sightword.systems.intent.anchors import Anchors
    from sightword.systems.intent.config import TOKEN_TYPES
    from sightword.systems.intent.ids import write_ids

    read = Anchors.read(anchors)
    chosen = {name: read[name].codes for name in streams or read.books}
    types = {**dict.fromkeys(chosen, "joint"), **TOKEN_TYPES, **dict(token_type)}
    kept = write_ids(tokens, chosen, types, out, shard_size, job.engine, job.workers, job.gpus)
    print(f"{len(kept)} images in {out}: {', '.join(f'{name} by {types[name]} tokens' for name in chosen)}")
    print(f"next: sightword train experiment=intent/stage1 system.semantic_anchors_path={anchors} data.ids={out}")


def show(
    model: Model,  # a run, an export or a hub id; with words= a plain CLIP: vit_b16 …, or a folder
    image: Path | None = None,  # a file; empty: only the table of the whole model, what every word adds to every intent
    out: Out = Path("show"),  # the folder of figures, each with its values as JSON
    words: Names = (),  # of a plain CLIP: the words that a patch may have, as words="dog, grass, sky"
    vocabulary: Path | None = None,  # or a file of them, one a line
    tag: str = "",  # of an open_clip model, as model=ViT-B-32 tag=openai
    token_type: TokenType = "qq",  # of a plain CLIP's patches: qq, kk, value or joint
    checkpoint: str = "best",  # of a run: best, last, or a file
) -> None:
    """Explain a model: the words of an image's patches, and what each of them adds to each intent.

    With words= a plain CLIP says which of them fits each patch of a photo: no run and no labels are needed.
    """
    from sightword.systems.intent import show as figures
    from sightword.systems.intent.predict import IntentClassifier

    if image and not image.is_file():
        raise MissingFileError(
            f"image={image} {'is a folder' if image.is_dir() else 'does not exist'}. Pass an image file"
        )
    if words or vocabulary:
        _show_words(model, image, out, words, vocabulary, tag, token_type)
        return
    classifier = IntentClassifier.from_pretrained(model, checkpoint)
    files = figures.write_table(classifier.codebooks(), out)
    if image:
        explanation = classifier(image).explanation
        assert explanation is not None
        files += figures.write_explanation(explanation, out)
    for file in files:
        print(file)


def faithful(
    run: Path,  # a run directory of intent/stage1, stage2, presence or pairs
    truth: Path | None = None,  # the words that some images show: drawn.json, captions.json, CSV, JSONL, COCO, folders
    maps: Path | None = None,  # where they are: a folder with words.txt and <image>.png, value i for the word of line i
    out: Out = Path("faithful"),  # the folder of faithful.json and faithful.html
    split: str = "test",  # test or val
    checkpoint: str = "best",  # best, last, or a file
    deletions: Count = 100,  # images that words are removed from
    seed: int = 0,  # of random words, shuffled names and random patches
) -> None:
    """Judge how far a model's words can be trusted: six questions with controls, as JSON and one page.

    Are the words right? How much do absent words add? Does a correction help? What do meaningless words reach? Does
    a score fall when a word's pixels are removed? How many words speak for an intent? Without truth= the first three
    stay open, and the page lists images to look at.
    """
    from sightword.systems.intent.faithful.judgement import Request, judge_run, write_report
    from sightword.systems.intent.faithful.page import lines_of

    folder_in(out)
    request = Request(run, truth, maps, split, checkpoint, deletions, seed)
    report, used = judge_run(request)
    for line in lines_of(report):
        print(line)
    files = write_report(report, request, used, out)
    print(f"judged {used} on {report.images} images of {split}; written to {' and '.join(map(str, files))}")
    print(f"next: open {files[1]} in a browser")


def _show_words(
    model: str, image: Path | None, out: Path, words: Names, vocabulary: Path | None, tag: str, token_type: str
) -> None:
    """Draw which word fits each patch of a photo, by a plain CLIP."""
    from sightword.storage.domain import say_domain
    from sightword.systems.intent.patches import prompts_of, read_patches
    from sightword.towers.clip.encoder import CLIP
    from sightword.towers.factory import tower_pair
    from sightword.towers.tokenizer import unknown_line
    from sightword.viz.write import write_picture

    prompts = prompts_of(words, vocabulary)
    if image is None:
        raise SightwordError("words= are looked for in a photo. Pass image=, a file")
    if (Path(model) / "config.yaml").is_file():
        raise SightwordError(f"model={model} is a run, and words= are for a plain CLIP. Pass model=vit_b16 or a folder")
    pair = tower_pair(model, tag)
    if not isinstance(pair, CLIP):
        raise SightwordError(f"model={model} is a SigLIP, whose patches are not in the space of texts. Pass a CLIP")
    say_domain(model, image)
    found = read_patches(pair, image, prompts, token_type)
    if found.unknown_words:
        print(unknown_line(found.unknown_words))
    for word, share in list(found.areas.items())[:10]:
        print(f"{100 * share:>5.1f} %  {word}")
    rest = 100 * (1 - sum(found.areas.values()))
    print(f"{rest:>5.1f} %  none of these")
    for file in write_picture(found.plot(), folder_in(out) / "patches.png", found.to_dict()):
        print(file)


def check_intentonomy(root: Path, images: Path | None = None) -> "CheckReport":
    """Intentonomy's three files and every image that they name. images: the folder with low/<id>.jpg; root if empty."""
    from sightword.systems.intent import intentonomy

    return intentonomy.check_intentonomy(str(root), str(images or ""))


def check_labels(
    root: Path,
    images: Path | None = None,  # the folder that paths of images are below; if empty, it is looked for
) -> "CheckReport":
    """One's own labelled photos, as CSV, JSONL, JSON or folders, and every image."""
    from sightword.systems.intent import doctor

    return doctor.check_labels(str(root), str(images or ""))


def _table(made: "Anchors") -> str:
    rows = [("stream", "classes", "codes", "dimension")]
    rows += [
        (stream, str(len(set(book.class_ids))), str(len(book.codes)), str(made.dim))
        for stream, book in made.books.items()
    ]
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"  {row[0]:<{width}}" + "".join(f"{cell:>11}" for cell in row[1:]) for row in rows)
