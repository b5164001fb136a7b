// Requests to the server. Problems are RFC 9457; the token, if the server has one, stays in this tab.

import { t, query } from "./words.js";

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || String(status));
    Object.assign(this, { status, title: "", ...body });
  }
}

const fragment = new URLSearchParams(location.hash.slice(1));
if (fragment.has("token")) {
  setToken(fragment.get("token"));
  history.replaceState(null, "", location.pathname + location.search);
}
function kept() {
  try {
    return sessionStorage.getItem("token") || "";
  } catch {
    return "";
  }
}
export function setToken(value) {
  try {
    sessionStorage.setItem("token", value);
  } catch {
    /* private mode */
  }
}
const headers = () => (kept() ? { authorization: `Bearer ${kept()}` } : {});

/** The answer to a request, as JSON. body: a FormData, or a value to send as JSON; without one it is a GET. */
export async function call(path, body, { signal } = {}) {
  if (body !== undefined) await forced(signal);
  const init = { signal, headers: headers() };
  if (body instanceof FormData) Object.assign(init, { method: "POST", body });
  else if (body !== undefined) {
    Object.assign(init, { method: "POST", body: JSON.stringify(body) });
    init.headers["content-type"] = "application/json";
  }
  return (await sent(path, init)).json();
}

/** The bytes of an answer. */
export async function bytes(path, { signal } = {}) {
  return (await sent(path, { signal, headers: headers() })).arrayBuffer();
}

async function sent(path, init) {
  let answer;
  try {
    answer = await fetch(path, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: t("offline") });
  }
  if (answer.ok) return answer;
  const isJson = (answer.headers.get("content-type") || "").includes("json");
  throw new Problem(answer.status, isJson ? await answer.json() : { title: answer.statusText });
}

const urls = new Map();
/** A URL that an <img> can show: the path itself, or, if a token is needed, what was fetched with it. */
export async function source(path) {
  if (!kept() || !path.startsWith("/v1/")) return path;
  if (!urls.has(path))
    urls.set(
      path,
      bytes(path).then((found) => URL.createObjectURL(new Blob([found]))),
    );
  return urls.get(path);
}

/** A picture that is loaded, to draw on a canvas. */
export async function loadImage(path) {
  const image = new Image();
  image.src = await source(path);
  try {
    await image.decode();
  } catch {
    throw new Problem(0, { detail: t("failed") });
  }
  return image;
}

// ?state=busy and ?state=failed put every card into that state, to look at it and to test it.
async function forced(signal) {
  if (query.get("state") === "busy") {
    await new Promise((_, fail) => signal?.addEventListener("abort", () => fail(new DOMException("", "AbortError"))));
  }
  if (query.get("state") === "failed") {
    throw new Problem(422, {
      title: "Unprocessable",
      detail: "photo.jpg is cut off or damaged: JPEG and PNG are read",
    });
  }
}
