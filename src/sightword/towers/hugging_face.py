"""Encoders of texts from Hugging Face transformers, by name or from a folder, opened strictly.

A folder is read without network, and a name as the folder of the cache that its files were put in. What transformers
passes over with advice on stderr (weights that were not there and are now random, a vocabulary that was not there) is
an error here, and every error is one line.

Legend: B texts; L tokens; D token width.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from sightword.errors import MissingFileError, SightwordError
from sightword.storage.atomic import write_atomically
from sightword.storage.checkpoint import differences
from sightword.storage.hub import fetched, reason
from sightword.towers.base import TextTower
from sightword.towers.foreign import Config, Foreign
from sightword.towers.sentence import Sentence, read_sentence, write_sentence
from sightword.towers.tokenizer import HFTokenizer

#: All of a repository that is read here but weights.
FILES = ("*.json", "*.txt", "*.model")
#: For every from_pretrained: nothing but files is asked of a folder, and no code of its own is run.
SAFELY = {"local_files_only": True, "trust_remote_code": False}


class HFText(TextTower):
    """Base of text encoders from transformers: word vectors, pooling, and writing to a folder."""

    tokenizer: HFTokenizer
    poolings: tuple[str, ...]  # of `sentence.POOLINGS`, those that mean something for this kind; its own is the first
    sentence: Sentence | None = None  # what a folder of sentence-transformers states

    def __init__(self, model: Foreign, tokenizer: HFTokenizer, name: str, pooling: str) -> None:
        super().__init__()
        if pooling not in self.poolings:
            raise SightwordError(
                f"pooling {pooling!r} is not known; {type(self).__name__} has {', '.join(self.poolings)}"
            )
        self.model, self.tokenizer, self.name, self.pooling = model, tokenizer, name, pooling
        self.width = self.embed_dim = model.config.hidden_size
        self.domain = str(getattr(model.config, "domain", None) or "")
        self.behind = nn.Sequential()  # layers behind the pooling

    def follow(self, sentence: Sentence | None) -> Self:
        """Apply the layers that a folder of sentence-transformers has behind its pooling."""
        if sentence is not None:
            self.sentence, self.behind = sentence, sentence.layers
            self.embed_dim = sentence.width or self.width
        return self

    def embed(self, ids: Tensor) -> Tensor:
        """Ids (B, L) to the word vectors that `inputs_embeds` takes; learned prompts go between them."""
        return self.model.get_input_embeddings()(ids)

    def save(self, folder: str | Path) -> None:
        """Write a Hugging Face folder (config.json, model.safetensors, tokenizer) that `load` and transformers read.

        The layers behind the pooling, if there are any, are written as sentence-transformers has them.
        """
        if self.sentence is not None:
            write_sentence(self.sentence._replace(pooling=self.pooling), self.width, Path(folder))
        with quiet(), whole_files(folder) as beside:
            self.model.save_pretrained(beside)
            self.tokenizer.save(beside)

    def vocabulary(self) -> int:
        return self.model.get_input_embeddings().num_embeddings

    def check_either(self, ids: Tensor | None, mask: Tensor | None, inputs_embeds: Tensor | None) -> None:
        """Raise SightwordError unless exactly one of ids and inputs_embeds is given, and it is a batch of texts."""
        if (ids is None) == (inputs_embeds is None):
            raise SightwordError("a text is given as ids or as inputs_embeds, exactly one of the two")
        if inputs_embeds is not None:
            ids = self._ids_like(inputs_embeds)
        assert ids is not None
        self.check(ids, mask)

    def _ids_like(self, inputs_embeds: Tensor) -> Tensor:
        width = self.model.get_input_embeddings().embedding_dim
        if inputs_embeds.ndim != 3 or inputs_embeds.shape[2] != width:
            raise SightwordError(f"expected inputs_embeds (B, L, {width}), got {tuple(inputs_embeds.shape)}")
        return inputs_embeds.new_zeros(inputs_embeds.shape[:2], dtype=torch.long)


def with_weights(name: str | Path, files: Iterable[str], weights: Iterable[str]) -> Path:
    """Return the folder of `fetched`, with files of the first pattern in `weights` that exists."""
    folder, unreached = fetched(name, files), None
    for pattern in weights:
        try:
            fetched(name, (pattern,))
        except MissingFileError as error:  # no network; another pattern's may be here
            unreached = error
        if any(folder.glob(pattern)):
            return folder
    if unreached:
        raise unreached
    return folder


@contextmanager
def whole_files(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary folder to write files into; at the end of the block they move to `folder`, weights last.

    If the block is interrupted, `folder` is as it was. Each file is moved atomically.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as beside:
        yield Path(beside)
        for file in sorted(Path(beside).iterdir(), key=lambda file: (file.suffix == ".safetensors", file.name)):
            with write_atomically(folder / file.name) as part:
                file.replace(part)


def sentence_of(name: str | Path) -> Sentence | None:
    """Return what a folder or Hugging Face name of sentence-transformers states; None for another one."""
    with quiet():
        folder = fetched(name, FILES)
        if (folder / "modules.json").is_file() and not Path(name).expanduser().is_dir():
            with_weights(name, FILES, ("*_Dense/model.safetensors", "*_Dense/pytorch_model.bin"))
    return read_sentence(folder)


def model_type(name: str | Path) -> str:
    """Return the model type in the config of a folder or Hugging Face name: "t5", "bert", "siglip", …"""
    return config_of(name).model_type


def config_of(name: str | Path) -> Foreign:
    """Return the config of a folder or Hugging Face name. Raises SightwordError if it is missing or unreadable."""
    from transformers import AutoConfig

    with quiet():
        folder = fetched(name, ("config.json",))
        if not (folder / "config.json").is_file():
            raise MissingFileError(f"{name} has no config.json; a Hugging Face folder has it beside its weights")
        try:
            return AutoConfig.from_pretrained(folder, **SAFELY)
        except Exception as error:  # a config of unknown origin can fail in any way
            raise SightwordError(f"the config of {name} cannot be read: {reason(error)}") from error


def open_tokenizer(name: str | Path) -> Foreign:
    """Return the tokenizer of a folder or Hugging Face name.

    Raises SightwordError if it has no vocabulary or no padding token.
    """
    from transformers import AutoTokenizer

    with quiet():
        folder = fetched(name, FILES)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, **SAFELY)
    except Exception as error:  # as above
        hint = "; it has no tokenizer.json, only SentencePiece's file, which needs protobuf 7: pip install -U protobuf"
        spm_only = any(folder.glob("*.model"))
        raise SightwordError(f"{name} has a tokenizer that is not read: {reason(error)}{hint * spm_only}") from error
    files = ["tokenizer.json", *tokenizer.vocab_files_names.values()]
    if not any((folder / file).is_file() for file in files):
        raise MissingFileError(f"{name} has no tokenizer: none of {', '.join(dict.fromkeys(files))}")
    if tokenizer.pad_token_id is None:
        raise SightwordError(
            f"the tokenizer of {name} has no padding token; set pad_token in its tokenizer_config.json"
        )
    return tokenizer


def open_weights(kind: Foreign, name: str | Path, config: Foreign, dtype: torch.dtype, **options: object) -> Foreign:
    """`kind` (a class of transformers), in eval mode, with every weight from the file; its heads are left out.

    SightwordError names what is missing, has another shape, or belongs to the encoder and has no place in it.
    """
    with quiet(bars=True):
        folder = with_weights(name, FILES, ("model*.safetensors", "pytorch_model*.bin"))
    try:
        with quiet():
            model, info = kind.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **SAFELY,
                **options,
            )
    except Exception as error:  # bytes of unknown origin can fail in any way
        missing = isinstance(error, OSError) and "no file" in str(error)
        raise (MissingFileError if missing else SightwordError)(
            f"{name} has no weights that can be read: {reason(error)}"
        ) from error
    if found := _differences(model, info):
        raise SightwordError(f"the weights of {name} do not fit {kind.__name__} and its config.json: {found}")
    return model


def check_vocabulary(tokenizer: Foreign, model: Foreign, name: str | Path) -> None:
    """A tokenizer of another model may give ids that the embedding table does not have."""
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise SightwordError(
            f"the tokenizer of {name} has {len(tokenizer)} tokens, the model's table {rows}; they are of two models"
        )


def _differences(model: Foreign, info: Config) -> str:
    """Return a line on the weights that did not load; "" if all did. Heads in the file are ignored."""
    expected = model.state_dict()
    parts = {part for part, _ in model.named_children()}
    prefix = f"{model.base_model_prefix}."
    weights = {key: value for key, value in expected.items() if key not in info["missing_keys"]}
    weights |= {key: torch.empty(shape, device="meta") for key, shape, _ in info["mismatched_keys"]}
    surplus = [key for key in info["unexpected_keys"] if key.removeprefix(prefix).split(".")[0] in parts]
    return differences(expected, weights | dict.fromkeys(sorted(surplus), torch.empty(0)))


@contextmanager
def quiet(bars: bool = False) -> Iterator[None]:
    """No advice of transformers on stderr; progress bars only where something may be fetched."""
    from transformers.utils import logging

    level, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()
