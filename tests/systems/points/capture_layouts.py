"""Posed frames written in the layouts of other tools, from their descriptions and by nothing of the readers."""

import io
import json
import struct
import zipfile
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from sightword.miniature import room

GL = np.diag((1.0, -1.0, -1.0, 1.0))


class Posed(NamedTuple):
    jpeg: bytes
    depth: np.ndarray  # (H, W) metres, 0 unknown
    pose: np.ndarray  # camera-to-world, OpenCV
    K: np.ndarray  # of colour
    K_depth: np.ndarray

    @property
    def color(self):
        """(H, W, 3) uint8."""
        return np.asarray(Image.open(io.BytesIO(self.jpeg)))

    @property
    def size(self):
        return Image.open(io.BytesIO(self.jpeg)).size[::-1]


def rendered(count=6, color=(96, 128), depth=(48, 64), seed=0, focal=0.85):
    """A small furnished room."""
    studio = room.furnish(seed)
    frames = []
    for pose in room.orbit(studio, count):
        photo = room.photo(studio, room.Camera(room.intrinsics(color, focal), pose, color))
        buffer = io.BytesIO()
        Image.fromarray(photo).save(buffer, "JPEG", quality=95)
        K = room.intrinsics(depth, focal)
        frames.append(
            Posed(
                buffer.getvalue(),
                room.view(studio, room.Camera(K, pose, depth)).depth,
                pose,
                room.intrinsics(color, focal),
                K,
            )
        )
    return frames


def text(rows):
    return "".join(" ".join(map(repr, map(float, row))) + "\n" for row in rows)


def xyzw(pose):
    return Rotation.from_matrix(pose[:3, :3]).as_quat().tolist()


def png(file, depth, unit):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(depth * unit).clip(0, 65535).astype(np.uint16)).save(file)


def put(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content)


def sized(frame):
    """Depth at the size of colour, for layouts that have one camera."""
    image = Image.fromarray(frame.depth.astype(np.float32))
    return np.asarray(image.resize(frame.size[::-1], Image.Resampling.NEAREST))


def four_of(K):
    return [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]


# ------------------------------------------------------------------------------------------------------------ layouts


def tum(folder, frames):
    lines = dict.fromkeys(("rgb", "depth", "groundtruth"), "# list\n# of files\n# timestamp filename\n")
    for number, frame in enumerate(frames):
        time = 1305031102.0 + number / 30
        put(folder / "rgb" / f"{time:.6f}.png", _png(frame.color))
        png(folder / "depth" / f"{time + 0.006:.6f}.png", sized(frame), 5000)
        lines["rgb"] += f"{time:.6f} rgb/{time:.6f}.png\n"
        lines["depth"] += f"{time + 0.006:.6f} depth/{time + 0.006:.6f}.png\n"
        values = [*frame.pose[:3, 3], *xyzw(frame.pose)]
        lines["groundtruth"] += f"{time + 0.003:.6f} " + text([values])
    for name, content in lines.items():
        put(folder / f"{name}.txt", content)


def icl(folder, frames):
    """fy < 0: the published poses are M P M of those of a camera with fy > 0."""
    mirror = np.diag((1.0, -1.0, 1.0, 1.0))
    pairs, poses = "", ""
    for number, frame in enumerate(frames):
        put(folder / "rgb" / f"{number}.png", _png(frame.color))
        png(folder / "depth" / f"{number}.png", sized(frame), 5000)
        pairs += f"{number} depth/{number}.png {number} rgb/{number}.png\n"
        pose = mirror @ frame.pose @ mirror
        poses += f"{number} " + text([[*pose[:3, 3], *xyzw(pose)]])
    put(folder / "associations.txt", pairs)
    put(folder / "livingRoom1.gt.freiburg", poses)


def seven_scenes(folder, frames):
    for number, frame in enumerate(frames):
        put(folder / f"frame-{number:06d}.color.png", _png(frame.color))
        depth = frame.depth.copy()
        depth[depth == 0] = 65.535
        png(folder / f"frame-{number:06d}.depth.png", depth, 1000)
        put(folder / f"frame-{number:06d}.pose.txt", text(frame.pose).replace(" ", "\t"))


def redwood(folder, frames):
    log = ""
    for number, frame in enumerate(frames):
        put(folder / "image" / f"{number + 1:06d}-{33 * number:012d}.jpg", frame.jpeg)
        png(folder / "depth" / f"{number + 1:06d}-{33 * number + 5:012d}.png", sized(frame), 1000)
        log += f"{number} {number} {number + 1}\n" + text(frame.pose)
    put(folder / "trajectory.log", log)
    _intrinsic_json(folder, frames[0])


def open3d(folder, frames):
    cameras = []
    for number, frame in enumerate(frames):
        put(folder / "color" / f"{number:05d}.jpg", frame.jpeg)
        png(folder / "depth" / f"{number:05d}.png", sized(frame), 1000)
        cameras.append(
            {
                "class_name": "PinholeCameraParameters",
                "extrinsic": np.linalg.inv(frame.pose).T.ravel().tolist(),
                "intrinsic": _intrinsic(frame),
            }
        )
    put(folder / "trajectory.json", json.dumps({"class_name": "PinholeCameraTrajectory", "parameters": cameras}))


def _intrinsic(frame):
    return {"width": frame.size[1], "height": frame.size[0], "intrinsic_matrix": frame.K.T.ravel().tolist()}


def _intrinsic_json(folder, frame):
    put(folder / "intrinsic.json", json.dumps(_intrinsic(frame)))


def replica(folder, frames):
    for number, frame in enumerate(frames):
        put(folder / "results" / f"frame{number:06d}.jpg", frame.jpeg)
        png(folder / "results" / f"depth{number:06d}.png", sized(frame), 6553.5)
    put(folder / "traj.txt", text([frame.pose.ravel() for frame in frames]))
    fx, fy, cx, cy = four_of(frames[0].K)
    camera = {"w": frames[0].size[1], "h": frames[0].size[0], "fx": fx, "fy": fy, "cx": cx, "cy": cy, "scale": 6553.5}
    put(folder / "cam_params.json", json.dumps({"camera": camera}))


def sens(file, frames, kind=1):
    def matrix(K):
        four = np.eye(4)
        four[:3, :3] = K
        return four.astype("<f4").tobytes()

    name, (high, wide) = b"StructureSensor", frames[0].depth.shape
    head = struct.pack("<IQ", 4, len(name)) + name
    head += matrix(frames[0].K) + matrix(np.eye(3)) + matrix(frames[0].K_depth) + matrix(np.eye(3))
    head += struct.pack("<2i4IfQ", 2, kind, *frames[0].size[::-1], wide, high, 1000.0, len(frames))
    body = b""
    for number, frame in enumerate(frames):
        raw = np.rint(frame.depth * 1000).astype("<u2").tobytes()
        depth = zlib.compress(raw) if kind == 1 else raw
        pose = frame.pose.astype("<f4").tobytes()
        body += pose + struct.pack("<4Q", number, number, len(frame.jpeg), len(depth)) + frame.jpeg + depth
    put(file, head + body + struct.pack("<Q", 0))


def nerfstudio(folder, frames, masked=False, per_frame=False):
    listed = []
    for number, frame in enumerate(frames):
        put(folder / "images" / f"frame_{number:05d}.jpg", frame.jpeg)
        png(folder / "depth" / f"frame_{number:05d}.png", frame.depth, 1000)
        entry = {
            "file_path": f"images/frame_{number:05d}.jpg",
            "depth_file_path": f"depth/frame_{number:05d}.png",
            "transform_matrix": (frame.pose @ GL).tolist(),
        }
        if masked:
            mask = np.full(frame.size, 255, np.uint8)
            mask[: frame.size[0] // 2] = 0
            put(folder / "masks" / f"{number}.png", _png(mask))
            entry["mask_path"] = f"masks/{number}.png"
        listed.append(entry | (_ns_camera(frame) if per_frame else {}))
    top = {"camera_model": "OPENCV"} | ({} if per_frame else _ns_camera(frames[0]))
    put(folder / "transforms.json", json.dumps(top | {"frames": listed}))


def _ns_camera(frame):
    fx, fy, cx, cy = four_of(frame.K)
    return {"fl_x": fx, "fl_y": fy, "cx": cx + 0.5, "cy": cy + 0.5, "w": frame.size[1], "h": frame.size[0], "k1": 0.0}


def sparse(frames, per_frame=150, seed=0):
    """Points (N, 3) of the frames' depth with colours, and which frames observe them: pixels (x, y) by frame."""
    rng = np.random.default_rng(seed)
    points, colours = [], []
    for frame in frames:
        v, u = np.nonzero(frame.depth > 0)
        chosen = rng.choice(len(v), min(per_frame, len(v)), replace=False)
        z = frame.depth[v[chosen], u[chosen]]
        rays = np.linalg.inv(frame.K_depth) @ np.stack([u[chosen], v[chosen], np.ones(len(chosen))])
        points.append((frame.pose[:3, :3] @ (rays * z)).T + frame.pose[:3, 3])
        at = ((np.stack([v[chosen], u[chosen]]).T + 0.5) * frame.size[0] / frame.depth.shape[0]).astype(int)
        colours.append(frame.color[at[:, 0].clip(max=frame.size[0] - 1), at[:, 1].clip(max=frame.size[1] - 1)])
    xyz = np.concatenate(points)
    tracks = [{} for _ in xyz]
    for number, frame in enumerate(frames):
        x, y, z = frame.pose[:3, :3].T @ (xyz - frame.pose[:3, 3]).T
        with np.errstate(all="ignore"):
            u, v = (
                frame.K_depth[0, 0] * x / z + frame.K_depth[0, 2],
                frame.K_depth[1, 1] * y / z + frame.K_depth[1, 2],
            )
        high, wide = frame.depth.shape
        for at in np.flatnonzero((z > 0.1) & (u > 0) & (u < wide - 1) & (v > 0) & (v < high - 1)):
            there = frame.depth[round(v[at]), round(u[at])]
            if there > 0 and abs(z[at] / there - 1) < 0.005:
                color = frame.K @ [x[at] / z[at], y[at] / z[at], 1]
                tracks[at][number] = (float(color[0]), float(color[1]))
    kept = [at for at, track in enumerate(tracks) if len(track) >= 2]
    return xyz[kept], np.concatenate(colours)[kept], [tracks[at] for at in kept]


def colmap(folder, frames, binary=False, scale=1.0, sizes=None):
    """A sparse model whose unit is 1 / scale metres."""
    xyz, rgb, tracks = sparse(frames)
    for number, frame in enumerate(frames):
        put(folder / "images" / f"{number:04d}.jpg", frame.jpeg)
    fx, fy, cx, cy = four_of(frames[0].K)
    high, wide = frames[0].size
    values = [fx, fy, cx + 0.5, cy + 0.5, 0.0, 0.0, 0.0, 0.0]
    views = [[] for _ in frames]  # (x, y, point)
    order = [
        [(number, len(views[number]), views[number].append((*uv, at))) for number, uv in track.items()]
        for at, track in enumerate(tracks)
    ]
    model = folder / "sparse" / "0"
    if binary:
        put(model / "cameras.bin", struct.pack("<QiiQQ8d", 1, 1, 4, wide, high, *values))
        body = struct.pack("<Q", len(frames))
        for number, frame in enumerate(frames):
            body += struct.pack("<i7di", number + 1, *_w2c(frame.pose, scale), 1) + f"{number:04d}.jpg".encode() + b"\0"
            body += struct.pack("<Q", len(views[number]))
            body += b"".join(struct.pack("<2dq", x + 0.5, y + 0.5, at + 1) for x, y, at in views[number])
        put(model / "images.bin", body)
        body = struct.pack("<Q", len(xyz))
        for at, point in enumerate(xyz):
            body += struct.pack("<Q3d3BdQ", at + 1, *(point / scale), *rgb[at].tolist(), 0.5, len(order[at]))
            body += b"".join(struct.pack("<2i", number + 1, place) for number, place, _ in order[at])
        put(model / "points3D.bin", body)
        return
    put(
        model / "cameras.txt",
        f"# Camera list\n1 OPENCV {wide} {high} " + " ".join(map(repr, map(float, values))) + "\n",
    )
    lines = "# Image list\n"
    for number, frame in enumerate(frames):
        lines += f"{number + 1} " + " ".join(map(repr, map(float, _w2c(frame.pose, scale)))) + f" 1 {number:04d}.jpg\n"
        lines += " ".join(f"{x + 0.5} {y + 0.5} {at + 1}" for x, y, at in views[number]) + "\n"
    put(model / "images.txt", lines)
    rows = [
        f"{at + 1} {' '.join(map(repr, (point / scale).tolist()))} {' '.join(map(str, rgb[at].tolist()))} 0.5 "
        + " ".join(f"{number + 1} {place}" for number, place, _ in order[at])
        for at, point in enumerate(xyz)
    ]
    put(model / "points3D.txt", "\n".join(["# 3D point list", *rows]) + "\n")


def _w2c(pose, scale=1.0):
    back = np.linalg.inv(pose)
    x, y, z, w = xyzw(back)
    return [w, x, y, z, *(back[:3, 3] / scale)]


def record3d(file, frames, compress=lambda raw: raw):
    (high, wide), (dh, dw) = frames[0].size, frames[0].depth.shape
    top = {
        "w": wide,
        "h": high,
        "dw": dw,
        "dh": dh,
        "fps": 60,
        "K": frames[0].K.T.ravel().tolist(),
        "poses": [[*xyzw(frame.pose @ GL), *frame.pose[:3, 3]] for frame in frames],
        "perFrameIntrinsicCoeffs": [four_of(frame.K) for frame in frames],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("metadata", json.dumps(top))
        for number, frame in enumerate(frames):
            archive.writestr(f"rgbd/{number}.jpg", frame.jpeg)
            depth = np.where(frame.depth > 0, frame.depth, np.nan).astype("<f4")
            archive.writestr(f"rgbd/{number}.depth", compress(depth.tobytes()))
            archive.writestr(f"rgbd/{number}.conf", compress(np.full(depth.shape, 2, np.uint8).tobytes()))


def stray(folder, frames, video):
    """video: writes a list of (H, W, 3) to a file."""
    folder.mkdir(parents=True, exist_ok=True)
    video(folder / "rgb.mp4", [frame.color for frame in frames])
    rows = "timestamp, frame, x, y, z, qx, qy, qz, qw\n"
    for number, frame in enumerate(frames):
        png(folder / "depth" / f"{number:06d}.png", frame.depth, 1000)
        put(folder / "confidence" / f"{number:06d}.png", _png(np.full(frame.depth.shape, 2, np.uint8)))
        values = [repr(float(value)) for value in (*frame.pose[:3, 3], *xyzw(frame.pose))]
        rows += ", ".join([f"{number / 60}", f"{number:06d}", *values]) + "\n"
    put(folder / "odometry.csv", rows)
    put(folder / "camera_matrix.csv", "\n".join(", ".join(map(repr, row)) for row in frames[0].K.tolist()) + "\n")


def write_video(file, images):
    """A video by OpenCV, without loss to speak of: each pixel is as it is but for the colour's rounding."""
    import cv2

    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 30, images[0].shape[1::-1])
    writer.set(cv2.VIDEOWRITER_PROP_QUALITY, 100)
    for image in images:
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()


def polycam(folder, frames, corrected=True):
    for number, frame in enumerate(frames):
        time = 14567890123 + 1_000_000 * number
        keys = folder / "keyframes"
        gl = frame.pose @ GL
        fx, fy, cx, cy = four_of(frame.K)
        camera = {"fx": fx, "fy": fy, "cx": cx, "cy": cy, "width": frame.size[1], "height": frame.size[0]}
        camera |= {f"t_{row}{column}": gl[row, column] for row in range(3) for column in range(4)}
        for start in ("", "corrected_") if corrected else ("",):
            put(keys / f"{start}images" / f"{time}.jpg", frame.jpeg)
            put(keys / f"{start}cameras" / f"{time}.json", json.dumps(camera))
        png(keys / "depth" / f"{time}.png", frame.depth, 1000)
        sure = np.full(frame.depth.shape, 255, np.uint8)
        sure[:, :4] = 0
        put(keys / "confidence" / f"{time}.png", _png(sure))


def arkitscenes(folder, frames):
    traj = ""
    for number, frame in enumerate(frames):
        name = f"{folder.name}_{3301.25 + 0.1 * number:.3f}"
        small = np.asarray(Image.fromarray(frame.color).resize(frame.depth.shape[::-1]))
        put(folder / "lowres_wide" / f"{name}.png", _png(small))
        png(folder / "lowres_depth" / f"{name}.png", frame.depth, 1000)
        put(folder / "confidence" / f"{name}.png", _png(np.full(frame.depth.shape, 2, np.uint8)))
        values = [frame.depth.shape[1], frame.depth.shape[0], *four_of(frame.K_depth)]
        put(folder / "lowres_wide_intrinsics" / f"{name}.pincam", " ".join(map(str, values)) + "\n")
        back = np.linalg.inv(frame.pose)
        turn = Rotation.from_matrix(back[:3, :3]).as_rotvec()
        traj += f"{3301.252 + 0.1 * number:.6f} " + text([[*turn, *back[:3, 3]]])
    put(folder / "lowres_wide.traj", traj)


def scannetpp(folder, frames, kind="stream", lz4=None):
    """Depth of 192 x 256 in one of the three ways; colour as files."""
    colmap(folder / "made", frames)
    for name in ("cameras", "images", "points3D"):
        content = (folder / "made" / "sparse" / "0" / f"{name}.txt").read_text()
        for number in range(len(frames)):
            content = content.replace(f"{number:04d}.jpg", f"frame_{number:06d}.jpg")
        put(folder / "colmap" / f"{name}.txt", content)
    put(folder / "pose_intrinsic_imu.json", "{}")
    for number, frame in enumerate(frames):
        put(folder / "rgb" / f"frame_{number:06d}.jpg", frame.jpeg)
    depths = [np.kron(frame.depth, np.ones((4, 4))) for frame in frames]
    raw = [depth.astype("<f4").tobytes() for depth in depths]
    if kind == "stream":
        put(folder / "depth.bin", _deflate(b"".join(raw)))
        return
    if kind == "deflate":
        blocks = [_deflate(each) for each in raw]
    else:
        blocks = [lz4(np.rint(depth * 1000).astype("<u2").tobytes()) for depth in depths]
    put(folder / "depth.bin", b"".join(struct.pack("<I", len(block)) + block for block in blocks))


def scanner3d(folder, frames):
    put(folder / "info.json", "{}")
    for number, frame in enumerate(frames):
        values = {"cameraPoseARFrame": (frame.pose @ GL).ravel().tolist(), "intrinsics": frame.K.ravel().tolist()}
        put(folder / f"frame_{number:05d}.json", json.dumps(values))
        put(folder / f"frame_{number:05d}.jpg", frame.jpeg)
        png(folder / f"depth_{number:05d}.png", frame.depth, 1000)
        put(folder / f"conf_{number:05d}.png", _png(np.full(frame.depth.shape, 2, np.uint8)))


def _deflate(raw):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(raw) + packer.flush()


def _png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()
