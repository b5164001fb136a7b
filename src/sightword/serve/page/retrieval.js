// Sentence → people: the pictures that a sentence describes best, and the words that carried each.

import { curlForm, curlJson, form, makeCard } from "./card.js";
import { chips, el, photo, segments, signed } from "./dom.js";
import { t } from "./words.js";

const SEARCH = "/v1/retrieval/search",
  INDEX = "/v1/retrieval/index";
const TOP = 15;
const TRIES = [
  "The woman has on a black cap and has white boots. She is dressed in a pink t-shirt with a white logo on the chest and wears glasses. She has long hair and is in a pair of violet pants. She is with a backpack.",
  "a woman in a red coat with a white handbag",
  "somebody in yellow shoes",
  "a man with a green backpack",
  "a fire engine on a bridge",
];
const SMALL = new Set(
  "a an the with and in of is has wears on his her she he somebody someone person who carries dressed walks this".split(
    " ",
  ),
); // never named as what carried a result

export function retrievalCard(model, check) {
  const card = makeCard("retrieval", model, check);
  if (model.state !== "ready") return card;
  const galleries = Object.keys(model.galleries);
  let gallery = galleries[0] || "";
  const field = el("input.field", {
    type: "search",
    value: TRIES[0],
    placeholder: t("p_retrieval"),
    "aria-label": t("t_retrieval")[0],
    enterkeyhint: "search",
    autocomplete: "off",
    maxlength: "1000",
  });
  const chosen = el("div.row");
  const ask = () => {
    if (!gallery) {
      card.empty(t("noPeople"));
      return;
    }
    const body = { text: field.value, top: TOP, gallery };
    card.send(
      SEARCH,
      { ...body, explain: true, model: model.name },
      (answer) => draw(asTold(answer)),
      curlJson(SEARCH, body),
    );
  };
  const index = (images) =>
    card.send(
      INDEX,
      form({ images, model: model.name }),
      async (answer) => {
        gallery = answer.gallery;
        if (!galleries.includes(gallery)) galleries.push(gallery);
        choose();
        ask();
      },
      curlForm(INDEX, { images }),
    );
  function choose() {
    const options = galleries.map((name) => [name, name.startsWith("sent-") ? t("own_gallery") : name]);
    chosen.replaceChildren(
      ...(options.length > 1
        ? [
            el("span.hint", { text: t("gallery") }),
            segments(t("gallery"), options, gallery, (name) => {
              gallery = name;
              ask();
            }),
          ]
        : []),
    );
  }
  const file = el("input.sr", {
    type: "file",
    accept: "image/*",
    multiple: true,
    onchange: () => {
      if (file.files.length) index([...file.files]);
      file.value = "";
    },
  });
  card.ask.append(
    el(
      "form.line",
      {
        role: "search",
        onsubmit: (event) => {
          event.preventDefault();
          ask();
        },
      },
      field,
      el("button.btn.main", { type: "submit", text: t("find") }),
    ),
    chips(t("tries"), TRIES, (text) => {
      field.value = text;
      ask();
    }),
    el("div.row", {}, el("label.chip", {}, t("addPeople"), file), chosen),
  );
  choose();

  function draw(told) {
    const need = new Set();
    let folder = "",
      floor = 0,
      chosen = 0;
    const said = el("p.said"),
      h = el("h3"),
      filters = el("div.tries", { role: "group" }),
      grid = el(told.fits ? "div.people" : "div.people.poor");
    const folders = [...new Set(told.results.map((r) => r.folder))];
    const best = told.results[0]?.score ?? 0,
      high = told.fits && told.threshold !== null ? told.threshold : Math.floor(100 * (best - 0.05)) / 100;
    const shown = () =>
      told.results.filter(
        (r) => r.score >= floor && [...need].every((k) => r.words[k] > 0.002) && (!folder || r.folder === folder),
      );
    function update() {
      const list = shown(),
        now = list[chosen] || list[0];
      h.textContent = now ? t("saidFor", told.results.indexOf(now) + 1) : t("saidHint");
      const most = Math.max(0.02, ...(now?.words || []).map(Math.abs));
      said.replaceChildren(
        ...told.words.flatMap((word, k) => {
          const v = now ? now.words[k] : 0,
            strong = Math.abs(v) / most;
          return [
            el("button.w", {
              type: "button",
              "aria-pressed": String(need.has(k)),
              "aria-label": `${word} ${signed(v, 3)}`,
              title: signed(v, 3),
              text: word,
              "--h": strong < 0.08 ? "0" : `${(1 + 5 * strong).toFixed(1)}px`,
              "--k": v < 0 ? "var(--against)" : "var(--for)",
              onclick: () => {
                need.has(k) ? need.delete(k) : need.add(k);
                chosen = 0;
                update();
                said.querySelectorAll(".w")[k].focus();
              },
            }),
            " ",
          ];
        }),
      );
      const toggle = (text, on, press) =>
        el("button.chip", { type: "button", "aria-pressed": String(on), text, onclick: press });
      const again = (place) => {
        chosen = 0;
        update();
        filters.children[place].focus();
      };
      filters.replaceChildren(
        toggle(told.fits && told.threshold !== null ? t("aboveLine") : t("good", high.toFixed(2)), floor > 0, () => {
          floor = floor ? 0 : high;
          again(0);
        }),
        ...(folders.length > 1
          ? folders.map((name, k) =>
              toggle(name || "/", folder === name, () => {
                folder = folder === name ? "" : name;
                again(k + 1);
              }),
            )
          : []),
        el("span", { text: t("left", list.length, told.results.length), role: "status" }),
        need.size || folder || floor
          ? el("button.chip", {
              type: "button",
              text: t("clear"),
              onclick: () => {
                need.clear();
                folder = "";
                floor = 0;
                again(0);
              },
            })
          : "",
      );
      grid.replaceChildren(
        ...(list.length
          ? list.map((r, k) => {
              const carried = r.words
                .map((v, j) => [v, told.words[j].replace(/[.,;:!?]+$/, "")])
                .filter(([v, w]) => v > 0.004 && !SMALL.has(w.toLowerCase()))
                .sort((a, b) => b[0] - a[0])
                .slice(0, 3);
              return el(
                r.unsure && told.fits ? "button.person.unsure" : "button.person",
                {
                  type: "button",
                  "aria-pressed": String(r === now),
                  onclick: () => {
                    chosen = k;
                    update();
                    grid.children[k].focus();
                  },
                },
                photo(r.src),
                el(
                  "span.rank",
                  {},
                  el("span.hint", { text: String(told.results.indexOf(r) + 1) }),
                  el("span.num", { text: r.score.toFixed(3) }),
                ),
                el("span.track", {}, el("span.fill", { "--w": `${100 * Math.max(0, r.score)}%` })),
                el(
                  "span.carried",
                  {},
                  r.unsure && told.fits ? `${t("unsure")} · ` : "",
                  carried.length
                    ? [`${t("carriedBy")} `, el("b", { text: carried.map(([, w]) => w).join(", ") })]
                    : t("nothing"),
                ),
              );
            })
          : [el("p.empty", { text: t("noneLeft") })]),
      );
    }
    const poor = told.fits
      ? null
      : el(
          "div.notice.warn",
          {},
          el("h3", { text: t("nofit") }),
          el("p", {
            text: told.unknown.length
              ? t("nofitText", told.images, told.unknown.join(", "))
              : t("nofitText2", told.images),
          }),
          told.calibration ? el("p.hint", { text: t("calibrated", told.calibration) }) : "",
        );
    const odd = told.fits && told.unknown.length ? el("p.hint", { text: t("unknownW", told.unknown.join(", ")) }) : "";
    card.answer.replaceChildren(
      el(
        "div.stack",
        {},
        poor || "",
        odd,
        el(
          "div",
          {},
          h,
          said,
          el(
            "p.key.hint",
            {},
            el("span.row", {}, el("span.sw", { "--k": "var(--for)" }), t("forit")),
            el("span.row", {}, el("span.sw", { "--k": "var(--against)" }), t("againstit")),
            t("saidHint"),
          ),
        ),
        filters,
        grid,
      ),
    );
    update();
  }
  ask();
  return card;
}

/** An answer of the server in the form that the card draws. */
function asTold(answer) {
  const results = answer.hits.map((hit, n) => ({
    src: hit.image,
    score: hit.score,
    unsure: hit.unsure,
    folder: hit.folder,
    name: hit.name,
    words: answer.carried?.[n] || [],
  }));
  return {
    words: answer.words || [],
    images: answer.images,
    fits: answer.fits !== false,
    threshold: answer.threshold,
    calibration: answer.calibration,
    unknown: answer.unknown_words,
    results,
  };
}
