"""Flickr30k and Flickr8k in their three forms, and COCO as Karpathy split it.

results.csv                     image_name| comment_number| comment     with blanks; one row lacks a separator
results_20130124.token          1000092795.jpg#0<TAB>Two young guys …   captions.txt of Flickr8k: image,caption
dataset_flickr30k.json          images[{filename, filepath, split, sentences[{raw}]}]; restval counts as train
"""

import re
from pathlib import Path

from sightword.errors import SightwordError
from sightword.storage.fields import Fields
from sightword.storage.reader import read_text
from sightword.systems.retrieval.formats.pair import MOST, Pair, Pairs

HEAD = re.compile(r"\ufeff?\s*image_name\s*\|")
TOKEN = re.compile(r"(?P<name>[^\t#]+)#(?P<number>\d+)\t(?P<text>.*)")
JOINED = re.compile(r"\s*\d+\s+(?P<text>.*)")  # a number and a comment without their separator


def is_results(head: str) -> bool:
    """Return whether a file begins as Flickr30k's results.csv."""
    return HEAD.match(head) is not None


def is_tokens(head: str) -> bool:
    """Return whether a file's first line is one of a token file."""
    return TOKEN.match(head) is not None


def read_results(file: Path) -> Pairs:
    """Return the rows of results.csv. Quotes are no special characters in it."""
    pairs, problems = [], []
    for number, line in enumerate(read_text(file, most=MOST).split("\n"), 1):
        if number == 1 or not line.strip():
            continue
        name, *rest = (part.strip() for part in line.split("|", 2))
        if len(rest) == 1 and (joined := JOINED.fullmatch(rest[0])):
            rest = ["", joined["text"]]
        if len(rest) != 2 or not name:
            problems.append(SightwordError(f"{file}: row {number}: expected image_name| comment_number| comment"))
            continue
        pairs.append(Pair(name, [rest[1]], f"row {number}: "))
    return Pairs(file, pairs, "Flickr30k's results.csv, each image another person, no split", problems)


def read_tokens(file: Path) -> Pairs:
    """Return the lines of a token file."""
    pairs, problems = [], []
    for number, line in enumerate(read_text(file, most=MOST).split("\n"), 1):
        if not line.strip():
            continue
        if (found := TOKEN.fullmatch(line.rstrip("\r"))) is None:
            problems.append(SightwordError(f"{file}: row {number}: expected name#number, a tab and the caption"))
            continue
        pairs.append(Pair(found["name"].strip(), [found["text"]], f"row {number}: "))
    return Pairs(file, pairs, "Flickr's token file, each image another person, no split", problems)


def read_karpathy(file: Path, content: Fields) -> Pairs:
    """Return the images of Karpathy's JSON with their sentences."""
    pairs = []
    for number, image in enumerate(content.mappings("images", least=1)):
        texts = [sentence.text("raw") for sentence in image.mappings("sentences")]
        folder, name = image.text("filepath", ""), image.text("filename")
        split = image.text("split")
        path = f"{folder}/{name}" if folder else name
        pairs.append(Pair(path, texts, f"images[{number}].", "", "train" if split == "restval" else split))
    return Pairs(file, pairs, "Karpathy's splits, restval = train, each image another person")
