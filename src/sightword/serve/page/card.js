// What every card has: a model's state, one question, a status line, an answer, and the same from a terminal.

import { el, say } from "./dom.js";
import { Problem, call } from "./server.js";
import { lang, t } from "./words.js";

/** Canvases, to be drawn again in other colours or at another width. */
export const redraws = new Map(); // system → function

const EXPERIMENTS = {
  tokenizer: "tokenizer/mini",
  retrieval: "retrieval/phase3_mini",
  skeleton: "skeleton/visece_pacl_mini",
  points: "points/bifusion_mini",
  intent: "intent/stage1",
};
const QUIET = 150; // milliseconds before a card says that it is busy, so that nothing flickers

/** Return a card of a system. model: of /v1/models, or {state: "absent"}. check: looks at the models again. */
export function makeCard(system, model, check) {
  const node = document.getElementById("card").content.cloneNode(true).firstElementChild;
  const part = (name) => node.querySelector(name);
  const card = {
    node,
    system,
    model,
    ask: part(".ask"),
    status: part(".status"),
    answer: part(".answer"),
    last: null,
    stop: null,
  };
  heading(card, part);
  const model_ = part(".model");
  model_.dataset.state = model.state;
  part(".model-state").textContent = t(model.state === "failed" ? "absent" : model.state);
  part(".model-name").textContent = model.name || "";
  part(".world").hidden = model.domain !== "drawn";
  part(".world span").textContent = t(`w_${system}`);
  for (const note of model.notes || []) card.ask.before(el("p.note", { text: note }));
  card.curl = (text) => {
    part(".code code").textContent = text;
    part(".code").hidden = !text;
  };
  card.curl("");
  card.empty = (text) => card.answer.replaceChildren(el("p.empty", { text }));
  card.send = (path, body, draw, curl) => send(card, path, body, draw, curl);
  card.fail = (error) => fail(card, error);
  if (model.state !== "ready") waiting(card, check);
  return card;
}

function heading(card, part) {
  const h2 = part("h2");
  card.node.id = card.system;
  card.node.setAttribute("aria-labelledby", `${card.system}-title`);
  h2.id = `${card.system}-title`;
  t(`t_${card.system}`).forEach((word, n) => {
    if (n)
      h2.append(
        el("span.arrow", { text: " → ", "aria-hidden": "true" }),
        el("span.sr", { text: lang === "zh" ? "到" : " to " }),
      );
    h2.append(word);
  });
  part(".lead").textContent = t(`l_${card.system}`);
  part(".code summary").textContent = t("code");
}

/** Show that a model is loading, could not be loaded, or is not there, and what to do. */
function waiting(card, check) {
  const { model, system } = card,
    again = el("button.btn", { type: "button", text: t("check"), onclick: check });
  if (model.state === "loading") {
    card.answer.replaceChildren(
      el(
        "div.notice",
        {},
        el("h3", { text: t("loadingTitle") }),
        el("p", { text: t("loadingText") }),
        el("progress", { "aria-label": t("loadingTitle") }),
      ),
    );
  } else if (model.state === "failed") {
    card.answer.replaceChildren(
      el(
        "div.notice.bad",
        {},
        el("h3", { text: t("failedTitle") }),
        el("p", { text: model.detail }),
        el("div.row", {}, again),
      ),
    );
  } else {
    const name = EXPERIMENTS[system],
      lines = `sightword train experiment=${name}\nsightword serve models=runs/${name}/…`;
    card.answer.replaceChildren(
      el(
        "div.notice",
        {},
        el("h3", { text: t("absentTitle") }),
        el("p", { text: t("absentText") }),
        el("code", { text: lines }),
        el("div.row", {}, again),
      ),
    );
  }
}

/** Send a question: busy, then an answer, a problem, or nothing if another was asked meanwhile. */
async function send(card, path, body, draw, curl) {
  card.stop?.abort();
  const stop = (card.stop = new AbortController()),
    began = performance.now(),
    isFirst = !card.last;
  card.last = () => card.send(path, body, draw, curl);
  if (curl) card.curl(curl);
  const seconds = el("span");
  const tick = () => {
    seconds.textContent = t("busy", ((performance.now() - began) / 1000).toFixed(1));
  };
  const shown = setTimeout(() => {
    tick();
    const cancel = el("button.btn", { type: "button", text: t("cancel"), onclick: () => stop.abort() });
    card.status.replaceChildren(el("div.busy", {}, seconds, cancel, el("progress", { "aria-label": t("busyShort") })));
    card.answer.classList.add("stale");
  }, QUIET);
  const clock = setInterval(tick, 200);
  card.answer.setAttribute("aria-busy", "true");
  const isCurrent = () => card.stop === stop;
  try {
    const told = await call(path, body, { signal: stop.signal });
    if (isCurrent()) {
      clearTimeout(shown);
      card.status.replaceChildren();
      await draw(told);
      if (!isFirst) say(t("saidDone"));
    }
  } catch (error) {
    clearTimeout(shown);
    if (isCurrent()) {
      card.status.replaceChildren();
      if (error.name !== "AbortError") card.fail(error);
      else if (!card.answer.childElementCount) card.empty(t(`e_${card.system}`));
    }
  } finally {
    clearTimeout(shown);
    clearInterval(clock);
    if (isCurrent()) {
      card.answer.classList.remove("stale");
      card.answer.removeAttribute("aria-busy");
    }
  }
}

function fail(card, error) {
  if (!(error instanceof Problem)) console.error(error);
  const again = el("button.btn", { type: "button", text: t("again"), onclick: () => card.last?.() });
  const dismiss = el("button.btn", {
    type: "button",
    text: t("dismiss"),
    onclick: () => card.status.replaceChildren(),
  });
  card.status.replaceChildren(
    el(
      "div.notice.bad",
      { role: "alert" },
      el("h3", { text: t("failed") }),
      el("p", { text: error.message }),
      el("div.row", {}, again, dismiss),
    ),
  );
}

/** A form of fields; files and texts as they are, lists as several fields of one name. */
export function form(fields) {
  const made = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    for (const one of Array.isArray(value) ? value : [value])
      made.append(name, one instanceof Blob ? one : String(one));
  }
  return made;
}
const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
export const curlJson = (path, body) =>
  `curl -s ${location.origin}${path} \\\n  -H 'content-type: application/json' \\\n  -d ${quoted(JSON.stringify(body))}`;
export const curlForm = (path, fields) =>
  `curl -s ${location.origin}${path}` +
  Object.entries(fields)
    .flatMap(([name, value]) =>
      [value]
        .flat()
        .map((one) => ` \\\n  -F ${quoted(`${name}=${one instanceof Blob ? `@${one.name || "picture.jpg"}` : one}`)}`),
    )
    .join("");
