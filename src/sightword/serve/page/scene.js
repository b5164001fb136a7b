// A cloud of points on a WebGL2 canvas: turned and zoomed by pointer and keys, drawn only when something changed.

const VERTEX = `#version 300 es
uniform vec3 middle; uniform vec4 turn; // cosine and sine of the turn, cosine and sine of the tilt
uniform vec4 view; // focal length over half the width and half the height, distance, size of a point in pixels × metres
uniform vec2 range; uniform float lid; // nearest and farthest depth; height above which nothing is drawn
in vec3 place; in vec4 tint;
out vec4 colour;
void main() {
  vec3 p = place - middle;
  float u = p.x * turn.x + p.y * turn.y, v = p.y * turn.x - p.x * turn.y;
  float depth = view.z + v * turn.z - p.z * turn.w;
  float z = (depth - range.x) / (range.y - range.x) * 2.0 - 1.0;
  gl_Position = place.z > lid ? vec4(2.0, 2.0, 2.0, 1.0) : vec4(view.x * u, view.y * (v * turn.w + p.z * turn.z), z * depth, depth);
  gl_PointSize = max(1.0, view.w * (tint.a > 0.9 ? 1.12 : 1.0) / depth);
  colour = tint;
}`;
const FRAGMENT = `#version 300 es
precision mediump float;
in vec4 colour; out vec4 shown;
void main() { shown = vec4(colour.rgb, 1.0); }`;
const START = { turn: 0.7, tilt: 0.62, zoom: 1 };
const FLOOR = 0.3; // of a room's height: what the view turns about, below the middle as the walls stand above it
const LID = 0.93; // of a room's height: its ceiling is lifted off

/** Return a view of a room on a canvas, with another canvas above it for lines and words; null without WebGL2. */
export function makeView(canvas, layout, xyz) {
  const gl = canvas.getContext("webgl2", { antialias: false, alpha: false });
  if (!gl) return null;
  const count = xyz.length / 3,
    size = layout.high.map((high, a) => high - layout.low[a]);
  const middle = layout.low.map((low, a) => low + size[a] * (a < 2 ? 0.5 : FLOOR)),
    span = Math.hypot(...size);
  const eye = { ...START },
    program = linked(gl),
    at = (name) => gl.getUniformLocation(program, name);
  const places = Object.fromEntries(["middle", "turn", "view", "range", "lid"].map((name) => [name, at(name)]));
  attribute(gl, program, "place", xyz, 3, gl.FLOAT, false);
  const tints = attribute(gl, program, "tint", new Uint8Array(4 * count), 4, gl.UNSIGNED_BYTE, true);
  const distance = 1.6 * span,
    focal = 1.28;

  /** Return the function from metres to pixels of a canvas of W × H, and the depth. */
  function projection(W, H) {
    const [c, s, C, S] = [Math.cos(eye.turn), Math.sin(eye.turn), Math.cos(eye.tilt), Math.sin(eye.tilt)],
      f = focal * eye.zoom * W;
    return (x, y, z) => {
      const X = x - middle[0],
        Y = y - middle[1],
        Z = z - middle[2],
        u = X * c + Y * s,
        v = Y * c - X * s;
      const depth = distance + v * C - Z * S;
      return [W / 2 + (f * u) / depth, H / 2 - (f * (v * S + Z * C)) / depth, depth];
    };
  }
  function draw(background) {
    const scale = Math.min(2, devicePixelRatio || 1),
      W = canvas.clientWidth || 640,
      H = canvas.clientHeight || 480;
    if (canvas.width !== Math.round(W * scale)) {
      canvas.width = Math.round(W * scale);
      canvas.height = Math.round(H * scale);
    }
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(...background.map((value) => value / 255), 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.useProgram(program);
    gl.uniform3f(places.middle, ...middle);
    gl.uniform4f(places.turn, Math.cos(eye.turn), Math.sin(eye.turn), Math.cos(eye.tilt), Math.sin(eye.tilt));
    gl.uniform4f(
      places.view,
      2 * focal * eye.zoom,
      (2 * focal * eye.zoom * W) / H,
      distance,
      canvas.width * eye.zoom * 0.08,
    );
    gl.uniform2f(places.range, 0.05 * span, 3 * span);
    gl.uniform1f(places.lid, layout.low[2] + LID * size[2]);
    gl.drawArrays(gl.POINTS, 0, count);
  }
  function paint(colours) {
    // (4 n) bytes: red, green, blue, and 255 for a point that stands out
    gl.bindBuffer(gl.ARRAY_BUFFER, tints);
    gl.bufferData(gl.ARRAY_BUFFER, colours, gl.DYNAMIC_DRAW);
  }
  const reset = () => Object.assign(eye, START);
  return { eye, draw, paint, projection, reset };
}

function linked(gl) {
  const program = gl.createProgram();
  for (const [kind, text] of [
    [gl.VERTEX_SHADER, VERTEX],
    [gl.FRAGMENT_SHADER, FRAGMENT],
  ]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  return program;
}
function attribute(gl, program, name, values, width, kind, normalised) {
  const buffer = gl.createBuffer(),
    place = gl.getAttribLocation(program, name);
  gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
  gl.bufferData(gl.ARRAY_BUFFER, values, gl.DYNAMIC_DRAW);
  gl.enableVertexAttribArray(place);
  gl.vertexAttribPointer(place, width, kind, normalised, 0, 0);
  return buffer;
}

/** Turn and zoom a view by pointers, wheel and keys. changed: is called after each change. */
export function steer(canvas, eye, changed) {
  const held = new Map();
  const done = () => {
    eye.tilt = Math.min(1.5, Math.max(0.05, eye.tilt));
    eye.zoom = Math.min(6, Math.max(0.4, eye.zoom));
    changed();
  };
  canvas.addEventListener("pointerdown", (event) => {
    held.set(event.pointerId, event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const last = held.get(event.pointerId);
    if (!last) return;
    const other = [...held.values()].find((one) => one.pointerId !== event.pointerId);
    if (other) {
      const far = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      eye.zoom *= far(event) / Math.max(1, far(last));
    } else {
      eye.turn -= (event.clientX - last.clientX) * 0.008;
      eye.tilt += (event.clientY - last.clientY) * 0.006;
    }
    held.set(event.pointerId, event);
    done();
  });
  for (const kind of ["pointerup", "pointercancel"])
    canvas.addEventListener(kind, (event) => held.delete(event.pointerId));
  canvas.addEventListener(
    "wheel",
    (event) => {
      // the page scrolls until the room has the focus
      if (document.activeElement !== canvas && !event.ctrlKey) return;
      event.preventDefault();
      eye.zoom *= Math.exp(-event.deltaY * 0.001);
      done();
    },
    { passive: false },
  );
  canvas.addEventListener("keydown", (event) => {
    const by = {
      ArrowLeft: ["turn", -0.12],
      ArrowRight: ["turn", 0.12],
      ArrowUp: ["tilt", 0.08],
      ArrowDown: ["tilt", -0.08],
    }[event.key];
    if (by) eye[by[0]] += by[1];
    else if ("+=-".includes(event.key)) eye.zoom *= event.key === "-" ? 0.87 : 1.15;
    else return;
    event.preventDefault();
    done();
  });
}

/** Points and layout of a room in a frame whose third axis is up: (n × 3) metres, and a function for other places. */
export function upright(layout, xyz) {
  const up = unit(layout.up),
    side = unit(Math.abs(up[0]) < 0.9 ? cross(up, [1, 0, 0]) : cross(up, [0, 1, 0]));
  const axes =
    up[2] > 0.999
      ? [
          [1, 0, 0],
          [0, 1, 0],
          [0, 0, 1],
        ]
      : [cross(side, up), side, up].map(unit);
  const turned = ([x, y, z]) => axes.map(([a, b, c]) => a * x + b * y + c * z);
  if (up[2] > 0.999) return { xyz, turned, layout };
  const out = new Float32Array(xyz.length),
    low = [1e9, 1e9, 1e9],
    high = [-1e9, -1e9, -1e9];
  for (let n = 0; n < xyz.length; n += 3)
    turned([xyz[n], xyz[n + 1], xyz[n + 2]]).forEach((value, a) => {
      out[n + a] = value;
      low[a] = Math.min(low[a], value);
      high[a] = Math.max(high[a], value);
    });
  return { xyz: out, turned, layout: { ...layout, low, high } };
}
const cross = ([a, b, c], [d, e, f]) => [b * f - c * e, c * d - a * f, a * e - b * d];
const unit = (v) => v.map((value) => value / (Math.hypot(...v) || 1));
