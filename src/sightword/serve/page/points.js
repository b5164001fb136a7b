// Scene → answer: a room to turn, what text queries find in it, boxed, and the cameras that saw it.

import { curlJson, makeCard, redraws } from "./card.js";
import { chips, colour, css, el, photo, segments } from "./dom.js";
import { makeView, steer, upright } from "./scene.js";
import { bytes, call } from "./server.js";
import { gloss, lang, t } from "./words.js";

const SCENES = "/v1/points/scenes",
  ASK = "/v1/points/ask";
const NONE = 255; // of a byte in `packed`: no query, no thing
const NEAREST = 3; // unsure places that are listed for a query that does not fit
const EDGES = [
  [0, 1],
  [2, 3],
  [4, 5],
  [6, 7],
  [0, 2],
  [1, 3],
  [4, 6],
  [5, 7],
  [0, 4],
  [1, 5],
  [2, 6],
  [3, 7],
];

export function pointsCard(model, check) {
  const card = makeCard("points", model, check);
  if (model.state !== "ready") return card;
  let scene = model.scene,
    room = null; // room: the scene that is drawn, once it is loaded
  const field = el("input.field", {
    type: "text",
    value: t("p_points"),
    "aria-label": t("e_points"),
    enterkeyhint: "search",
    autocomplete: "off",
    maxlength: "1000",
  });
  const ask = () => {
    if (!scene) return card.empty(t("noScenes"));
    const asked = field.value
      .split(/[,，、]/)
      .map((text) => text.trim())
      .filter(Boolean);
    const body = { queries: asked.map((text) => phrase(text, room?.layout.classes || [])), scene };
    return card.send(
      ASK,
      { ...body, packed: true, model: model.name },
      async (answer) => {
        if (room?.layout.scene !== scene) room = await load(scene, model.name);
        drawAnswer(card, room, answer);
      },
      curlJson(ASK, body),
    );
  };
  const scenes =
    model.scenes.length > 1
      ? el(
          "select.field.pick",
          {
            "aria-label": t("scene"),
            onchange: (event) => {
              scene = event.target.value;
              ask();
            },
          },
          model.scenes.map((name) => el("option", { value: name, text: name, selected: name === scene })),
        )
      : "";
  card.ask.append(
    el(
      "form.line",
      {
        onsubmit: (event) => {
          event.preventDefault();
          ask();
        },
      },
      scenes,
      field,
      el("button.btn.main", { type: "submit", text: t("go") }),
    ),
    chips(t("tries"), ["chairs", "a dog, a person", "a potted plant", "an elephant"], (text) => {
      field.value = text;
      ask();
    }),
  );
  ask();
  return card;
}

/** Return a query as the model reads it: without a count, in the singular if the room's classes have that. */
function phrase(text, classes) {
  const plain = text.toLowerCase().replace(/^(\d+|some|any|the|an?)\s+/, "");
  const single =
    [plain, plain.replace(/es$/, ""), plain.replace(/s$/, ""), plain === "people" ? "person" : plain].find((word) =>
      classes.includes(word),
    ) || plain.replace(/([^s])s$/, "$1");
  return `${/^[aeiou]/.test(single) ? "an" : "a"} ${single}`;
}

/** Load a room: its layout, and its points and colours. */
async function load(name, model) {
  const query = `?model=${encodeURIComponent(model)}`,
    path = `${SCENES}/${encodeURIComponent(name)}`;
  const [layout, buffer] = await Promise.all([call(path + query), bytes(`${path}/cloud${query}`)]);
  const count = layout.points,
    stands = upright(layout, new Float32Array(buffer, 0, 3 * count));
  return { ...stands, count, rgb: new Uint8Array(buffer, 12 * count, 3 * count), eye: null, query };
}

function drawAnswer(card, room, answer) {
  const { layout, count } = room,
    found = answer.found.map((one, number) => ({ ...one, number, word: one.query.replace(/^an? /, "") }));
  const packed = Object.fromEntries(
    Object.entries(answer.packed).map(([name, text]) => [name, Uint8Array.from(atob(text), (c) => c.charCodeAt(0))]),
  );
  const things = found.flatMap((one) =>
    one.objects.map((thing, place) => ({
      ...thing,
      place,
      query: one.number,
      word: one.word,
      ...boxOf(thing, room.turned),
    })),
  );
  const canvas = el("canvas.room", { tabindex: "0", role: "img", "aria-label": t("stagePts", count) }),
    over = el("canvas.over", { "aria-hidden": "true" });
  const stage = el("div.stage.scene", {}, canvas, over);
  let view = null,
    colouring = "answer",
    chosen = null,
    held = -1;

  const listed = (thing) => (found[thing.query].here ? !thing.unsure : thing.place < NEAREST);
  const visible = (thing) => chosen === thing || listed(thing);
  const repaint = () => {
    view?.paint(colours(room, packed, colouring, chosen));
    redraw();
  };
  function redraw() {
    if (!view) return;
    view.draw(rgbOf("--sunk"));
    overlay(over, view, things.filter(visible), chosen, layout, room, held);
  }
  let frame = 0;
  const soon = () => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(redraw);
  };

  const list = el("div.things"),
    cameras = el("div.cams", { role: "group", "aria-label": t("cams") });
  function drawThings() {
    list.replaceChildren(
      ...(answer.unknown || []).map((text) => nothing(text.replace(/^an? /, ""), t("unknownHere"))),
      ...found.filter((one) => !(answer.unknown || []).includes(one.query)).flatMap((one) => entries(one)),
    );
  }
  function entries(one) {
    const own = things.filter((thing) => thing.query === one.number),
      needed = t("unsureWhy", one.fit.toFixed(2), (answer.threshold ?? 0).toFixed(2));
    if (!own.length) return [nothing(one.word, needed)];
    const sure = own.filter((thing) => !thing.unsure),
      swatch = el("span.sw", { "--k": colour(one.number) });
    const title = one.here ? counted(one.word, sure.length) : `${gloss(one.word)}: ${t("unsureHere")}`;
    const head = el(
      "p.row.found",
      {},
      swatch,
      el("strong", { text: title }),
      one.here ? "" : el("span.hint.num", { text: `${needed}; ${t("nearest")}:` }),
    );
    return [head, ...(one.here ? sure : own.slice(0, NEAREST)).map((thing, n) => entry(thing, n))];
  }
  function entry(thing, n) {
    const press = () => {
      chosen = chosen === thing ? null : thing;
      drawThings();
      drawCameras();
      repaint();
      list.querySelector('[aria-pressed="true"]')?.focus();
    };
    return el(
      thing.unsure ? "button.thing.unsure" : "button.thing",
      { type: "button", "aria-pressed": String(chosen === thing), onclick: press },
      el("span.num.hint", { text: String(n + 1) }),
      el(
        "span",
        {},
        thing.unsure ? t("fit", thing.score.toFixed(2)) : t("sure", Math.round(100 * thing.confidence)),
        " ",
        el("small", { text: `${thing.points.toLocaleString("en")} ${lang === "zh" ? "点" : "points"}` }),
      ),
      el("span.num.hint", { text: t("sizeM", ...thing.size.map((value) => value.toFixed(1))) }),
    );
  }
  function drawCameras() {
    cameras.replaceChildren(
      ...layout.cameras.map((camera, n) => {
        const press = () => {
          held = held === n ? -1 : n;
          if (held >= 0 && view) lookFrom(view.eye, room.turned(camera.forward));
          drawCameras();
          redraw();
          cameras.children[n].focus();
        };
        return el(
          sees(camera, chosen) ? "button.cam" : "button.cam.dim",
          { type: "button", "aria-label": t("cam", n + 1), "aria-pressed": String(held === n), onclick: press },
          photo(camera.image + room.query),
        );
      }),
    );
  }
  const kinds = [
    ["answer", t("answerC")],
    ["objects", t("objects")],
    ["score", t("scoreC")],
    ["real", t("real")],
  ];
  const reset = el("button.btn", {
    type: "button",
    text: t("resetView"),
    onclick: () => {
      view?.reset();
      soon();
    },
  });
  const told =
    layout.points < layout.of ? ` ${t("few", layout.points.toLocaleString("en"), layout.of.toLocaleString("en"))}` : "";
  card.answer.replaceChildren(
    el(
      "div.two.wide",
      {},
      el(
        "div.stack",
        {},
        stage,
        el(
          "div.row",
          {},
          segments(t("colour"), kinds, colouring, (value) => {
            colouring = value;
            repaint();
          }),
          reset,
        ),
        el("p.hint", { text: t("turn") + told }),
      ),
      el(
        "div.stack.beside",
        {},
        el("div", {}, el("h3", { text: t("found") }), list),
        answer.calibration ? el("p.hint", { text: t("calibrated", answer.calibration) }) : "",
      ),
      el("div", {}, el("h3", { text: t("cams") }), cameras),
    ),
  );
  view = makeView(canvas, room.layout, room.xyz);
  if (view) {
    if (room.eye) Object.assign(view.eye, room.eye);
    room.eye = view.eye;
    steer(canvas, view.eye, soon);
  } else stage.replaceChildren(el("p.empty", { text: t("noGl") }));
  drawThings();
  drawCameras();
  repaint();
  redraws.set("points", repaint);
}

const nothing = (word, why) =>
  el(
    "div.thing.none",
    {},
    el("span", { text: "∅", "aria-hidden": "true" }),
    el("span", {}, el("strong", { text: `${gloss(word)}: ${t("notHere")}` }), el("small", { text: why })),
    "",
  );
const plural = (word) => (word === "person" ? "people" : /(s|x|ch|sh)$/.test(word) ? `${word}es` : `${word}s`);
const counted = (word, n) => (lang === "zh" ? `${gloss(word)} × ${n}` : `${n} ${n === 1 ? word : plural(word)}`);

/** The corners of a thing's box in the upright frame. */
function boxOf(thing, turned) {
  const corners = [0, 1, 2, 3, 4, 5, 6, 7].map((m) =>
    turned([0, 1, 2].map((a) => ((m >> a) & 1 ? thing.high[a] : thing.low[a]))),
  );
  return { corners };
}
/** Whether a camera looks at the middle of a thing; every camera does without one. */
function sees(camera, thing) {
  if (!thing) return true;
  const to = thing.centre.map((value, a) => value - camera.at[a]),
    dot = (v) => v[0] * to[0] + v[1] * to[1] + v[2] * to[2],
    z = dot(camera.forward);
  return (
    z > 0.2 &&
    Math.abs((dot(camera.right) / z) * camera.focal[0]) < 0.5 &&
    Math.abs((dot(camera.down) / z) * camera.focal[1]) < 0.5
  );
}
function lookFrom(eye, forward) {
  eye.turn = Math.atan2(-forward[0], forward[1]);
  eye.tilt = 0.5;
}

/** Colours of points (4 n bytes): by answer, by thing, by score, or as photographed. */
function colours(room, { best, score, thing }, kind, chosen) {
  const out = new Uint8Array(4 * room.count),
    { rgb } = room,
    isDark = rgbOf("--sunk")[0] < 90,
    [base, gain] = isDark ? [28, 0.42] : [118, 0.5];
  const palette = Array.from({ length: 10 }, (_, n) => rgbOf(`--c${n + 1}`)),
    hot = rgbOf("--for");
  for (let n = 0; n < room.count; n++) {
    const [r, g, b] = [rgb[3 * n], rgb[3 * n + 1], rgb[3 * n + 2]],
      grey = (r + g + b) / 3,
      own = best[n] !== NONE;
    const others = chosen && (best[n] !== chosen.query || thing[n] !== chosen.place);
    let tint = [r, g, b].map((v) => base + gain * (0.75 * grey + 0.25 * v)),
      strength = 0,
      ink = hot;
    if (kind === "answer" && own && thing[n] !== NONE)
      [strength, ink] = [others ? 0.3 : 0.5 + score[n] / 510, palette[best[n] % 10]];
    else if (kind === "objects" && thing[n] !== NONE)
      [strength, ink] = [others ? 0.3 : 1, palette[(thing[n] * 3 + best[n] * 5) % 10]];
    else if (kind === "score" && own) strength = score[n] / 255;
    else if (kind === "real") tint = [r, g, b];
    for (let a = 0; a < 3; a++) out[4 * n + a] = tint[a] + strength * (ink[a] - tint[a]);
    out[4 * n + 3] = strength > 0.5 ? 255 : 200;
  }
  return out;
}
const swatches = new Map();
function rgbOf(name) {
  // a token's colour as three bytes
  const text = css(name);
  if (!swatches.has(text)) {
    const pen = document.createElement("canvas").getContext("2d");
    pen.fillStyle = text;
    pen.fillRect(0, 0, 1, 1);
    swatches.set(text, [...pen.getImageData(0, 0, 1, 1).data.slice(0, 3)]);
  }
  return swatches.get(text);
}

/** Draw boxes with their words, and the cameras, above the points. */
function overlay(canvas, view, things, chosen, layout, room, held) {
  const W = canvas.clientWidth || 640,
    H = canvas.clientHeight || 480,
    scale = Math.min(2, devicePixelRatio || 1);
  canvas.width = Math.round(W * scale);
  canvas.height = Math.round(H * scale);
  const pen = canvas.getContext("2d"),
    at = view.projection(W, H);
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.lineJoin = "round";
  for (const thing of things) {
    const corners = thing.corners.map((corner) => at(...corner)),
      isOn = chosen === thing;
    pen.setLineDash(thing.unsure ? [5, 4] : []);
    for (const [width, ink] of [
      [isOn ? 5 : 3.5, css("--card")],
      [isOn ? 3 : 1.6, css(`--c${(thing.query % 10) + 1}`)],
    ]) {
      Object.assign(pen, { lineWidth: width, strokeStyle: ink, globalAlpha: chosen && !isOn ? 0.25 : 1 });
      pen.beginPath();
      EDGES.forEach(([a, b]) => {
        pen.moveTo(corners[a][0], corners[a][1]);
        pen.lineTo(corners[b][0], corners[b][1]);
      });
      pen.stroke();
    }
    pen.setLineDash([]);
    if (!chosen || isOn)
      caption(
        pen,
        `${gloss(thing.word)}${thing.unsure ? " ?" : ""}`,
        corners.reduce((a, b) => (b[1] < a[1] ? b : a)),
        W,
      );
    pen.globalAlpha = 1;
  }
  layout.cameras.forEach((camera, n) => {
    const from = room.turned(camera.at),
      to = room.turned(camera.forward).map((v, a) => from[a] + 0.35 * v),
      a = at(...from),
      b = at(...to),
      isLit = sees(camera, chosen);
    Object.assign(pen, {
      globalAlpha: isLit ? 1 : 0.35,
      lineWidth: 2,
      strokeStyle: css(isLit && chosen ? "--for" : "--ink"),
      fillStyle: css(isLit && chosen ? "--for" : "--ink"),
    });
    pen.beginPath();
    pen.moveTo(a[0], a[1]);
    pen.lineTo(b[0], b[1]);
    pen.stroke();
    pen.beginPath();
    pen.arc(a[0], a[1], 3.5, 0, 7);
    pen.fill();
    if (n === held) {
      pen.beginPath();
      pen.arc(a[0], a[1], 8, 0, 7);
      pen.stroke();
    }
    pen.globalAlpha = 1;
  });
}
function caption(pen, text, [x, y], W) {
  pen.font = `600 13px ${css("--sans")}`;
  const wide = pen.measureText(text).width + 12,
    left = Math.min(W - wide - 4, Math.max(4, x - wide / 2)),
    top = Math.max(4, y - 24);
  pen.fillStyle = css("--card");
  pen.beginPath();
  pen.roundRect(left, top, wide, 20, 4);
  pen.fill();
  Object.assign(pen, { fillStyle: css("--ink"), textAlign: "center", textBaseline: "middle" });
  pen.fillText(text, left + wide / 2, top + 10.5);
}
