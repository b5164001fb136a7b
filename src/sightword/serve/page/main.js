// The page: theme, language, the token if there is one, and a card for each system.

import { redraws } from "./card.js";
import { el } from "./dom.js";
import { intentCard } from "./intent.js";
import { pointsCard } from "./points.js";
import { retrievalCard } from "./retrieval.js";
import { call, setToken } from "./server.js";
import { skeletonCard } from "./skeleton.js";
import { tokenizerCard } from "./tokenizer.js";
import { lang, query, setLang, store, t } from "./words.js";

const CARDS = [
  ["intent", intentCard],
  ["retrieval", retrievalCard],
  ["tokenizer", tokenizerCard],
  ["skeleton", skeletonCard],
  ["points", pointsCard],
];
const POLL = 1500; // milliseconds between two looks at models that are loading
const byId = (id) => document.getElementById(id);
const systemDark = matchMedia("(prefers-color-scheme: dark)");
let theme = query.get("theme") || store.get("theme") || "auto";
let shown = {}; // system → [state and name of its model, card]
let wait = 0;

function setTheme(value) {
  theme = value;
  store.set("theme", value);
  if (value === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = value;
  byId("theme").textContent = t(value);
  byId("theme").setAttribute("aria-label", t("theme", t(value)));
  redraws.forEach((draw) => draw());
}

/** Return the model of each system: one that is ready before one that is not. */
async function modelsBySystem() {
  const { models, limits } = await call("/v1/models");
  const found = {};
  for (const model of models) {
    model.megabytes = limits.megabytes;
    const known = found[model.system];
    if (!known || (known.state !== "ready" && model.state === "ready")) found[model.system] = model;
  }
  return found;
}

/** Make the cards whose models have changed, and look again while one is loading. */
async function look() {
  clearTimeout(wait);
  let models;
  try {
    models = await modelsBySystem();
  } catch (error) {
    if (error.status === 401) askToken();
    else
      byId("cards").replaceChildren(
        el(
          "div.notice.bad",
          { role: "alert" },
          el("h3", { text: t("failed") }),
          el("p", { text: error.message }),
          el("div.row", {}, el("button.btn", { type: "button", text: t("again"), onclick: look })),
        ),
      );
    shown = {};
    return;
  }
  const state = query.get("state");
  const cards = CARDS.map(([system, make]) => {
    const model = state === "absent" || state === "loading" ? { state } : models[system] || { state: "absent" };
    const key = `${model.state} ${model.name}`;
    if (shown[system]?.[0] !== key) {
      const card = make(model, look);
      if (state === "empty" && model.state === "ready") {
        card.stop?.abort();
        card.empty(t(`e_${system}`));
      }
      shown[system] = [key, card];
    }
    return shown[system][1].node;
  });
  const place = byId("cards");
  if (cards.length !== place.children.length || cards.some((card, n) => place.children[n] !== card))
    place.replaceChildren(...cards);
  watchTabs(cards);
  if (Object.values(models).some((model) => model.state === "loading")) wait = setTimeout(look, POLL);
}

function askToken() {
  const field = el("input.field", {
    type: "password",
    "aria-label": t("tokenTitle"),
    autocomplete: "current-password",
  });
  const open = async (event) => {
    event.preventDefault();
    setToken(field.value);
    field.disabled = true; // what is typed until the answer comes would be lost with this form
    await look();
    if (field.isConnected) {
      field.disabled = false;
      field.value = "";
      field.focus();
    }
  };
  byId("cards").replaceChildren(
    el(
      "form.notice.warn",
      { onsubmit: open },
      el("h3", { text: t("tokenTitle") }),
      el("p", { text: t("tokenText") }),
      el("div.line", {}, field, el("button.btn.main", { type: "submit", text: t("tokenSend") })),
    ),
  );
}

let watch = null;
function watchTabs(cards) {
  watch?.disconnect();
  watch = new IntersectionObserver(
    (entries) => {
      const here = entries.find((entry) => entry.isIntersecting);
      if (!here) return;
      document.querySelectorAll("#tabs a").forEach((a) => {
        if (a.hash !== `#${here.target.id}`) a.removeAttribute("aria-current");
        else {
          a.setAttribute("aria-current", "true");
          a.closest(".tabs").scrollTo({ left: a.offsetLeft - 40 });
        }
      });
    },
    { rootMargin: "-30% 0px -65% 0px" },
  );
  cards.forEach((card) => watch.observe(card));
}

async function start() {
  document.documentElement.lang = lang === "zh" ? "zh-Hans" : "en";
  document.querySelectorAll("[data-t]").forEach((node) => {
    node.textContent = t(node.dataset.t);
  });
  document.querySelectorAll("[data-l]").forEach((node) => node.setAttribute("aria-label", t(node.dataset.l)));
  const button = byId("lang");
  button.textContent = lang === "zh" ? "English" : "中文";
  button.lang = lang === "zh" ? "en" : "zh";
  button.setAttribute("aria-label", `${button.textContent}: ${t("langTo")}`);
  setTheme(theme);
  byId("tabs").replaceChildren(
    ...CARDS.map(([name]) => el("li", {}, el("a", { href: `#${name}`, text: t(`t_${name}`).slice(0, 2).join(" → ") }))),
  );
  redraws.clear();
  shown = {};
  await look();
  if (/^#[a-z]+$/.test(location.hash)) document.querySelector(location.hash)?.scrollIntoView();
}

const next = () => ({
  auto: systemDark.matches ? "light" : "dark",
  light: systemDark.matches ? "dark" : "auto",
  dark: systemDark.matches ? "auto" : "light",
});
byId("theme").addEventListener("click", () => setTheme(next()[theme] || "auto"));
byId("lang").addEventListener("click", () => {
  setLang(lang === "zh" ? "en" : "zh");
  start();
});
systemDark.addEventListener("change", () => redraws.forEach((draw) => draw()));
let resized = 0;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => redraws.forEach((draw) => draw()), 120);
});
start();
