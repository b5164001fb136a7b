"""Small rooms in the formats of the benchmarks, written from the descriptions of these formats."""

import json
import shutil

import numpy as np

from sightword.miniature import room
from sightword.miniature.room import HIGH, WORDS
from sightword.storage.ply import read_ply

# id and raw category of what a room contains; a dog is in neither benchmark
SCANNET = {"person": 80, "dog": 9000, "chair": 2, "bed": 11, "tv": 33, "potted plant": 1189}
SCANNET |= {"wall": 1, "floor": 3, "ceiling": 41}
REPLICA = {"chair": 20, "bed": 7, "tv": 87, "potted plant": 44, "wall": 93, "floor": 40, "ceiling": 31}
REPLICA_NAMES = {"tv": "tv-screen", "potted plant": "indoor-plant"}


def objects_of(cloud):
    """(word, vertices) of each thing, and of walls, floor and ceiling."""
    labels, instances, z = cloud.label.numpy(), cloud.instance.numpy(), cloud.xyz[:, 2].numpy()
    found = []
    for number in np.unique(instances[instances > 0]).tolist():
        own = np.flatnonzero(instances == number)
        found.append((WORDS[labels[own[0]] - 1], own))
    shell, low, high = instances == 0, z < 0.02, z > HIGH - 0.02
    parts = (("wall", ~low & ~high), ("floor", low), ("ceiling", high))
    return [*found, *((word, np.flatnonzero(shell & part)) for word, part in parts)]


def write_scannet(root, seeds=(0, 1), **options):
    """Rooms with the annotation of ScanNet: groups of segments, and the table of the labels."""
    for seed in seeds:
        room.write_scene(root, seed, **options)
        name = room.name_of(seed)
        folder = root / "3D" / name
        labels = folder / f"{name}_vh_clean_2.labels.ply"
        cloud = read_ply(labels)
        labels.unlink()
        segments, groups = np.zeros(len(cloud.xyz), int), []
        for number, (word, own) in enumerate(objects_of(cloud)):
            halves = np.array_split(own, 2)  # a group has several segments
            for half, part in enumerate(halves):
                segments[part] = 10 * number + half + 1
            own_segments = [10 * number + half + 1 for half in range(2)]
            groups.append({"id": number, "objectId": number, "segments": own_segments, "label": word})
        write(folder / f"{name}.aggregation.json", {"sceneId": f"scannet.{name}", "segGroups": groups})
        write(folder / f"{name}_vh_clean_2.0.010000.segs.json", {"segIndices": segments.tolist()})
    meta = root / "meta_data"
    meta.mkdir(exist_ok=True)
    rows = [f"{number}\t{word}\t{word}\n" for word, number in SCANNET.items()]
    (meta / "scannetv2-labels.combined.tsv").write_text("id\traw_category\tcategory\n" + "".join(rows))
    return [room.name_of(seed) for seed in seeds]


def write_replica(root, names, seed=0, **options):
    """Rooms with Replica's semantic meshes in <name>/habitat, whose faces name the objects."""
    for number, name in enumerate(names, seed):
        made = root / "made"
        room.write_scene(made, number, **options)
        old = room.name_of(number)
        shutil.move(made / "2D" / old, root / name)
        cloud = read_ply(made / "3D" / old / f"{old}_vh_clean_2.labels.ply")
        shutil.rmtree(made)
        objects = objects_of(cloud)
        described = [
            {"id": at, "class_id": REPLICA.get(word, -1), "class_name": REPLICA_NAMES.get(word, word)}
            for at, (word, _) in enumerate(objects)
        ]
        habitat = root / name / "habitat"
        habitat.mkdir()
        write(habitat / "info_semantic.json", {"objects": described})
        write_mesh(habitat / "mesh_semantic.ply", cloud, [own for _, own in objects])


def write_mesh(file, cloud, objects, sides=4):
    """A binary mesh whose vertices have normals and colours, and whose faces join vertices of one object."""
    vertex = np.zeros(len(cloud.xyz), [*((n, "<f4") for n in ("x", "y", "z", "nx", "ny", "nz")), ("red", "u1"),
                                       ("green", "u1"), ("blue", "u1")])  # fmt: skip
    for axis, name in enumerate("xyz"):
        vertex[name] = cloud.xyz[:, axis].numpy()
    for axis, name in enumerate(("red", "green", "blue")):
        vertex[name] = cloud.rgb[:, axis].numpy()
    face = np.dtype([("n", "u1"), ("at", "<i4", (sides,)), ("object_id", "<i4")])
    faces = []
    for number, own in enumerate(objects):
        if not len(own):
            continue
        rows = np.resize(own, (-(-len(own) // sides), sides))
        part = np.zeros(len(rows), face)
        part["n"], part["at"], part["object_id"] = sides, rows, number
        faces.append(part)
    table = np.concatenate(faces)
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertex)}"]
    head += [f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")]
    head += [f"property uchar {name}" for name in ("red", "green", "blue")]
    head += [f"element face {len(table)}", "property list uchar int vertex_indices", "property int object_id"]
    file.write_bytes("\n".join([*head, "end_header\n"]).encode() + vertex.tobytes() + table.tobytes())


def write(file, value):
    file.write_text(json.dumps(value))
