"""Synthetic RGB-D recordings of furnished rooms in ScanNet's layout, with exact depth, labels and visibility.

A studio is one large room of three places side by side: a bedroom, a kitchen and a home office, each with walls and
floor of its own, and things of `scene` along the walls, built of the same boxes, in the same colours and light. A model
trained on `scene` therefore transfers to these rooms. Rays are cast at convex solids, so depth, labels, instances and
visibility are exact, at any pixel and for any point.

World: x right, y away, z up, in metres; the floor is z = 0, the middle of the room x = y = 0. Camera: x right, y down,
z forward; pixel centres on whole numbers; a pose is camera-to-world. Depth is along z.

Legend: R rays; N points; V views; S solids; H, W pixels. Labels number [*OBJECTS, *PLACES] from 1; instances number the
things of a room from 1; walls, floor and ceiling are instance 0 and the label of their place.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from sightword.miniature import scene
from sightword.miniature.scene import NORMALS, OBJECTS, PLACES, ROOMS, Light
from sightword.storage.atomic import write_atomically
from sightword.storage.domain import write_card
from sightword.storage.ply import Cloud, write_ply

WORDS = (*OBJECTS, *PLACES)  # label 1 is the first of them
WIDE, DEEP, HIGH = 6.4, 5.4, 2.5  # metres
WALK = 1.05  # radius of the camera's path, metres
FREE = 1.6  # radius around the middle without things, metres
TEXEL = 0.02
SMOOTH = 2  # rays per pixel and axis that a colour is the mean of
NEAR = 0.1  # least depth that a camera sees, metres
SIDES = np.array([*scene.SIDES, (0, 2, 3, 1)])  # front back left right top bottom
FACING = np.array([*NORMALS, (0, 0, -1)])

# The six inner faces of the room: into the room, to the right and upwards as one looks at them.
INWARDS = np.array([(0, -1, 0), (0, 1, 0), (1, 0, 0), (-1, 0, 0), (0, 0, 1), (0, 0, -1)], float)
RIGHT = np.array([(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (1, 0, 0), (1, 0, 0)], float)
UP = np.array([(0, 0, 1)] * 4 + [(0, 1, 0)] * 2, float)
LOW, TOP = np.array((-WIDE / 2, -DEEP / 2, 0)), np.array((WIDE / 2, DEEP / 2, HIGH))


class Stand(NamedTuple):
    """Position of a thing in a room, in metres and radians."""

    word: str
    at: tuple[float, float, float]
    yaw: float
    scale: float


class Paper(NamedTuple):
    """Texture of an inner face of the room, from its lower left corner; one value per texel of TEXEL metres."""

    colours: np.ndarray  # (h, w, 3) float32
    labels: np.ndarray  # (h, w) uint8


class Solids(NamedTuple):
    """Convex solids of six faces each: x is inside where normals · x <= reach for all six."""

    normals: np.ndarray  # (S, 6, 3), outwards
    reach: np.ndarray  # (S, 6)
    colours: np.ndarray  # (S, 6, 3), in the light
    labels: np.ndarray  # (S,) uint8
    instances: np.ndarray  # (S,) uint16
    middle: np.ndarray  # (S, 3)
    radius: np.ndarray  # (S,) of a ball around it


class Studio(NamedTuple):
    """A furnished room."""

    seed: int
    places: tuple[str, ...]  # three, from the left to the right
    stands: tuple[Stand, ...]
    papers: tuple[Paper, ...]  # of the six inner faces
    solids: Solids


class Camera(NamedTuple):
    """A pinhole camera with its pose."""

    K: np.ndarray  # (3, 3)
    pose: np.ndarray  # (4, 4) camera-to-world
    size: tuple[int, int]  # H, W

    def rays(self) -> np.ndarray:
        """Return one ray per pixel in world coordinates, (3, H·W), of length 1 along the optical axis."""
        v, u = np.indices(self.size).reshape(2, -1).astype(float)
        seen = np.stack([(u - self.K[0, 2]) / self.K[0, 0], (v - self.K[1, 2]) / self.K[1, 1], np.ones_like(u)])
        return self.pose[:3, :3] @ seen


class Hits(NamedTuple):
    """Surfaces hit by rays."""

    length: np.ndarray  # (R,) in lengths of the ray
    colours: np.ndarray  # (R, 3) float, 0 to 255
    labels: np.ndarray  # (R,) uint8
    instances: np.ndarray  # (R,) uint16


class View(NamedTuple):
    """Ground truth of a frame."""

    depth: np.ndarray  # (H, W) metres
    labels: np.ndarray  # (H, W) uint8
    instances: np.ndarray  # (H, W) uint16


# ------------------------------------------------------------------------------------------------------- furnishing


def furnish(seed: int) -> Studio:
    """Return the studio of a seed."""
    rng = np.random.default_rng([seed, 2])
    places = tuple(rng.permutation(list(ROOMS)).tolist())
    towards = rng.uniform((-0.6, -1, 0.5), (0.6, -0.2, 1))
    light = Light(towards / np.linalg.norm(towards), rng.uniform(0.7, 0.85))
    stands = _stands(rng)
    return Studio(seed, places, stands, _papers(rng, places, light), _solids(stands, light))


def _stands(rng: np.random.Generator) -> tuple[Stand, ...]:
    """Place every indoor thing, and some twice, without contact and away from the camera's path."""
    words = [word for word, thing in OBJECTS.items() if thing.where != "outdoors"]
    small = ["chair", "potted plant", "dog", "chair", "tv", "person", "dog", "potted plant"]
    stands: list[Stand] = []
    taken: list[tuple[float, float, float]] = [(0, 0, FREE)]  # discs
    for word in sorted(words, key=lambda word: -OBJECTS[word].size[0]) + rng.permutation(small).tolist():
        for _ in range(60):
            stand = _against_a_wall(rng, word) if word in ("bed", "tv") else _anywhere(rng, word)
            (x, y, _), radius = stand.at, _radius(stand)
            if all(np.hypot(x - a, y - b) > radius + r for a, b, r in taken):
                stands.append(stand)
                taken.append((x, y, radius))
                break
    return tuple(stands)


def _radius(stand: Stand) -> float:
    across, deep, _ = OBJECTS[stand.word].size
    return 0.92 * stand.scale * float(np.hypot(across, deep)) / 2


def _against_a_wall(rng: np.random.Generator, word: str) -> Stand:
    """Place a thing with its back to a random wall."""
    face, scale = int(rng.integers(4)), float(rng.uniform(0.9, 1.1))
    across, deep, _ = (scale * side for side in OBJECTS[word].size)
    half, far = (WIDE / 2, DEEP / 2) if face < 2 else (DEEP / 2, WIDE / 2)
    along = rng.uniform(-1, 1) * (half - across / 2 - 0.1)
    x, y, _ = RIGHT[face] * along - INWARDS[face] * (far - deep / 2 - 0.05)
    return Stand(word, (float(x), float(y), 0.0), (0, np.pi, np.pi / 2, -np.pi / 2)[face], scale)


def _anywhere(rng: np.random.Generator, word: str) -> Stand:
    """Place a thing anywhere, facing roughly the middle of the room."""
    scale = float(rng.uniform(0.85, 1.15))
    margin = _radius(Stand(word, (0, 0, 0), 0, scale)) + 0.05
    x, y = rng.uniform(-1, 1, 2) * (WIDE / 2 - margin, DEEP / 2 - margin)
    return Stand(word, (float(x), float(y), 0.0), float(np.arctan2(-x, y) + rng.uniform(-0.9, 0.9)), scale)


def _solids(stands: Sequence[Stand], light: Light) -> Solids:
    """Return the boxes of all things as solids; shading ignores the taper of boxes, as in `scene`."""
    parts = []
    for number, (word, at, yaw, scale) in enumerate(stands, 1):
        corners, tones, turn = scene.boxes_of(word, at, yaw, scale)  # (P, 8, 3), (P, 3), (3, 3)
        sides = corners[:, SIDES]  # (P, 6, 4, 3)
        normals = np.cross(sides[:, :, 2] - sides[:, :, 0], sides[:, :, 3] - sides[:, :, 1])
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        middle = corners.mean(1)
        outwards = np.einsum("pfi,pfi->pf", normals, sides.mean(2) - middle[:, None])
        normals *= np.sign(outwards)[..., None]
        reach = np.einsum("pfi,pfi->pf", normals, sides[:, :, 0])
        colours = tones[:, None] * light.shade(FACING @ turn)[:, None]
        labels = np.full(len(tones), 1 + WORDS.index(word), np.uint8)
        radius = np.linalg.norm(corners - middle[:, None], axis=-1).max(1)
        parts.append((normals, reach, colours, labels, np.full(len(tones), number, np.uint16), middle, radius))
    return Solids(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _papers(rng: np.random.Generator, places: Sequence[str], light: Light) -> tuple[Paper, ...]:
    """Return the textures of all faces; each wall of a place has what `scene` draws on its far wall."""
    papers = tuple(_blank(face) for face in range(6))
    bright = light.shade(INWARDS).tolist()
    edges = np.linspace(-WIDE / 2, WIDE / 2, len(places) + 1)
    for number, (place, left, right) in enumerate(zip(places, edges, edges[1:], strict=False)):
        ends = [face for face, at in ((2, 0), (3, len(places) - 1)) if at == number]
        for face in (0, 1, *ends):
            half, at = ((right - left) / 2, (left + right) / 2 * RIGHT[face, 0]) if face < 2 else (DEEP / 2, 0.0)
            corners, tones = _drawn(rng, place, half, bright[face], bright[4])
            _paint(papers[face], place, at, half, *_flat(corners, tones, 1, DEEP))
            if face == 0:  # its floor and its ceiling, too
                _paint(papers[4], place, at, half, *_flat(corners, tones, 2, 0.0))
                _paint(papers[5], place, at, half, *_flat(corners, tones, 2, HIGH))
    return papers


def _blank(face: int) -> Paper:
    across, high = np.abs(RIGHT[face] @ (TOP - LOW)), np.abs(UP[face] @ (TOP - LOW))
    shape = round(high / TEXEL), round(across / TEXEL)
    return Paper(np.zeros((*shape, 3), np.float32), np.zeros(shape, np.uint8))


def _drawn(rng: np.random.Generator, place: str, half: float, back: float, up: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the faces (F, 4, 3) of a place in `scene`, and their colours (F, 3), mixed with grey as there."""
    faces = PLACES[place].faces(rng, scene.Room(-half, half, DEEP, HIGH, (back, back), back, up))
    tones = np.array([np.array(face.colour) * face.bright for face in faces])
    return np.array([face.corners for face in faces]), 0.9 * tones + 0.1 * tones.mean(-1, keepdims=True)


def _flat(corners: np.ndarray, tones: np.ndarray, axis: int, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the faces in the plane axis = level: edges (F, 4), left low right top, and colours (F, 3)."""
    kept = np.isclose(corners[:, :, axis], level).all(1)
    across = np.delete(corners[kept], axis, axis=2)  # (F, 4, 2)
    return np.concatenate([across.min(1), across.max(1)], 1), tones[kept]


def _paint(paper: Paper, place: str, at: float, half: float, edges: np.ndarray, tones: np.ndarray) -> None:
    """Draw rectangles onto the texture of a place around `at`, later ones over earlier ones. The first one, the
    background, also fills what it does not reach, because floors in `scene` begin a little before the camera."""
    high, wide = paper.labels.shape
    start, stop = (round((at + side * half) / TEXEL + wide / 2) for side in (-1, 1))
    paper.labels[:, start:stop] = 1 + WORDS.index(place)
    paper.colours[:, start:stop] = tones[0]
    columns = np.rint((edges[:, ::2] + at) / TEXEL + wide / 2).astype(int).clip(start, stop)
    rows = np.rint(edges[:, 1::2] / TEXEL).astype(int).clip(0, high)
    for (x0, x1), (y0, y1), tone in zip(columns.tolist(), rows.tolist(), tones, strict=True):
        paper.colours[y0:y1, x0:x1] = tone


# ----------------------------------------------------------------------------------------------------------- looking


@np.errstate(divide="ignore", invalid="ignore")
def cast(studio: Studio, origin: np.ndarray, rays: np.ndarray) -> Hits:
    """Return what rays (3, R) from one origin (3,) inside the room hit first."""
    length, colours, labels = _walls(studio, origin, rays)
    instances = np.zeros(len(length), np.uint16)
    solids, squared = studio.solids, (rays**2).sum(0)
    for thing in range(1, len(studio.stands) + 1):
        parts = np.flatnonzero(solids.instances == thing)
        middle = solids.middle[parts].mean(0)
        radius = (np.linalg.norm(solids.middle[parts] - middle, axis=1) + solids.radius[parts]).max()
        near = np.flatnonzero(_passes(origin, rays, squared, middle, radius))
        for number in parts.tolist():
            met = near[_passes(origin, rays[:, near], squared[near], solids.middle[number], solids.radius[number])]
            enters, face = _enters(solids, number, origin, rays[:, met])
            first = enters < length[met]
            met, face = met[first], face[first]
            length[met], colours[met] = enters[first], solids.colours[number][face]
            labels[met], instances[met] = solids.labels[number], thing
    return Hits(length, colours, labels, instances)


def _passes(origin: np.ndarray, rays: np.ndarray, squared: np.ndarray, middle: np.ndarray, radius: float) -> np.ndarray:
    """Return which rays (3, R), of squared lengths (R,), meet a ball, (R,) bool: those whose squared distance from its
    middle, |middle − origin|² less the squared part along the ray, is at most radius²."""
    towards = middle - origin
    along = towards @ rays
    return along * np.abs(along) >= (towards @ towards - radius**2) * squared


def _walls(studio: Studio, origin: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where rays leave the room: length, colour and label."""
    ends = np.where(rays > 0, (TOP - origin)[:, None], (LOW - origin)[:, None]) / rays  # (3, R)
    ends[rays == 0] = np.inf
    axis = ends.argmin(0)
    length = ends.min(0)
    up = rays[axis, np.arange(len(axis))] > 0
    face = np.array([(2, 3), (1, 0), (4, 5)])[axis, up.astype(int)]
    colours, labels = np.empty((len(face), 3), np.float32), np.empty(len(face), np.uint8)
    for number, paper in enumerate(studio.papers):
        met = np.flatnonzero(face == number)
        points = origin[:, None] + length[met] * rays[:, met] - (TOP + LOW)[:, None] / 2
        high, wide = paper.labels.shape
        column = ((RIGHT[number] @ points) / TEXEL + wide / 2).astype(int).clip(0, wide - 1)
        row = ((UP[number] @ points) / TEXEL + high / 2).astype(int).clip(0, high - 1)
        colours[met], labels[met] = paper.colours[row, column], paper.labels[row, column]
    return length, colours, labels


def _enters(solids: Solids, number: int, origin: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance along rays (3, R) to a solid, infinite for a miss, and the index of the face hit."""
    slope = solids.normals[number] @ rays  # (6, R)
    at = (solids.reach[number] - solids.normals[number] @ origin)[:, None] / slope  # ±inf along a face, nan in it
    inwards = np.where(slope < 0, at, -np.inf)
    face = inwards.argmax(0)
    enters = np.take_along_axis(inwards, face[None], 0)[0]
    leaves = np.fmin.reduce(np.where(slope < 0, np.inf, at))
    enters[(enters >= leaves) | (enters <= 0)] = np.inf
    return enters, face


def view(studio: Studio, camera: Camera) -> View:
    """Return depth, labels and instances at the pixel centres."""
    hits = cast(studio, camera.pose[:3, 3], camera.rays())
    return View(*(part.reshape(camera.size) for part in (hits.length, hits.labels, hits.instances)))


def photo(studio: Studio, camera: Camera) -> np.ndarray:
    """Return the colour image of a camera, (H, W, 3) uint8; each pixel is the mean of SMOOTH² rays."""
    h, w = camera.size
    K = camera.K.copy()
    K[:2] *= SMOOTH
    K[:2, 2] += (SMOOTH - 1) / 2
    fine = Camera(K, camera.pose, (h * SMOOTH, w * SMOOTH))
    colours = cast(studio, fine.pose[:3, 3], fine.rays()).colours
    return colours.reshape(h, SMOOTH, w, SMOOTH, 3).mean((1, 3)).round().clip(0, 255).astype(np.uint8)


def seen(studio: Studio, xyz: np.ndarray, camera: Camera, slack: float = 0.005) -> np.ndarray:
    """Return which points (N, 3) of the room's surfaces are visible to a camera, (N,) bool, by casting a ray at each.

    slack: how many metres nearer than the point the ray may end; a point of a rounded file lies a little inside.
    """
    R, t = camera.pose[:3, :3], camera.pose[:3, 3]
    x, y, z = ((xyz - t) @ R).T
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = camera.K[0, 0] * x / z + camera.K[0, 2], camera.K[1, 1] * y / z + camera.K[1, 2]
    h, w = camera.size
    inside = (z > NEAR) & (u >= -0.5) & (u < w - 0.5) & (v >= -0.5) & (v < h - 0.5)
    rays = (xyz[inside] - t).T
    free = cast(studio, t, rays).length
    inside[inside] = (1 - free) * np.linalg.norm(rays, axis=0) <= slack
    return inside


def orbit(studio: Studio, count: int) -> np.ndarray:
    """Return the poses (V, 4, 4) of a camera on a circle around the middle of a room, looking across it."""
    rng = np.random.default_rng([studio.seed, 3])
    turns = 2 * np.pi * (np.arange(count) + rng.random()) / count
    poses = np.tile(np.eye(4), (count, 1, 1))
    for pose, turn in zip(poses, turns, strict=True):
        out = np.array((np.cos(turn), np.sin(turn), 0))
        side = np.array((-out[1], out[0], 0))
        at = out * WALK + (0, 0, rng.uniform(1.3, 1.7))
        look = -out * 2.2 + side * rng.uniform(-0.4, 0.4) + (0, 0, rng.uniform(0.6, 0.8))
        forward = (look - at) / np.linalg.norm(look - at)
        right = np.cross(forward, (0, 0, 1.0))
        right /= np.linalg.norm(right)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
        pose[:3, 3] = at
    return poses


def intrinsics(size: tuple[int, int], focal: float = 0.85) -> np.ndarray:
    """Return intrinsics (3, 3) with a focal length of `focal` times the image height. size: (H, W)."""
    h, w = size
    return np.array([(focal * h, 0, (w - 1) / 2), (0, focal * h, (h - 1) / 2), (0, 0, 1)])


def scan(studio: Studio, voxel: float = 0.05, looks: int = 16) -> Cloud:
    """Return a labelled cloud of the surfaces visible from `looks` poses, one point per voxel of `voxel` metres."""
    size = (72, 96)
    found = []
    for pose in orbit(studio, looks):
        camera = Camera(intrinsics(size, 0.7), pose, size)
        rays = camera.rays()
        hits = cast(studio, pose[:3, 3], rays)
        found.append((pose[:3, 3] + (hits.length * rays).T, hits.colours, hits.labels, hits.instances))
    xyz, rgb, labels, instances = (np.concatenate(part) for part in zip(*found, strict=True))
    cells = np.floor((xyz - LOW) / voxel + 1e-6).astype(np.int64)  # a wall is not in two layers of voxels
    first = np.sort(np.unique(cells @ (1 << 40, 1 << 20, 1), return_index=True)[1])
    return Cloud(
        torch.from_numpy(xyz[first].astype(np.float32)),
        torch.from_numpy(rgb[first].round().clip(0, 255).astype(np.uint8)),
        torch.from_numpy(labels[first].astype(np.int64)),
        torch.from_numpy(instances[first].astype(np.int64)),
    )


# ----------------------------------------------------------------------------------------------------------- writing

SPLITS = {"train": (0, 1, 2, 5, 6, 7), "val": (3, 8, 9), "test": (4, 10, 11, 12)}  # seeds
FEW = {"train": (0, 1, 2), "val": (3,), "test": (4,)}  # for a world that is quicker to write
SEEDS = [seed for seeds in SPLITS.values() for seed in seeds]
STEP = 20  # from one frame's number to the next, as in scannet200-mv
COLOR, DEPTH = (144, 192), (96, 128)  # H, W


def name_of(seed: int) -> str:
    """Return the scene name of a seed."""
    return f"scene{seed:04d}_00"


def write_scene(
    root: Path,
    seed: int,
    frames: int = 10,
    color: tuple[int, int] = COLOR,
    depth: tuple[int, int] = DEPTH,
    voxel: float = 0.05,
    noise: float = 0.0,
    holes: float = 0.0,
) -> Studio:
    """Write a studio's frames to 2D/<scene> and its labelled cloud to 3D/<scene>, in the layout of scannet200-mv.

    label/ and instance/ are images of the depth frames' size. color, depth: (H, W). noise: standard deviation of the
    depth in metres at 1 m; it grows with depth² (a Kinect's is 0.002). holes: fraction of pixels without depth. Without
    both, depth is exact up to rounding to millimetres.
    """
    write_card(root, "Furnished rooms, as a moving depth camera records them")
    studio, name = furnish(seed), name_of(seed)
    folder = root / "2D" / name
    for part in ("color", "depth", "pose", "label", "instance", "intrinsic"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for part, size in (("color", color), ("depth", depth)):
        _write_matrix(folder / "intrinsic" / f"intrinsic_{part}.txt", _four(intrinsics(size)))
        _write_matrix(folder / "intrinsic" / f"extrinsic_{part}.txt", np.eye(4))
    for number, pose in enumerate(orbit(studio, frames)):
        rng = np.random.default_rng([seed, 4, number])
        index = number * STEP
        picture = Image.fromarray(_grainy(rng, photo(studio, Camera(intrinsics(color), pose, color))))
        found = view(studio, Camera(intrinsics(depth), pose, depth))
        _save(picture, folder / "color" / f"{index}.jpg")
        _save(Image.fromarray(_measured(rng, found.depth, noise, holes)), folder / "depth" / f"{index}.png")
        _save(Image.fromarray(found.labels), folder / "label" / f"{index}.png")
        _save(Image.fromarray(found.instances), folder / "instance" / f"{index}.png")
        _write_matrix(folder / "pose" / f"{index}.txt", pose)
    _write_cloud(root / "3D" / name, name, scan(studio, voxel))
    return studio


def write_rooms(
    root: Path,
    frames: int = 10,
    color: tuple[int, int] = COLOR,
    depth: tuple[int, int] = DEPTH,
    voxel: float = 0.05,
    splits: Mapping[str, Sequence[int]] = SPLITS,
) -> None:
    """Write the rooms of `sightword mini` with split lists and the names of the labels: six for training, three for
    validation and four for testing, or those of other `splits`, split → seeds."""
    meta = root / "meta_data"
    meta.mkdir(parents=True, exist_ok=True)
    for split, seeds in splits.items():
        for seed in seeds:
            write_scene(root, seed, frames, color, depth, voxel, noise=0.001, holes=0.03)
        _write_text(meta / f"scannetv2_{split}.txt", "".join(f"{name_of(seed)}\n" for seed in seeds))
    write_classes(meta)


def write_classes(folder: Path) -> None:
    """Write scannetv2-labels.combined.tsv: the indoor classes by label."""
    indoors = [word for word in WORDS if (OBJECTS.get(word) or PLACES[word]).where != "outdoors"]
    rows = [f"{1 + WORDS.index(word)}\t{word}\t{word}\n" for word in indoors]
    _write_text(folder / "scannetv2-labels.combined.tsv", "id\traw_category\tcategory\n" + "".join(rows))


def _write_cloud(folder: Path, name: str, cloud: Cloud) -> None:
    """Write the cloud twice, as ScanNet does: in its own colours, and in those of its labels."""
    assert cloud.label is not None
    folder.mkdir(parents=True, exist_ok=True)
    palette = [(0, 0, 0), *((OBJECTS.get(word) or PLACES[word]).colour for word in WORDS)]
    write_ply(folder / f"{name}_vh_clean_2.ply", Cloud(cloud.xyz, cloud.rgb))
    write_ply(
        folder / f"{name}_vh_clean_2.labels.ply",
        cloud._replace(rgb=torch.tensor(palette, dtype=torch.uint8)[cloud.label]),
    )


def _grainy(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Return pixels with random exposure and noise, less than in `scene`, as all frames are of one camera."""
    noise = rng.integers(-3, 3, pixels.shape, dtype=np.int8, endpoint=True)
    return (pixels * rng.uniform(0.96, 1.04) + noise).clip(0, 255).astype(np.uint8)


def _measured(rng: np.random.Generator, depth: np.ndarray, noise: float, holes: float) -> np.ndarray:
    """Return depth as a sensor measures it: (H, W) uint16 in millimetres, 0 where unknown."""
    said = depth + noise * depth**2 * rng.standard_normal(depth.shape)
    return np.where(rng.random(depth.shape) < holes, 0, np.rint(1000 * said)).astype(np.uint16)


def _four(K: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = K
    return matrix


def _write_matrix(path: Path, matrix: np.ndarray) -> None:
    """Write a matrix with six decimals, as ScanNet's exporter does."""
    _write_text(path, "".join(" ".join(f"{value:.6f}" for value in row) + "\n" for row in matrix.tolist()))


def _write_text(path: Path, text: str) -> None:
    with write_atomically(path) as part:
        part.write_text(text, encoding="utf-8")


def _save(picture: Image.Image, path: Path) -> None:
    with write_atomically(path) as part:
        picture.save(
            part, "JPEG" if path.suffix == ".jpg" else "PNG", **({"quality": 95} if path.suffix == ".jpg" else {})
        )
