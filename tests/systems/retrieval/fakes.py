"""Tiny towers in their libraries' formats, configs of every phase on them, and batches of made-up persons."""

import torch
from made import write_clip

from sightword.miniature import tower
from sightword.systems.retrieval.config import RetrievalConfig
from sightword.systems.retrieval.data import PedesBatch

CAPTIONS = [
    "a man in a red coat",
    "a woman with a blue bag and a long green skirt",
    "the man wears black shoes",
    "a boy",
    "a woman in a yellow shirt carries a bag",
    "an old man with a hat and a white coat",
]
SIZE, GRID, K = (48, 16), (6, 2), 16  # pixels; image tokens and codes alike; codes of the book

IRRA = {"image": "clip", "text": "clip", "project": "none", "id_weight": 1.0, "mlm_weight": 1.0, "mlm_heads": 4}
PHASE1 = {"image": "clip"}
PHASE2 = {"image": "siglip"}
CONTROL = {"image": "siglip", "text": "siglip", "project": "none"}
PHASE3 = {"image": "siglip", "shared": True, "project": "shared"}
PHASE4 = {**PHASE3, "enable_gen": True, "gen_ramp": 4}
PHASES = {"irra": IRRA, "phase1": PHASE1, "phase2": PHASE2, "control": CONTROL, "phase3": PHASE3, "phase4": PHASE4}


def write_towers(folder, captions=CAPTIONS):
    """Folder → {clip, siglip, t5} as System has them."""
    write_clip(folder / "clip")
    tower.write_siglip(folder / "siglip", captions)
    tower.write_t5(folder / "t5", captions)
    return {"clip": str(folder / "clip"), "clip_tag": "", "siglip": str(folder / "siglip"), "t5": str(folder / "t5")}


def system(towers, **values):
    small = {"image_size": list(SIZE), "vq_grid": list(GRID), "num_codes": K, "embed_dim": 24, "num_ids": 9}
    return RetrievalConfig(**{**towers, **small, **values})


def hidden_cells(rows, generator):
    """(rows, N) bool: half of the cells of each."""
    lot = torch.rand(rows, GRID[0] * GRID[1], generator=generator)
    return lot.argsort(1) < lot.shape[1] // 2


def pixels_of(hidden):
    """Cells (B, N) as pixels (B, 1, H, W)."""
    cells = hidden.unflatten(1, GRID)
    return cells.repeat_interleave(SIZE[0] // GRID[0], 1).repeat_interleave(SIZE[1] // GRID[1], 2)[:, None]


def batch_for(tokenizer, pids=(0, 1, 2, 3, 1, 4), seed=0, captions=CAPTIONS):
    """A batch with all its optional fields; the generation view is another picture of the same person."""
    generator = torch.Generator().manual_seed(seed)
    number = len(pids)
    captions = [captions[i % len(captions)] for i in range(number)]
    ids, mask = tokenizer(captions)
    masked, labels = ids.clone(), torch.full_like(ids, -100)
    labels[:, 1], masked[:, 1] = ids[:, 1], tokenizer.eos
    images = torch.rand(number, 3, *SIZE, generator=generator) * 2 - 1
    view = torch.rand(number, 3, *SIZE, generator=generator) * 2 - 1
    hidden = hidden_cells(number, generator)
    return PedesBatch(
        images,
        torch.tensor(pids),
        ids,
        mask,
        torch.arange(number),
        masked,
        labels,
        view * ~pixels_of(hidden),
        torch.randint(0, K, (number, GRID[0] * GRID[1]), generator=generator),
        hidden,
    )
