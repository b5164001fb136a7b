// Clip → name: a skeleton that moves, the weight of each moment, and names, own words among them.

import { curlForm, curlJson, form, makeCard, redraws } from "./card.js";
import { bar, css, el, percent, segments, sharp, still } from "./dom.js";
import { gloss, t } from "./words.js";

const PATH = "/v1/skeleton",
  FPS = 15;

export function skeletonCard(model, check) {
  const card = makeCard("skeleton", model, check);
  if (model.state !== "ready") return card;
  const own = (model.suggested || []).slice(0, 2),
    clips = [...Array(model.samples).keys()];
  let given = clips.length ? { sample: clips[0] } : null,
    frame = 0,
    playing = !still.matches,
    top = false;
  const height = el("input.field.short", {
    type: "number",
    min: 1,
    placeholder: t("height"),
    "aria-label": `${t("size2")}: ${t("height")}`,
  });
  const width = el("input.field.short", {
    type: "number",
    min: 1,
    placeholder: t("width"),
    "aria-label": `${t("size2")}: ${t("width")}`,
  });
  const ask = () => {
    if (!given) return card.empty(t("noClips"));
    const labels = model.own_words ? own.slice() : [];
    const show = (answer) => draw(asTold(answer, model));
    if (given.file) {
      const fields = {
        file: given.file,
        ...(labels.length ? { labels } : {}),
        ...(height.value && width.value ? { height: height.value, width: width.value } : {}),
      };
      return card.send(
        `${PATH}/file`,
        form({ ...fields, detail: true, model: model.name }),
        show,
        curlForm(`${PATH}/file`, fields),
      );
    }
    const body = { sample: given.sample, labels };
    return card.send(PATH, { ...body, detail: true, model: model.name }, show, curlJson(PATH, body));
  };
  const file = el("input.sr", {
    type: "file",
    accept: ".npz,.json",
    onchange: () => {
      if (file.files[0]) {
        given = { file: file.files[0] };
        frame = 0;
        ask();
      }
      file.value = "";
    },
  });
  card.ask.append(
    clips.length
      ? segments(
          t("t_skeleton")[0],
          clips.map((n) => [n, t("clip", n + 1)]),
          clips[0],
          (sample) => {
            given = { sample };
            frame = 0;
            ask();
          },
        )
      : "",
    el("label.chip", {}, t("upload"), file),
    el("span.row", {}, el("span.hint", { text: t("size2") }), height, width),
  );
  let loop = 0;

  function draw(told) {
    const people = told.people,
      L = people[0].points.length,
      T = told.weights.length,
      S = 440;
    const canvas = el("canvas", { role: "img", "aria-label": t("t_skeleton")[0] }),
      note = el("span.hint.num", {}),
      slider = el("input", { type: "range", min: 0, max: L - 1, step: 0.01, value: frame, "aria-label": t("time") });
    const most = Math.max(...told.weights),
      bars = told.weights.map((w) => el("span.moment", { "--h": `${((100 * w) / most) * 0.98}%` }));
    const sure = people.flatMap((one) => one.points.flatMap((pose, f) => pose.filter((_, j) => one.sure[f][j] > 0.3))),
      xs = sure.map((p) => p[0]),
      ys = sure.map((p) => p[1]),
      [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)],
      scale = (S * 0.8 - 56) / Math.max(x1 - x0, y1 - y0);
    const pose = (one, f) => {
      const a = Math.floor(f),
        b = Math.min(L - 1, a + 1),
        u = f - a;
      return one.points[a].map((p, j) => {
        const q = one.points[b][j],
          s = Math.min(one.sure[a][j], one.sure[b][j]);
        return [
          S / 2 + (p[0] + u * (q[0] - p[0]) - (x0 + x1) / 2) * scale,
          S / 2 + (p[1] + u * (q[1] - p[1]) - (y0 + y1) / 2) * scale,
          s,
        ];
      });
    };
    const side = (j) =>
      told.joints[j].startsWith("left") ? "--c5" : told.joints[j].startsWith("right") ? "--c6" : "--soft";
    function drawStage() {
      const pen = sharp(canvas, S, S * 0.8);
      pen.translate(0, -S * 0.1);
      pen.lineCap = "round";
      const body = (one, f, alpha, width) => {
        const p = pose(one, f);
        for (const [a, b] of told.limbs) {
          const s = Math.min(p[a][2], p[b][2]);
          if (s < 0.05) continue;
          pen.globalAlpha = alpha * (0.25 + 0.75 * s);
          pen.strokeStyle = css(side(a) === side(b) ? side(a) : "--soft");
          pen.lineWidth = width;
          pen.beginPath();
          pen.moveTo(p[a][0], p[a][1]);
          pen.lineTo(p[b][0], p[b][1]);
          pen.stroke();
        }
        return p;
      };
      for (const one of people) {
        for (let k = 3; k >= 1; k--) if (frame - k * 0.7 >= 0) body(one, frame - k * 0.7, 0.13, 5);
        const p = body(one, frame, 1, 6);
        pen.fillStyle = css("--ink");
        for (const [x, y, s] of p) {
          if (s < 0.05) continue;
          pen.globalAlpha = 0.3 + 0.7 * s;
          pen.beginPath();
          pen.arc(x, y, 4, 0, 7);
          pen.fill();
        }
      }
      const now = Math.min(T - 1, Math.floor((frame / L) * T));
      bars.forEach((b, n) => b.classList.toggle("now", n === now));
      slider.value = frame;
      note.textContent = told.even ? t("noWeights") : t("moment", now + 1, T, Math.round(100 * told.weights[now]));
    }
    const button = el("button.btn", {
      type: "button",
      text: playing ? t("pause") : t("play"),
      onclick: () => {
        playing = !playing;
        button.textContent = playing ? t("pause") : t("play");
      },
    });
    slider.addEventListener("input", () => {
      playing = false;
      button.textContent = t("play");
      frame = Number(slider.value);
      drawStage();
    });
    cancelAnimationFrame(loop);
    let before = 0,
      visible = true;
    new IntersectionObserver(([entry]) => {
      visible = entry.isIntersecting;
    }).observe(canvas);
    const run = (now) => {
      const by = Math.min(100, now - before);
      before = now;
      if (playing && visible) {
        frame += (by / 1000) * FPS * 0.5;
        if (frame > L - 1) frame = 0;
        drawStage();
      }
      loop = requestAnimationFrame(run);
    };
    loop = requestAnimationFrame(run);

    const names = el("div.bars"),
      field = el("input.field", { type: "text", placeholder: t("ownP"), "aria-label": t("own"), autocomplete: "off" });
    function drawNames() {
      const shown = top ? told.names : told.names.filter((one, n) => n < 6 || one.own);
      names.replaceChildren(
        ...shown.map((one) =>
          el(
            one === told.names[0] ? "div.bar.on" : "div.bar",
            {},
            bar(
              one.own ? [gloss(one.name), " ", el("span.tag", { text: t("yours") })] : gloss(one.name),
              one.probability,
              percent(one.probability),
              {},
              one.own ? "var(--c7)" : undefined,
            ),
          ),
        ),
        told.names.length > 6
          ? el("button.more", {
              type: "button",
              text: top ? t("fewer") : t("all", told.names.length),
              onclick: () => {
                top = !top;
                drawNames();
              },
            })
          : "",
      );
    }
    drawNames();
    const add = (event) => {
      event.preventDefault();
      for (const word of field.value
        .split(/[,，]/)
        .map((w) => w.trim().toLowerCase())
        .filter(Boolean))
        if (!own.includes(word) && !told.known.includes(word)) own.push(word);
      ask();
    };
    card.answer.replaceChildren(
      el(
        "div.two",
        {},
        el(
          "div.stack",
          {},
          el("div.stage", {}, canvas),
          el(
            "ul.key",
            {},
            el("li", {}, el("span.sw", { "--k": "var(--c5)" }), t("lside")),
            el("li", {}, el("span.sw", { "--k": "var(--c6)" }), t("rside")),
          ),
          el(
            "div",
            {},
            el("h3", {}, t("weight"), el("span.hint.legend", { text: t("even") })),
            el(
              "div.moments",
              { "aria-hidden": "true" },
              bars,
              el("span.even", { "--y": `${((62 * 0.98) / T / most).toFixed(1)}px` }),
            ),
            slider,
            el("div.row", {}, button, note),
          ),
        ),
        el(
          "div.stack",
          {},
          el(
            "div",
            {},
            el("h3", { text: t("names") }),
            names,
            told.truth
              ? el(told.names[0].name === told.truth ? "p.verdict.good" : "p.verdict", {
                  text: t(told.names[0].name === told.truth ? "itis" : "wrong", gloss(told.truth)),
                })
              : "",
            el("p.hint", { text: t("prob") }),
          ),
          !model.own_words
            ? el("p.hint", { text: t("noOwn") })
            : el(
                "div",
                {},
                el("h3", { text: t("own") }),
                el("form.line", { onsubmit: add }, field, el("button.btn", { type: "submit", text: t("add") })),
                own.length
                  ? el(
                      "div.tries",
                      {},
                      own.map((word) =>
                        el("button.chip", {
                          type: "button",
                          "aria-label": t("remove", word),
                          text: `${word} ×`,
                          onclick: () => {
                            own.splice(own.indexOf(word), 1);
                            ask();
                          },
                        }),
                      ),
                    )
                  : "",
              ),
        ),
      ),
    );
    drawStage();
    redraws.set("skeleton", drawStage);
  }
  ask();
  return card;
}

/** An answer of the server in the form that the card draws. Persons of whom no joint is seen are left out. */
function asTold(answer, model) {
  const people = answer.points.map((points, m) => ({ points, sure: answer.joint_scores[m] }));
  const there = people.filter((one) => one.sure.some((frame) => frame.some((score) => score > 0.05)));
  const moments = answer.weights?.length || 8,
    own = new Set(answer.own);
  const names = Object.entries(answer.probabilities)
    .map(([name, probability]) => ({ name, probability, own: own.has(name) }))
    .sort((a, b) => b.probability - a.probability);
  const total = answer.weights ? answer.weights.reduce((sum, w) => sum + w, 0) : 1;
  const weights = answer.weights ? answer.weights.map((w) => w / total) : Array(moments).fill(1 / moments);
  return {
    people: there.length ? there : people.slice(0, 1),
    weights,
    even: !answer.weights,
    names,
    truth: answer.truth,
    joints: answer.joints,
    limbs: answer.limbs,
    known: model.classes,
  };
}
