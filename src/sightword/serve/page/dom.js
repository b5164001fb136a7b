// Elements, controls and canvases that the cards share. No markup is ever parsed from text.

import { source } from "./server.js";

const SVG = new Set(["svg", "path"]);
export function el(tag, props = {}, ...children) {
  // el("p.hint", {text}) ; no markup is ever parsed
  const [name, ...classes] = tag.split("."),
    node = SVG.has(name) ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  if (classes.length) node.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "text") node.textContent = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key.startsWith("--"))
      node.style.setProperty(key, value); // the CSSOM is allowed where style="" is not
    else if (key in node && typeof value !== "string" && !SVG.has(name)) node[key] = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
export const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const colour = (n) => `var(--c${(n % 10) + 1})`;
export const paint = (n) => css(`--c${(n % 10) + 1}`);
export const signed = (x, digits = 2) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(digits);
export const percent = (x) => `${Math.round(100 * x)} %`;
export const sigmoid = (x) => 1 / (1 + Math.exp(-x));
export const still = matchMedia("(prefers-reduced-motion: reduce)");
export const say = (text) => {
  document.getElementById("say").textContent = text;
};

export function chips(label, texts, press) {
  return el(
    "div.tries",
    { role: "group", "aria-label": label },
    el("span", { text: label }),
    texts.map((text) => el("button.chip", { type: "button", text, title: text, onclick: () => press(text) })),
  );
}
export function segments(label, options, chosen, pick) {
  // a radio group: one tab stop, arrows choose
  const buttons = options.map(([value, text]) =>
    el("button", {
      type: "button",
      role: "radio",
      "aria-checked": String(value === chosen),
      tabindex: value === chosen ? "0" : "-1",
      text,
      onclick: () => choose(value, true),
    }),
  );
  function choose(value, focus) {
    buttons.forEach((b, n) => {
      const on = options[n][0] === value;
      b.setAttribute("aria-checked", String(on));
      b.tabIndex = on ? 0 : -1;
      if (on && focus) b.focus();
    });
    pick(value);
  }
  const step = (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    choose(options[(buttons.indexOf(document.activeElement) + by + options.length) % options.length][0], true);
  };
  return el("div.seg", { role: "radiogroup", "aria-label": label, onkeydown: step }, buttons);
}
export function dropZone(accept, text, sub, take, multiple = false) {
  const all = (files) => files.length && (multiple ? take([...files]) : take(files[0]));
  const input = el("input.sr", {
    type: "file",
    accept,
    multiple,
    onchange: () => {
      all(input.files);
      input.value = "";
    },
  });
  const zone = el(
    "label.drop",
    {},
    el("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, el("path", { d: "M12 16V4M7 9l5-5 5 5M4 15v5h16v-5" })),
    el("span", {}, el("b", { text }), el("br"), sub),
    input,
  );
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    all(event.dataTransfer.files);
  });
  return zone;
}
export function thumbs(label, list, chosen, pick) {
  const buttons = list.map(([id, src, name]) =>
    el(
      "button.thumb",
      {
        type: "button",
        "aria-pressed": String(id === chosen),
        "aria-label": name,
        onclick: () => {
          buttons.forEach((b, n) => b.setAttribute("aria-pressed", String(list[n][0] === id)));
          pick(id);
        },
      },
      photo(src),
    ),
  );
  return el("div.thumbs", { role: "group", "aria-label": label }, buttons);
}
export function sharp(canvas, width, height) {
  // CSS pixels in, device pixels drawn
  const scale = Math.min(devicePixelRatio || 1, 2);
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  return pen;
}
export const zoomed = (canvas, width) => width / (canvas.clientWidth || width); // so that letters on a canvas are as large as they say
export function bar(name, share, text, props = {}, k) {
  return [
    el("span", {}, name),
    el(
      "span.track",
      { "aria-hidden": "true" },
      el("span.fill", { "--w": percent(Math.min(1, Math.max(0, share))).replace(" ", ""), ...(k ? { "--k": k } : {}) }),
      props.tick === undefined ? null : el("span.tick", { "--x": `${100 * props.tick}%` }),
    ),
    el("span.num", { text }),
  ];
}
/** An <img> of a picture of the server or of a data URI. */
export function photo(src, props = {}) {
  const image = el("img", { alt: "", loading: "lazy", decoding: "async", ...props });
  source(src).then(
    (url) => {
      image.src = url;
    },
    () => {
      image.classList.add("gone");
    },
  );
  return image;
}
