"""Tiny encoders with random weights, in the formats of the published checkpoints.

Only the CLIP of `miniature.clip` is trained. The tokenizers here have a token for every word of the synthetic captions.
The published checkpoints are folders of the same files, and the same code opens both.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from sightword.storage.domain import DRAWN

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ModuleT = TypeVar("ModuleT", bound=nn.Module)
IMAGE, PATCH, WIDTH, LENGTH = 64, 8, 64, 64


def write_siglip(folder: Path, captions: Iterable[str]) -> None:
    """Write a SigLIP in the format of google/siglip-base-patch16-224, for `towers.siglip` and transformers."""
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    tokenizer = _unigram(captions, {"pad_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"})
    sizes = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTH, "projection_size": WIDTH}
    text |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "eos")}
    vision = {**sizes, "image_size": IMAGE, "patch_size": PATCH}
    config = SiglipConfig(text_config=text, vision_config=vision)
    _save(folder, lambda: SiglipModel(config), tokenizer)
    half = [0.5] * 3
    processor = SiglipImageProcessor(size={"height": IMAGE, "width": IMAGE}, image_mean=half, image_std=half)
    processor.save_pretrained(folder)


def write_t5(folder: Path, captions: Iterable[str]) -> None:
    """Write a T5 with its decoder in the format of google-t5/t5-small, for `towers.t5` and transformers."""
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = _unigram(captions, {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"})
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=WIDTH // 2,
        d_ff=2 * WIDTH,
        num_layers=2,
        num_heads=2,
        dropout_rate=0.0,
    )
    config.decoder_start_token_id = tokenizer.pad_token_id
    _save(folder, lambda: T5ForConditionalGeneration(config), tokenizer)


def write_bert(folder: Path, captions: Iterable[str]) -> None:
    """Write a BERT in the format of google-bert/bert-base-uncased, for `towers.bert` and transformers."""
    from transformers import BertConfig, BertForMaskedLM

    tokenizer = _wordpiece(captions)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=LENGTH,
        initializer_range=WIDTH
        ** -0.5,  # with the usual 0.02, made for wide networks, all texts would get nearly the same features
    )
    _save(folder, lambda: BertForMaskedLM(config), tokenizer)


def write_vq(folder: Path) -> None:
    """Write an image tokenizer in the format of `sightword export`: 64 × 64 pixels to 8 × 8 ids of 64 codes."""
    from sightword.ops.quantize import VectorQuantizer
    from sightword.towers.vq.image import VQImage
    from sightword.towers.vq.network import Decoder, Encoder

    def build() -> VQImage:
        encoder = Encoder(channels=(16, 16, 32), latent_channels=16, num_res_blocks=1)
        decoder = Decoder(channels=(32, 16, 16), latent_channels=16, num_res_blocks=1)
        return VQImage(encoder, VectorQuantizer(64, 16), decoder)

    _seeded(build).save_pretrained(folder)


def _save(folder: Path, build: "Callable[[], PreTrainedModel]", tokenizer: "PreTrainedTokenizerFast") -> None:
    """Write a network with its tokenizer."""
    from sightword.towers.hugging_face import quiet

    with quiet():
        model = _seeded(build)
        model.config.update({"domain": DRAWN})  # a config keeps what it has no field for
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _seeded(build: Callable[[], ModuleT]) -> ModuleT:
    """Return a network with the same weights each time; torch's global RNG is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


def _words(captions: Iterable[str]) -> list[str]:
    """Return the distinct words and punctuation marks, lower case, sorted."""
    apart = str.maketrans({",": " , ", ".": " . "})
    return sorted({word for caption in captions for word in caption.lower().translate(apart).split()})


def _unigram(captions: Iterable[str], names: dict[str, str]) -> "PreTrainedTokenizerFast":
    """Return a SentencePiece tokenizer as of T5 and SigLIP: ▁ marks a space, </s> ends each text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = list(dict.fromkeys([names["pad_token"], "</s>", "<unk>"]))
    words = _words(captions)
    letters = sorted({letter for word in words for letter in word} | {"▁"})
    pieces = [(token, 0.0) for token in special] + [(f"▁{word}", -4.0) for word in words]
    pieces += [(letter, -12.0) for letter in letters]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=special.index("<unk>")))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(",", " ,"), normalizers.Replace(".", " .")]
    )
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    end = special.index("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _wordpiece(captions: Iterable[str]) -> "PreTrainedTokenizerFast":
    """Return a WordPiece tokenizer as of BERT: [CLS] … [SEP], whole words or their pieces."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = _words(captions)
    letters = sorted({letter for word in words for letter in word})
    pieces = [*special, *words, *(letter for letter in letters if letter not in words)]
    pieces += [f"##{letter}" for letter in letters]
    tokenizer = Tokenizer(models.WordPiece(vocab={piece: id_ for id_, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
