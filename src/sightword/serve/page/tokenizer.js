// Image → codes → image: a picture painted again from its codes, and codes that can be painted over.

import { curlForm, form, makeCard, redraws } from "./card.js";
import { css, dropZone, el, segments, sharp, thumbs, zoomed } from "./dom.js";
import { call, loadImage } from "./server.js";
import { t } from "./words.js";

const ENCODE = "/v1/tokenizer/encode",
  DECODE = "/v1/tokenizer/decode";
const SIDE = 256; // pixels of the longer side that is encoded
const SETTLE = 220; // milliseconds after the last stroke, before the server paints again

export function tokenizerCard(model, check) {
  const card = makeCard("tokenizer", model, check);
  if (model.state !== "ready") return card;
  const named = `model=${encodeURIComponent(model.name)}`;
  let book = null; // the picture of every code, loaded once
  const ask = (fields) =>
    card.send(
      ENCODE,
      form({ ...fields, side: SIDE, pictures: true, model: model.name }),
      async (answer) => {
        book ??= model.codebook ? await loadImage(`/v1/tokenizer/codebook?${named}`) : null;
        await draw(asTold(answer, model));
      },
      curlForm(ENCODE, fields),
    );
  const samples = [...Array(Math.min(6, model.samples)).keys()].map((n) => [
    n,
    `/v1/tokenizer/samples/${n}?${named}`,
    t("sampleN", n + 1),
  ]);
  card.ask.append(
    dropZone("image/*", t("drop"), t("dropSub", model.megabytes), (image) => ask({ image })),
    samples.length
      ? el(
          "div.tries",
          {},
          el("span", { text: t("tries") }),
          thumbs(t("tries"), samples, samples.length - 1, (sample) => ask({ sample })),
        )
      : "",
  );

  async function draw(told) {
    const atlas = book,
      { rows, columns, tile } = told;
    let [original, decoded] = await Promise.all([told.src, told.decoded].map(loadImage));
    const W = 512,
      H = (W * told.height) / told.width,
      cw = (W * told.pixels) / told.width,
      ch = (H * told.pixels) / told.height,
      codes = told.codes.slice(),
      changed = new Map();
    const painted = new Set(); // places that the server has painted already
    let mode = "compare",
      split = 0.5,
      at = [Math.floor(rows / 2), Math.floor(columns / 2)],
      wide = 3,
      pressed = false;
    const count = new Map();
    told.codes.forEach((code) => count.set(code, (count.get(code) || 0) + 1));
    const common = [...count].sort((a, b) => b[1] - a[1]).map(([code]) => code);
    const spot = (code) => [(code % told.atlas_columns) * tile, Math.floor(code / told.atlas_columns) * tile];
    const mean = atlas ? meanColours(atlas, told) : [];
    const palette = atlas
      ? [...common]
          .sort((a, b) => light(mean[a]) - light(mean[b]))
          .filter((_, n, list) => n % Math.ceil(list.length / 24) === 0)
          .slice(0, 24)
      : [];
    let brush = palette[Math.max(0, palette.length - 4)] ?? common[0];
    const canvas = el("canvas", { tabindex: "0", role: "img", "aria-label": t("stageTok") }),
      range = el("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": t("slide") });
    const foot = el("div"),
      note = el("p.hint", { role: "status" });
    function drawStage() {
      canvas.parentElement?.classList.toggle("drag", mode === "paint");
      const pen = sharp(canvas, W, H);
      pen.imageSmoothingQuality = "high";
      if (mode === "codes")
        codes.forEach((code, n) => {
          pen.fillStyle = hashed(code);
          pen.fillRect((n % columns) * cw, Math.floor(n / columns) * ch, cw + 0.5, ch + 0.5);
        });
      else {
        pen.drawImage(decoded, 0, 0, W, H);
        for (const [n, code] of changed)
          if (atlas && !painted.has(n)) {
            const [x, y] = spot(code);
            pen.drawImage(
              atlas,
              x,
              y,
              tile,
              tile,
              (n % columns) * cw,
              Math.floor(n / columns) * ch,
              cw + 0.5,
              ch + 0.5,
            );
          }
        if (mode === "compare") {
          const x = W * split;
          pen.save();
          pen.beginPath();
          pen.rect(0, 0, x, H);
          pen.clip();
          pen.drawImage(original, 0, 0, W, H);
          pen.restore();
          pen.fillStyle = "#fff";
          pen.fillRect(x - 1.5, 0, 3, H);
          pen.beginPath();
          pen.arc(x, H / 2, 17, 0, 7);
          pen.fill();
          pen.strokeStyle = "#222";
          pen.lineWidth = 2;
          pen.beginPath();
          pen.moveTo(x - 5, H / 2 - 5);
          pen.lineTo(x - 10, H / 2);
          pen.lineTo(x - 5, H / 2 + 5);
          pen.moveTo(x + 5, H / 2 - 5);
          pen.lineTo(x + 10, H / 2);
          pen.lineTo(x + 5, H / 2 + 5);
          pen.stroke();
          label(pen, t("orig"), 12, "left", split > 0.24);
          label(pen, t("back"), W - 12, "right", split < 0.76);
        }
      }
      if (mode !== "compare") {
        const h = mode === "paint" ? wide : 1,
          x = (at[1] - (h >> 1)) * cw,
          y = (at[0] - (h >> 1)) * ch;
        pen.strokeStyle = "#fff";
        pen.lineWidth = 4;
        pen.strokeRect(x, y, h * cw, h * ch);
        pen.strokeStyle = "#111";
        pen.lineWidth = 1.5;
        pen.strokeRect(x, y, h * cw, h * ch);
      }
    }
    function label(pen, text, x, align, shown) {
      if (!shown) return;
      const z = zoomed(canvas, W);
      pen.font = `600 ${13 * z}px ${css("--sans")}`;
      pen.textAlign = align;
      pen.textBaseline = "middle";
      const w = pen.measureText(text).width + 16 * z;
      pen.fillStyle = "rgb(0 0 0 / .62)";
      pen.beginPath();
      pen.roundRect(align === "left" ? x : x - w, 12, w, 24 * z, 5);
      pen.fill();
      pen.fillStyle = "#fff";
      pen.fillText(text, align === "left" ? x + 8 * z : x - 8 * z, 12 + 12.5 * z);
    }
    function tell() {
      drawMap();
      const code = codes[at[0] * columns + at[1]];
      note.textContent =
        mode === "compare"
          ? ""
          : mode === "codes"
            ? t("codeN", code, codes.filter((c) => c === code).length)
            : changed.size
              ? `${t("changed", changed.size)}; ${t(painted.size === changed.size ? "decoded" : "decoding")}`
              : t("brushHint");
      facts();
    }
    function stamp() {
      const h = wide >> 1;
      for (let r = at[0] - h; r < at[0] - h + wide; r++)
        for (let c = at[1] - h; c < at[1] - h + wide; c++)
          if (r >= 0 && c >= 0 && r < rows && c < columns) {
            codes[r * columns + c] = brush;
            changed.set(r * columns + c, brush);
            painted.delete(r * columns + c);
          }
      drawStage();
      tell();
      repaint();
    }
    let later = 0,
      stroke = 0;
    function repaint() {
      // the server's network paints the whole picture from the changed codes
      clearTimeout(later);
      later = setTimeout(async () => {
        const mine = ++stroke,
          places = [...changed.keys()];
        const ids = Array.from({ length: rows }, (_, r) => codes.slice(r * columns, (r + 1) * columns));
        try {
          const answer = await call(DECODE, { ids, size: [told.height, told.width], model: model.name });
          const image = await loadImage(answer.decoded);
          if (mine !== stroke) return;
          decoded = image;
          places.forEach((n) => painted.add(n));
          drawStage();
          tell();
        } catch (error) {
          card.fail(error);
        }
      }, SETTLE);
    }
    const figures = el("dl.facts"),
      map = el("canvas.map", { width: columns, height: rows, role: "img", "aria-label": t("mapOf", rows, columns) });
    function drawMap() {
      const pen = map.getContext("2d");
      codes.forEach((code, n) => {
        pen.fillStyle = hashed(code);
        pen.fillRect(n % columns, Math.floor(n / columns), 1, 1);
      });
    }
    const facts = () =>
      figures.replaceChildren(
        ...[
          [t("bpp"), ((told.bits_per_code * rows * columns) / (told.width * told.height)).toFixed(2), t("bppOf")],
          [t("grid"), `${rows} × ${columns}`, ""],
          [t("used"), String(new Set(codes).size), t("usedOf", told.codebook)],
          [t("psnr"), told.psnr.toFixed(1), "dB"],
        ].map(([a, b, c]) => el("div", {}, el("dt", { text: a }), el("dd", {}, b, " ", el("small", { text: c })))),
      );
    const sizes = segments(
      t("size"),
      [
        [1, "1"],
        [3, "3"],
        [5, "5"],
        [9, "9"],
      ],
      wide,
      (v) => {
        wide = v;
        drawStage();
      },
    );
    const tiles = el(
      "div.codes",
      {
        role: "radiogroup",
        "aria-label": t("brush"),
        onkeydown: (event) => {
          const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key],
            all = [...tiles.children];
          if (by) {
            event.preventDefault();
            const next = all[(all.indexOf(document.activeElement) + by + all.length) % all.length];
            next.click();
            next.focus();
          }
        },
      },
      palette.map((code) => {
        const c = el("canvas", { width: tile, height: tile, "aria-hidden": "true" }),
          [x, y] = spot(code);
        c.getContext("2d").drawImage(atlas, x, y, tile, tile, 0, 0, tile, tile);
        return el(
          "button",
          {
            type: "button",
            role: "radio",
            "aria-checked": String(code === brush),
            tabindex: code === brush ? "0" : "-1",
            "aria-label": t("codeN", code, count.get(code)),
            title: t("codeN", code, count.get(code)),
            onclick: (event) => {
              brush = code;
              tiles.querySelectorAll("button").forEach((b) => {
                b.setAttribute("aria-checked", String(b === event.currentTarget));
                b.tabIndex = b === event.currentTarget ? 0 : -1;
              });
              set("paint");
            },
          },
          c,
        );
      }),
    );
    const undo = el("button.btn", {
      type: "button",
      text: t("undo"),
      onclick: () => {
        changed.clear();
        painted.clear();
        told.codes.forEach((code, n) => {
          codes[n] = code;
        });
        drawStage();
        tell();
        repaint();
      },
    });
    const modes = el("div.row");
    function set(value) {
      mode = value;
      modes.replaceChildren(
        segments(
          t("compare"),
          [["compare", t("compare")], ["codes", t("codesV")], ...(atlas ? [["paint", t("paint")]] : [])],
          mode,
          (v) => {
            mode = v;
            foot.hidden = v !== "compare";
            drawStage();
            tell();
          },
        ),
      );
      foot.hidden = mode !== "compare";
      drawStage();
      tell();
    }
    foot.append(range);
    range.addEventListener("input", () => {
      split = range.value / 100;
      drawStage();
    });
    const place = (event) => {
      const box = canvas.getBoundingClientRect(),
        x = (event.clientX - box.left) / box.width,
        y = (event.clientY - box.top) / box.height;
      at = [
        Math.min(rows - 1, Math.max(0, Math.floor(y * rows))),
        Math.min(columns - 1, Math.max(0, Math.floor(x * columns))),
      ];
      return x;
    };
    const act = (event) => {
      const x = place(event);
      if (mode === "compare") {
        if (pressed) {
          split = Math.min(1, Math.max(0, x));
          range.value = 100 * split;
        }
        drawStage();
      } else if (mode === "paint" && pressed) stamp();
      else {
        drawStage();
        tell();
      }
    };
    canvas.addEventListener("pointerdown", (event) => {
      pressed = true;
      canvas.setPointerCapture(event.pointerId);
      act(event);
    });
    canvas.addEventListener("pointermove", act);
    for (const kind of ["pointerup", "pointercancel"])
      canvas.addEventListener(kind, () => {
        pressed = false;
      });
    canvas.addEventListener("keydown", (event) => {
      const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (event.key === " " && mode === "paint") {
        event.preventDefault();
        stamp();
      }
      if (!by) return;
      event.preventDefault();
      if (mode === "compare") {
        split = Math.min(1, Math.max(0, split + by[1] * 0.05));
        range.value = 100 * split;
      } else at = [Math.min(rows - 1, Math.max(0, at[0] + by[0])), Math.min(columns - 1, Math.max(0, at[1] + by[1]))];
      drawStage();
      tell();
    });
    card.answer.replaceChildren(
      el(
        "div.two",
        {},
        el("div.stack", {}, modes, el("div.stage", {}, canvas), foot, note),
        el(
          "div",
          {},
          figures,
          el(
            "div.tok",
            {},
            el("div", {}, el("h3", { text: t("map") }), map),
            el(
              "div.stack",
              {},
              ...(atlas
                ? [
                    el("div", {}, el("h3", { text: t("brush") }), tiles),
                    el("div.row", {}, el("span.hint", { text: t("size") }), sizes),
                    undo,
                  ]
                : [el("p.hint", { text: t("noBook") })]),
            ),
          ),
        ),
      ),
    );
    set("compare");
    redraws.set("tokenizer", drawStage);
  }
  if (samples.length) ask({ sample: samples.length - 1 });
  else card.empty(t("noPhotos"));
  return card;
}
const light = ([r, g, b]) => 0.3 * r + 0.6 * g + 0.1 * b;
const hashed = (code) => `oklch(${0.45 + 0.4 * ((code * 0.618) % 1)} 0.11 ${(code * 137.508) % 360})`;
function meanColours(atlas, { codebook, atlas_columns, tile }) {
  const c = el("canvas", { width: atlas.width, height: atlas.height }),
    pen = c.getContext("2d");
  pen.drawImage(atlas, 0, 0);
  const { data } = pen.getImageData(0, 0, c.width, c.height),
    out = [];
  for (let k = 0; k < codebook; k++) {
    const sum = [0, 0, 0];
    for (let n = 0; n < tile * tile; n++) {
      const i =
        4 *
        ((Math.floor(k / atlas_columns) * tile + Math.floor(n / tile)) * c.width +
          (k % atlas_columns) * tile +
          (n % tile));
      for (let a = 0; a < 3; a++) sum[a] += data[i + a] / tile / tile;
    }
    out.push(sum);
  }
  return out;
}

/** An answer of the server in the form that the card draws. */
function asTold(answer, model) {
  const [height, width] = answer.size,
    rows = answer.ids.length,
    columns = answer.ids[0].length;
  const shown = model.codebook || { tile: model.pixels, columns: 1 };
  return {
    src: answer.image,
    decoded: answer.decoded,
    width,
    height,
    rows,
    columns,
    codes: answer.ids.flat(),
    codebook: answer.num_codes,
    bits_per_code: Math.log2(answer.num_codes),
    psnr: answer.psnr,
    pixels: model.pixels,
    tile: shown.tile,
    atlas_columns: shown.columns,
  };
}
