"""Tiny towers in the real libraries' own formats, for whoever needs an encoder and no meaning.

They are drawn at random and never trained (the CLIP of `miniature.clip` is); their tokenizers are trained, on captions
of the small worlds, so that every word of those is a token of its own. The published checkpoints are folders of the
very same files, opened by the very same code.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

IMAGE, PATCH, WIDTH, LENGTH = 64, 8, 64, 64


def write_siglip(folder: Path, captions: Iterable[str]) -> None:
    """A SigLIP as google/siglip-base-patch16-224 is: read by `towers.siglip` and transformers."""
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    tokenizer = _unigram(captions, {"pad_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"})
    sizes = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTH, "projection_size": WIDTH}
    text |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "eos")}
    vision = {**sizes, "image_size": IMAGE, "patch_size": PATCH}
    _save(folder, lambda: SiglipModel(SiglipConfig(text_config=text, vision_config=vision)), tokenizer)
    half = [0.5] * 3
    processor = SiglipImageProcessor(size={"height": IMAGE, "width": IMAGE}, image_mean=half, image_std=half)
    processor.save_pretrained(folder)


def write_t5(folder: Path, captions: Iterable[str]) -> None:
    """A T5 with its decoder, as google-t5/t5-small is: read by `towers.t5` and transformers."""
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
    """A BERT as google-bert/bert-base-uncased is: read by `towers.bert` and transformers."""
    from transformers import BertConfig, BertForMaskedLM

    tokenizer = _wordpiece(captions)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=LENGTH,
        initializer_range=WIDTH**-0.5,  # the usual 0.02 is for wide ones: here all texts would come out alike
    )
    _save(folder, lambda: BertForMaskedLM(config), tokenizer)


def write_vq(folder: Path) -> None:
    """An image tokenizer as `sightword export` writes it: 64 × 64 pixels to 8 × 8 ids of 64 codes."""
    from sightword.ops.quantize import VectorQuantizer
    from sightword.towers.vq.image import VQImage
    from sightword.towers.vq.network import Decoder, Encoder

    def build() -> VQImage:
        encoder = Encoder(channels=(16, 16, 32), latent_channels=16, num_res_blocks=1)
        decoder = Decoder(channels=(32, 16, 16), latent_channels=16, num_res_blocks=1)
        return VQImage(encoder, VectorQuantizer(64, 16), decoder)

    _seeded(build).save_pretrained(folder)


def _save(folder: Path, build: Callable[[], Any], tokenizer: Any) -> None:
    from sightword.towers.hugging_face import quiet

    with quiet():
        _seeded(build).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _seeded(build: Callable[[], Any]) -> Any:
    """The same weights each time, and the global generator untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


def _words(captions: Iterable[str]) -> list[str]:
    apart = str.maketrans({",": " , ", ".": " . "})
    return sorted({word for caption in captions for word in caption.lower().translate(apart).split()})


def _unigram(captions: Iterable[str], names: dict[str, str]) -> Any:
    """SentencePiece's kind, as of T5 and SigLIP: pieces with a mark for the space, </s> at the end of each text."""
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


def _wordpiece(captions: Iterable[str]) -> Any:
    """BERT's kind: [CLS] … [SEP], words or their pieces."""
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
