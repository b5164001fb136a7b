// Photo → words on it: the word of each patch, and what each adds to each intent. Words can be struck out.

import { curlForm, form, makeCard, redraws } from "./card.js";
import { bar, dropZone, el, say, segments, sigmoid, signed, thumbs } from "./dom.js";
import { addsAt, drawPatches, pairsAt } from "./patches.js";
import { loadImage } from "./server.js";
import { gloss, humanIntent, t } from "./words.js";

const PATH = "/v1/intent";

export function intentCard(model, check) {
  const card = makeCard("intent", model, check);
  if (model.state !== "ready") return card;
  const ask = (fields) =>
    card.send(
      PATH,
      form({ ...fields, explain: true, pictures: true, model: model.name }),
      (answer) => (answer.explanation ? draw(asTold(answer)) : plain(answer)),
      curlForm(PATH, fields),
    );
  const samples = [...Array(Math.min(6, model.samples)).keys()].map((n) => [
    n,
    `${PATH}/samples/${n}?model=${encodeURIComponent(model.name)}`,
    t("sampleN", n + 1),
  ]);
  card.ask.append(
    dropZone("image/*", t("drop"), t("dropSub", model.megabytes), (image) => ask({ image })),
    samples.length
      ? el(
          "div.tries",
          {},
          el("span", { text: t("tries") }),
          thumbs(t("tries"), samples, 0, (sample) => ask({ sample })),
        )
      : "",
  );

  async function plain(answer) {
    // the baseline: scores without words
    const ranked = Object.entries(answer.scores)
      .sort((a, b) => b[1] - a[1])
      .slice(0, 10);
    card.answer.replaceChildren(
      el(
        "div.two",
        {},
        el("div.stage", {}, el("img", { src: answer.image, alt: "" })),
        el(
          "div",
          {},
          el("p.hint", { text: t("baseline") }),
          el(
            "div.bars",
            {},
            ranked.map(([name, score]) =>
              el("div.bar", {}, bar(humanIntent(name), score, score.toFixed(2), tickOf(answer.threshold))),
            ),
          ),
        ),
      ),
    );
  }

  async function draw(told) {
    const streams = Object.keys(told.streams),
      off = new Set();
    const image = await loadImage(told.src);
    let view = streams.includes("coco") ? "coco" : streams[0],
      chosen = 0,
      at = null,
      all = false;
    const words = wordsOf(told);
    const logit = (c) => told.intents[c].bias + words.reduce((sum, w) => sum + (off.has(w.key) ? 0 : w.adds[c]), 0);
    const order = told.intents.map((_, c) => c).sort((a, b) => told.intents[b].logit - told.intents[a].logit);
    chosen = order[0];
    const name = (s) => (t(`v_${s}`) === `v_${s}` ? s : t(`v_${s}`));

    const canvas = el("canvas", {
      tabindex: "0",
      role: "img",
      "aria-label": t("stageIntent", told.rows, told.columns),
    });
    const key = el("ul.key"),
      hereBox = el("div"),
      list = el("div.bars"),
      struck = el("div.row");
    const drawStage = () => drawPatches(canvas, key, { told, image, view, off, chosen, at });
    function drawHere() {
      if (!at) {
        hereBox.replaceChildren(el("p.hint", { text: t("hereHint") }));
        return;
      }
      const top = [chosen, ...order.filter((c) => c !== chosen)].slice(0, 3);
      const hereRow = (word, stream, adds) =>
        el(
          "tr",
          {},
          el("th", { scope: "row" }, word, el("small", { text: stream })),
          top.map((c) => el(adds(c) < 0 ? "td.num.minus-n" : "td.num.plus", { text: signed(adds(c), 3) })),
        );
      hereBox.replaceChildren(
        el(
          "table.here",
          {},
          el("caption", { text: t("here", at[0] + 1, at[1] + 1) }),
          el(
            "thead",
            {},
            el(
              "tr",
              {},
              el("th", { text: "" }),
              top.map((c) => el("th", { scope: "col", text: humanIntent(told.intents[c].name) })),
            ),
          ),
          el(
            "tbody",
            {},
            streams.map((s) => {
              const { word } = told.streams[s].codes[told.streams[s].grid[at[0]][at[1]]];
              return hereRow(gloss(word), name(s), (c) => addsAt(told, s, at, c));
            }),
            pairsAt(told) ? hereRow(name("pairs"), "", (c) => addsAt(told, "pairs", at, c)) : null,
          ),
        ),
      );
    }
    function sumOf(c) {
      const terms = [...words].sort((a, b) => Math.abs(b.adds[c]) - Math.abs(a.adds[c])),
        most = Math.max(...terms.map((w) => Math.abs(w.adds[c])), Math.abs(told.intents[c].bias));
      const two = (v) =>
        el(
          "span.track.two-way",
          { "aria-hidden": "true" },
          el(v < 0 ? "span.fill.minus" : "span.fill", { "--w": `${(50 * Math.abs(v)) / most}%` }),
        );
      const now = logit(c),
        score = sigmoid(now);
      return el(
        "div.sum",
        { id: `intent-sum` },
        terms.map((w) =>
          el(
            off.has(w.key) ? "label.term.off" : "label.term",
            {},
            el("input", {
              type: "checkbox",
              checked: !off.has(w.key),
              "data-key": w.key,
              onchange: () => {
                off.has(w.key) ? off.delete(w.key) : off.add(w.key);
                drawAll();
                list.querySelector(`[data-key="${CSS.escape(w.key)}"]`)?.focus();
                say(`${humanIntent(told.intents[c].name)}: ${t("score")} ${sigmoid(logit(c)).toFixed(2)}`);
              },
            }),
            el(
              "span.term-word",
              {},
              w.word ? gloss(w.word) : t("v_rest"),
              " ",
              el("small", { text: aboutWord(w, name) }),
            ),
            two(w.adds[c]),
            el("span.num", { text: signed(w.adds[c]) }),
          ),
        ),
        el(
          "div.term",
          {},
          el("span"),
          el("span.term-word.hint", { text: t("bias") }),
          two(told.intents[c].bias),
          el("span.num", { text: signed(told.intents[c].bias) }),
        ),
        el(
          "p.total",
          {},
          el("span", {}, `${t("sum")} `, el("strong.num", { text: signed(now) })),
          el("span", {}, `${t("score")} `, el("strong.num", { text: score.toFixed(2) })),
          told.threshold === null ? "" : el("span.hint", { text: t(score > told.threshold ? "over" : "under") }),
        ),
      );
    }
    function drawList() {
      const shown = all ? order : order.slice(0, 6);
      list.replaceChildren(
        ...shown.flatMap((c) => {
          const now = sigmoid(logit(c)),
            open = c === chosen;
          return [
            el(
              "button.bar",
              {
                type: "button",
                "aria-expanded": String(open),
                "data-intent": String(c),
                onclick: () => {
                  chosen = c;
                  drawAll();
                  list.querySelector(`[data-intent="${c}"]`).focus();
                },
              },
              bar(humanIntent(told.intents[c].name), now, now.toFixed(2), tickOf(told.threshold)),
            ),
            open ? sumOf(c) : null,
          ].filter(Boolean);
        }),
        el("button.more", {
          type: "button",
          text: all ? t("fewer") : t("all", order.length),
          onclick: () => {
            all = !all;
            drawList();
          },
        }),
      );
      const before = sigmoid(told.intents[chosen].logit),
        after = sigmoid(logit(chosen));
      struck.replaceChildren(
        ...(off.size
          ? [
              el("span.hint", {
                text: t("struck", off.size, `${before.toFixed(2)} → ${after.toFixed(2)} (${signed(after - before)})`),
              }),
              el("button.btn", {
                type: "button",
                text: t("reset"),
                onclick: () => {
                  off.clear();
                  drawAll();
                },
              }),
            ]
          : []),
      );
    }
    function drawAll() {
      drawStage();
      drawHere();
      drawList();
    }
    const cell = (event) => {
      const box = canvas.getBoundingClientRect();
      return [
        Math.min(told.rows - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * told.rows))),
        Math.min(told.columns - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * told.columns))),
      ];
    };
    const move = (to) => {
      if (at && to[0] === at[0] && to[1] === at[1]) return;
      at = to;
      drawStage();
      drawHere();
    };
    canvas.addEventListener("pointermove", (event) => move(cell(event)));
    canvas.addEventListener("pointerdown", (event) => move(cell(event)));
    canvas.addEventListener("keydown", (event) => {
      const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!by) return;
      event.preventDefault();
      const from = at || [0, 0];
      move([(from[0] + by[0] + told.rows) % told.rows, (from[1] + by[1] + told.columns) % told.columns]);
      say(streams.map((s) => told.streams[s].codes[told.streams[s].grid[at[0]][at[1]]].word).join(", "));
    });
    card.answer.replaceChildren(
      el(
        "div.two",
        {},
        el(
          "div.stack",
          {},
          el(
            "div.row",
            {},
            segments(
              t("shown"),
              [["photo", t("v_photo")], ...streams.map((s) => [s, name(s)]), ["why", t("v_why")]],
              view,
              (v) => {
                view = v;
                drawStage();
              },
            ),
          ),
          el("div.stage", {}, canvas),
          key,
          hereBox,
        ),
        el("div", {}, el("h3", { text: t("intents") }), struck, list),
      ),
    );
    at = [Math.floor(told.rows * 0.4), Math.floor(told.columns * 0.5)];
    drawAll();
    redraws.set("intent", drawStage);
  }
  if (samples.length) ask({ sample: 0 });
  else card.empty(t("noPhotos"));
  return card;
}

/** What stands beside a word: its stream, and its patches or how surely it is there. */
function aboutWord({ stream, count, presence }, name) {
  if (count !== undefined) return `${name(stream)} · ${count === 1 ? t("patch1") : t("patches", count)}`;
  return [stream && name(stream), presence !== null && `${Math.round(100 * presence)} %`].filter(Boolean).join(" · ");
}

const tickOf = (threshold) => (threshold === null ? {} : { tick: threshold });

/** An answer of the server in the form that the card draws: logit = bias + Σ adds over patches and streams. */
function asTold(answer) {
  const { explanation } = answer,
    names = Object.keys(explanation.logits),
    streams = {};
  for (const [name, { grid, margins, words, adds }] of Object.entries(explanation.streams)) {
    streams[name] = { grid, margins, codes: words.map((word, code) => ({ word, adds: adds && adds[code] })) };
  }
  const [first] = Object.values(streams);
  const intents = names.map((name) => ({ name, bias: explanation.bias[name], logit: explanation.logits[name] }));
  return {
    src: answer.image,
    rows: first.grid.length,
    columns: first.grid[0].length,
    threshold: answer.threshold,
    intents,
    streams,
    terms: explanation.terms,
    calibrated: explanation.calibrated,
  };
}

/**
 * What each word adds to each intent: {key, word, stream, adds}, and count, its patches; a model of presence has
 * presence instead, and pairs of words as words.
 */
function wordsOf(told) {
  if (told.terms) return told.terms.map((term) => ({ ...term, key: `${term.stream}:${term.word}` }));
  const words = new Map();
  for (const [stream, { grid, codes }] of Object.entries(told.streams)) {
    for (const code of grid.flat()) {
      const { word, adds } = codes[code],
        key = `${stream}:${word}`;
      const one = words.get(key) || { key, word, stream, count: 0, adds: adds.map(() => 0) };
      one.count += 1;
      adds.forEach((value, intent) => {
        one.adds[intent] += value;
      });
      words.set(key, one);
    }
  }
  return [...words.values()];
}
