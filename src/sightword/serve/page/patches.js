// The photo of the intent card: its patches as words in colours, or as what they add to an intent.

import { colour, css, el, paint, sharp, zoomed } from "./dom.js";
import { gloss, t } from "./words.js";

const W = 440; // pixels of a side; the encoder's input is a square
const SURE = 0.9; // quantile of the margins at which a colour is full
const NOTHING = "nothing"; // the word of a patch that has none, of a calibrated model
const MARKED = 0.45; // of the largest contribution: smaller ones have no sign
const LABELLED = 0.25; // of a full margin: a word that is less sure is only in the key

/**
 * Draw a photo and what is shown on it, and fill its key.
 * shown: {told, image, view, off, chosen, at}: an answer, its picture, which stream ("photo": none, "why": contributions),
 * the words that are struck out, the intent, and the patch under the cursor.
 */
export function drawPatches(canvas, key, shown) {
  const { told, image, view, at } = shown;
  const pen = sharp(canvas, W, W),
    cell = [W / told.columns, W / told.rows];
  pen.imageSmoothingQuality = "high";
  pen.filter = view === "photo" ? "none" : "saturate(.3) brightness(1.12)";
  pen.drawImage(image, 0, 0, W, W);
  pen.filter = "none";
  key.replaceChildren();
  const z = zoomed(canvas, W);
  if (view === "why") drawContributions(pen, cell, z, key, shown);
  else if (view !== "photo") drawWords(pen, cell, z, key, shown);
  pen.globalAlpha = 1;
  if (at) drawCursor(pen, cell, at);
}

/** The words of a stream, each once. */
const vocabulary = (stream) => [...new Set(stream.codes.map((code) => code.word))];

function drawContributions(pen, [cw, ch], z, key, { told, off, chosen }) {
  pen.fillStyle = css("--card");
  pen.globalAlpha = 0.55;
  pen.fillRect(0, 0, W, W);
  const total = contributions(told, off, chosen),
    most = Math.max(...total.flat().map(Math.abs), 1e-9);
  Object.assign(pen, { font: `600 ${16 * z}px sans-serif`, textAlign: "center", textBaseline: "middle" });
  total.forEach((row, r) =>
    row.forEach((value, c) => {
      pen.globalAlpha = (0.8 * Math.abs(value)) / most;
      pen.fillStyle = css(value < 0 ? "--against" : "--for");
      pen.fillRect(c * cw, r * ch, cw, ch);
      if (Math.abs(value) < MARKED * most) return;
      pen.globalAlpha = 1;
      pen.fillStyle = css("--ink");
      pen.fillText(value < 0 ? "−" : "+", (c + 0.5) * cw, (r + 0.5) * ch);
    }),
  );
  key.append(
    el("li", {}, el("span.sw", { "--k": "var(--for)" }), `+ ${t("forit")}`),
    el("li", {}, el("span.sw", { "--k": "var(--against)" }), `− ${t("againstit")}`),
  );
}

/** What a patch adds to an intent in one stream, or by pairs. */
export function addsAt(told, stream, [r, c], intent) {
  if (told.terms)
    return told.terms.reduce((sum, t) => sum + (t.stream === stream ? t.adds[intent] * t.where[r][c] : 0), 0);
  const { grid, codes } = told.streams[stream];
  return codes[grid[r][c]].adds[intent];
}

/** Whether pairs of words add anything. */
export const pairsAt = (told) => Boolean(told.terms && told.terms.some(({ stream }) => stream === "pairs"));

/** What each patch adds to an intent, over all streams, without the words that are struck out. */
function contributions(told, off, chosen) {
  if (told.terms) {
    const on = told.terms.filter(({ stream, word, where }) => where && !off.has(`${stream}:${word}`));
    return Array.from({ length: told.rows }, (_, r) =>
      Array.from({ length: told.columns }, (_, c) =>
        on.reduce((sum, { adds, where }) => sum + adds[chosen] * where[r][c], 0),
      ),
    );
  }
  const streams = Object.entries(told.streams);
  return Array.from({ length: told.rows }, (_, r) =>
    Array.from({ length: told.columns }, (_, c) =>
      streams.reduce((sum, [name, { grid, codes }]) => {
        const { word, adds } = codes[grid[r][c]];
        return sum + (off.has(`${name}:${word}`) ? 0 : adds[chosen]);
      }, 0),
    ),
  );
}

function drawWords(pen, cell, z, key, { told, view, off }) {
  const stream = told.streams[view],
    words = vocabulary(stream),
    [cw, ch] = cell;
  const ids = stream.grid.map((row) => row.map((code) => words.indexOf(stream.codes[code].word)));
  const sorted = stream.margins.flat().sort((a, b) => a - b),
    full = told.calibrated ? 1 : Math.max(1e-6, sorted[Math.floor(SURE * sorted.length)]);
  const nothing = told.calibrated ? words.indexOf(NOTHING) : -1;
  const isOff = (id) => off.has(`${view}:${words[id]}`),
    cells = words.map(() => []);
  ids.forEach((row, r) =>
    row.forEach((id, c) => {
      cells[id].push([r, c]);
      if (id === nothing) return;
      pen.globalAlpha = isOff(id) ? 0.04 : 0.06 + 0.5 * Math.min(1, stream.margins[r][c] / full) ** 1.5;
      pen.fillStyle = paint(id);
      pen.fillRect(c * cw, r * ch, cw, ch);
    }),
  );
  drawBorders(pen, cell, ids);
  Object.assign(pen, { font: `600 ${14 * z}px ${css("--sans")}`, textAlign: "center", textBaseline: "middle" });
  cells.forEach((own, id) => {
    const place = placeOf(own, stream.margins);
    if (id !== nothing && place.count > 1 && place.sure > LABELLED * full)
      drawLabel(pen, cell, z, gloss(words[id]), place.at, paint(id), isOff(id));
  });
  key.append(
    ...words.map((word, id) =>
      el(
        "li",
        {},
        el("span.sw", { "--k": id === nothing ? "transparent" : colour(id) }),
        el(isOff(id) ? "s" : "span", { text: gloss(word) }),
        el("span.hint.num", { text: String(cells[id].length) }),
      ),
    ),
  );
}

function drawBorders(pen, [cw, ch], ids) {
  Object.assign(pen, { globalAlpha: 0.6, strokeStyle: "#fff", lineWidth: 1.25 });
  pen.beginPath();
  ids.forEach((row, r) =>
    row.forEach((id, c) => {
      if (c + 1 < row.length && id !== row[c + 1]) {
        pen.moveTo((c + 1) * cw, r * ch);
        pen.lineTo((c + 1) * cw, (r + 1) * ch);
      }
      if (r + 1 < ids.length && id !== ids[r + 1][c]) {
        pen.moveTo(c * cw, (r + 1) * ch);
        pen.lineTo((c + 1) * cw, (r + 1) * ch);
      }
    }),
  );
  pen.stroke();
  pen.globalAlpha = 1;
}

/** Where a word stands: on the cell of its largest piece that is nearest to the middle of it, and how sure it is there. */
function placeOf(cells, margins) {
  const piece = largest(cells),
    [mr, mc] = [0, 1].map((a) => piece.reduce((sum, one) => sum + one[a], 0) / piece.length);
  const far = ([r, c]) => Math.hypot(r - mr, c - mc),
    at = piece.reduce((a, b) => (far(b) < far(a) ? b : a));
  return { count: piece.length, at, sure: piece.reduce((sum, [r, c]) => sum + margins[r][c], 0) / piece.length };
}

/** The largest of the pieces that cells (row, column) fall into. */
function largest(cells) {
  const left = new Set(cells.map(String));
  let best = [];
  while (left.size) {
    const [first] = left,
      piece = [],
      todo = [first];
    left.delete(first);
    while (todo.length) {
      const [r, c] = todo.pop().split(",").map(Number);
      piece.push([r, c]);
      for (const next of [`${r + 1},${c}`, `${r - 1},${c}`, `${r},${c + 1}`, `${r},${c - 1}`])
        if (left.delete(next)) todo.push(next);
    }
    if (piece.length > best.length) best = piece;
  }
  return best;
}

function drawLabel(pen, [cw, ch], z, text, [r, c], ink, isOff) {
  const wide = pen.measureText(text).width + 12 * z,
    tall = 22 * z;
  const x = Math.min(W - wide / 2 - 4, Math.max(wide / 2 + 4, (c + 0.5) * cw)),
    y = (r + 0.5) * ch;
  pen.fillStyle = css("--card");
  pen.globalAlpha = isOff ? 0.6 : 0.94;
  pen.beginPath();
  pen.roundRect(x - wide / 2, y - tall / 2, wide, tall, 4 * z);
  pen.fill();
  pen.fillStyle = ink;
  pen.fillRect(x - wide / 2, y + tall / 2 - 3 * z, wide, 3 * z);
  pen.fillStyle = css("--ink");
  pen.fillText(text, x, y - 0.5);
  if (isOff) pen.fillRect(x - wide / 2 + 5, y - 1, wide - 10, 1.5);
  pen.globalAlpha = 1;
}

function drawCursor(pen, [cw, ch], [r, c]) {
  for (const [width, ink] of [
    [5, "#fff"],
    [2.5, "#111"],
  ]) {
    Object.assign(pen, { lineWidth: width, strokeStyle: ink });
    pen.strokeRect(c * cw + 2, r * ch + 2, cw - 4, ch - 4);
  }
}
