"""Every experiment on data and networks so small that it trains a batch in some hundredths of a second."""

from pathlib import Path

from sightword.miniature import motion, person, room, scene, tower
from sightword.miniature.contents import write_vocabulary
from sightword.miniature.intent import write_intents

TRAINING = {
    "trainer.accelerator": "cpu",
    "trainer.precision": "32-true",
    "trainer.threads": 1,
    "data.num_workers": 0,
    "optim.warmup": 2,
    "trainer.monitor": "",
}


def write_worlds(root: Path, clip: Path, photos: Path) -> dict[str, Path]:
    """Write data for all systems below `root`. clip: a folder of a CLIP. Return name → folder."""
    write_intents(root / "intent", train=16, val=8, test=4)
    write_vocabulary(root / "vocabulary")
    scene.write(root / "scenes", count=12, seed=scene.HELD_OUT)
    person.write_cuhk(root / "people", person.Sizes(8, 4, 4), size=(96, 32))
    captions = [" ".join(person.vocabulary())]
    tower.write_siglip(root / "siglip", captions)
    tower.write_t5(root / "t5", captions)
    tower.write_vq(root / "vq")
    motion.write_motion(root / "motion", motion.Sizes(2, 1, 1, 1))
    tower.write_bert(root / "bert", [" ".join(motion.vocabulary())])
    room.write_rooms(root / "rooms", frames=3, color=(48, 64), depth=(36, 48), voxel=0.15, splits=room.FEW)
    return {"root": root, "clip": clip, "photos": photos}


def arguments_of(experiment: str, world: dict[str, Path]) -> list[str]:
    """Return the command line's arguments that make an experiment small, without its length and cadences."""
    system = experiment.split("/")[0]
    values = TRAINING | {"tokenizer": _tokenizer, "intent": _intent, "retrieval": _retrieval, "skeleton": _skeleton,
                         "points": _points}[system](experiment.split("/")[1], world)  # fmt: skip
    scale = [] if system == "tokenizer" or experiment.endswith("_mini") else ["scale=mini"]
    return [f"experiment={experiment}", *scale, *(f"{key}={value}" for key, value in values.items())]


def _tokenizer(name: str, world: dict[str, Path]) -> dict[str, object]:
    small = {"latent_channels": 8, "encoder_channels": "[8,8]", "decoder_channels": "[8,8]", "num_res_blocks": 1,
             "num_embeddings": 16, "embedding_dim": 8, "use_lpips": False}  # fmt: skip
    found: dict[str, object] = {f"system.{key}": value for key, value in small.items()}
    found |= {"data.root": world["photos"], "data.image_size": 16, "data.batch_size": 2, "data.crops": 2}
    if name == "vqgan":
        found |= {"system.disc_start": 1, "system.disc_warmup": 1, "system.disc_channels": 4, "system.disc_layers": 1}
    return found


def _intent(name: str, world: dict[str, Path]) -> dict[str, object]:
    root = world["root"]
    found: dict[str, object] = {"system.tower": world["clip"], "data.root": root / "intent", "data.batch_size": 8}
    found |= {"system.vocabulary": root / "vocabulary", "system.semantic_anchors_path": root / "anchors"}
    found |= {"system.calibration_labels": root / "scenes" / "captions.json"}
    found |= {"init_from": ""} if name == "stage2" else {}  # instead of a run of stage 1
    return found | {"data.cache": root / "tokens", "data.ids": root / "ids" if name == "stage1" else ""}


def _retrieval(name: str, world: dict[str, Path]) -> dict[str, object]:
    root = world["root"]
    found: dict[str, object] = {
        "system.clip": world["clip"],
        "system.siglip": root / "siglip",
        "system.t5": root / "t5",
    }
    found |= {"data.root": root / "people", "data.batch_size": 8, "system.num_ids": 8, "system.mlm_heads": 4}
    if name.startswith("phase4"):
        found |= {"data.vq_ids": root / "vq_ids", "system.vq_weights": root / "vq"}
    return found


def _skeleton(name: str, world: dict[str, Path]) -> dict[str, object]:
    folder = world["root"] / "motion"
    found: dict[str, object] = {"system.text": world["root"] / "bert", "system.labels": folder / "labels.json"}
    found["system.joints"] = "coco17"
    if name == "msr":  # these skeletons are of images and have no depth
        found |= {"data.turn": 0, "data.tilt": 0}
    return found | {"data.annotations": folder / "annotations.pkl", "data.frames": 8, "data.batch_size": 4}


def _points(name: str, world: dict[str, Path]) -> dict[str, object]:
    rooms = world["root"] / "rooms"
    found: dict[str, object] = {"system.clip": world["clip"], "system.labels": rooms, "system.clip_size": "[32,48]"}
    lists = {"scenes": "train", "val_scenes": "val", "test_scenes": "test"}
    found |= {f"data.{key}": rooms / "meta_data" / f"scannetv2_{split}.txt" for key, split in lists.items()}
    cache = rooms / ("value" if name.endswith("_mini") else "qq")  # of another token type
    found["system.clip_dtype"] = "fp32"  # bf16 takes longer on CPUs
    return found | {"data.root": rooms, "data.cache": cache, "data.points": 200, "data.frames": 2}
